"""Labelled images: folders and zips, the cache of decoded images, class splits, and the embedded glyphs.

Only evaluation, pre-training, reports and the command line import this package. Zoo, inversion, learners, methods and
training cannot: that is the data-free claim as an import rule. What users need of it is in `dfml` itself; nothing is
imported here, so that `dfml.data.splits` can be read without torch.
"""

"""Labelled images: folders and zips, their decoding cache, official class splits, and the embedded glyphs.

Used by evaluation, pre-training and the command line only. Inversion, tasks, learners, methods and training never
import this room: that is the data-free claim as an import rule.
"""

from dfml.data.dataset import ImageDataset
from dfml.data.glyphs import glyphs
from dfml.data.image_folder import open_images
from dfml.data.splits import BENCHMARKS, official_split
from dfml.data.support import read_image, read_support

__all__ = ["BENCHMARKS", "ImageDataset", "glyphs", "official_split", "open_images", "read_image", "read_support"]

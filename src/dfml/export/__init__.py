"""Classifiers as files that other programs run: ONNX and `.pt2`, a page for the browser, and how they agree.

Nothing here knows a kind of learner: `FewShotClassifier.export` hands over a module from images to logits. What users
call is that method, and `dfml export` on the command line.
"""

"""Preprocessing from the pixels of a data set."""

from __future__ import annotations

import torch

from dfml.data.dataset import ImageDataset
from dfml.zoo import Preprocessing

_DIGITS = 6
_MIN_STD = 1 / 255  # images of one single brightness would be divided by zero


def pixel_statistics(dataset: ImageDataset) -> Preprocessing:
    """Mean and standard deviation of every colour over all pixels, rounded to six digits, and the images' size."""
    levels = torch.arange(256, dtype=torch.double) / 255
    means, stds = [], []
    for colour in range(3):
        # A histogram of the 256 levels needs no float copy of the images and does not depend on their order.
        share = torch.zeros(256, dtype=torch.double)
        for images in torch.split(dataset.images[:, colour], 4096):
            share += torch.bincount(images.flatten(), minlength=256)
        share /= share.sum()
        mean = float(share @ levels)
        means.append(round(mean, _DIGITS))
        stds.append(round(max(float(share @ (levels - mean) ** 2) ** 0.5, _MIN_STD), _DIGITS))
    return Preprocessing(dataset.images.shape[-1], (means[0], means[1], means[2]), (stds[0], stds[1], stds[2]))

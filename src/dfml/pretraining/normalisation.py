"""The preprocessing that a classifier of a data set is trained with."""

from __future__ import annotations

import torch

from dfml.data.dataset import ImageDataset
from dfml.zoo import Preprocessing

_DIGITS = 6
_LEAST_STD = 1 / 255  # images of one brightness would be divided by zero


def pixel_statistics(dataset: ImageDataset) -> Preprocessing:
    """Mean and standard deviation of every colour over all pixels, exact up to the sixth digit."""
    levels = torch.arange(256, dtype=torch.double) / 255
    means, stds = [], []
    for colour in range(3):
        # Counting the 256 levels needs neither a float copy of the images nor their order.
        share = torch.zeros(256, dtype=torch.double)
        for images in torch.split(dataset.images[:, colour], 4096):
            share += torch.bincount(images.flatten(), minlength=256)
        share /= share.sum()
        mean = float(share @ levels)
        means.append(round(mean, _DIGITS))
        stds.append(round(max(float(share @ (levels - mean) ** 2) ** 0.5, _LEAST_STD), _DIGITS))
    return Preprocessing(dataset.images.shape[-1], (means[0], means[1], means[2]), (stds[0], stds[1], stds[2]))

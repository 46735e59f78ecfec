from __future__ import annotations

import torch

from dfml.inversion.loss import InversionWeights
from dfml.inversion.pixel_gradient import InversionGradient
from dfml.inversion.views import View
from dfml.zoo import Preprocessing, Zoo
from tests.factories import PREPROCESSING, SIZE, member


def test_stacked_members_give_the_gradients_of_the_loop() -> None:
    other = Preprocessing(SIZE, (0.1, 0.2, 0.3), (0.5, 0.4, 0.3))
    zoo = Zoo.of([member(0), member(1, ("d", "e")), member(2, preprocessing=other), member(3), member(4, ("f", "g"))])
    for classifier in zoo:
        classifier.double()
    weights = InversionWeights(batch_norm=0.3, total_variation=0.02, l2=0.01)
    draw = torch.Generator().manual_seed(0)
    members = [4, 0, 2, 1]  # any order, not all, of two architectures
    pixels = [torch.randn(len(zoo[m].labels), 3, 3, SIZE, SIZE, generator=draw, dtype=torch.float64) for m in members]
    views = [View(1, -2), View(), View(2, 1, flip=True), View(-1, -1, wrap=False)]
    loop, stacked = (
        InversionGradient(zoo, PREPROCESSING, weights, stacked=flag)(members, pixels, views) for flag in (False, True)
    )
    for one, other_one in zip(loop, stacked, strict=True):
        torch.testing.assert_close(one.pixels, other_one.pixels)
        torch.testing.assert_close(one.loss.total, other_one.loss.total)
        torch.testing.assert_close(one.loss.label, other_one.loss.label)
        torch.testing.assert_close(one.loss.batch_norm, other_one.loss.batch_norm)

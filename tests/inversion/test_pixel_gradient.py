from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from dfml.inversion.image_cost import bytes_per_image
from dfml.inversion.loss import InversionWeights
from dfml.inversion.pixel_gradient import InversionGradient, MemberGradient
from dfml.inversion.views import View
from dfml.zoo import Preprocessing, Zoo
from tests.factories import PREPROCESSING, SIZE, member


def gradients() -> tuple[Zoo, Callable[..., list[MemberGradient]]]:
    """A zoo in float64, and a function that computes the gradients of some of its members."""
    other = Preprocessing(SIZE, (0.1, 0.2, 0.3), (0.5, 0.4, 0.3))
    zoo = Zoo.of([member(0), member(1, ("d", "e")), member(2, preprocessing=other), member(3), member(4, ("f", "g"))])
    for classifier in zoo.classifiers():
        classifier.double()
    weights = InversionWeights(batch_norm=0.3, total_variation=0.02, l2=0.01)
    draw = torch.Generator().manual_seed(0)
    members = [4, 0, 2, 1]  # any order, not all, of two architectures
    pixels = [torch.randn(len(zoo[m].labels), 3, 3, SIZE, SIZE, generator=draw, dtype=torch.float64) for m in members]
    views = [View(1, -2), View(), View(2, 1, flip=True), View(-1, -1, wrap=False)]

    def compute(*, stacked: bool, memory: int = 2**31) -> list[MemberGradient]:
        return InversionGradient(zoo, PREPROCESSING, weights, stacked=stacked, memory=memory)(members, pixels, views)

    return zoo, compute


def test_stacked_members_give_the_gradients_of_the_loop() -> None:
    _, compute = gradients()
    assert_same(compute(stacked=False), compute(stacked=True))


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("images", [1, 4, 9])
def test_little_memory_gives_the_same_gradients(images: int, *, stacked: bool) -> None:
    """With memory for 1 or 4 of a member's nine images, and for one member of a stack of two."""
    zoo, compute = gradients()
    sizes: list[int] = []

    def record(_: torch.nn.Module, inputs: tuple[Tensor]) -> None:
        if torch.is_grad_enabled() and inputs[0].requires_grad:
            sizes.append(len(inputs[0]))

    expected = compute(stacked=False)
    for classifier in zoo.classifiers():
        classifier.network.register_forward_pre_hook(record)
    memory = int(images * 1.5 * bytes_per_image(zoo.classifier(0), SIZE, torch.float64)) + 10
    assert_same(expected, compute(stacked=stacked, memory=memory))
    assert max(sizes, default=9) <= images


def assert_same(first: list[MemberGradient], second: list[MemberGradient]) -> None:
    for one, other in zip(first, second, strict=True):
        torch.testing.assert_close(one.pixels, other.pixels)
        torch.testing.assert_close(one.loss.total, other.loss.total)
        torch.testing.assert_close(one.loss.label, other.loss.label)
        torch.testing.assert_close(one.loss.batch_norm, other.loss.batch_norm)

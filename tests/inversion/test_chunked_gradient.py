"""The gradient of a batch that is passed in chunks equals that of the whole batch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dfml.inversion.chunked_gradient import chunked_inversion_loss, images_per_pass, inversion_gradient
from dfml.inversion.loss import InversionLoss, InversionWeights, inversion_loss
from dfml.inversion.views import sample_view
from dfml.zoo.pretrained import Preprocessing, PretrainedClassifier

PREPROCESSING = Preprocessing(8, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25))
MEANS = InversionWeights(form="means", batch_norm=1.0, total_variation=0.1, l2=0.01)
NORMS = InversionWeights(batch_norm=1.0, momentum=0.5, disagreement=1.0, total_variation=0.01, l2=0.01)
IMAGE_VIEWS = MEANS.model_copy(update={"views": "image", "zoom": 0.3, "colour": 0.2, "flip": True})


def member() -> PretrainedClassifier:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 4, 3),
        nn.BatchNorm2d(4),
        nn.Flatten(),
        nn.Linear(64, 3),
    ).double()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.1, 2.0)
    return PretrainedClassifier(network, ("a", "b", "c"), PREPROCESSING)


def student(images: Tensor) -> Tensor:
    return 3.0 * images.square().mean(dim=(2, 3))


@pytest.mark.numeric
@pytest.mark.parametrize("weights", [MEANS, NORMS, IMAGE_VIEWS], ids=["means", "norms", "image-views"])
@settings(max_examples=10, deadline=None)
@given(count=st.integers(2, 9), chunk=st.integers(1, 9), seed=st.integers(0, 1000))
def test_chunks_give_the_gradient_of_the_whole_batch(
    weights: InversionWeights, count: int, chunk: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(count, 3, 8, 8, generator=generator, dtype=torch.float64)
    labels = torch.randint(3, (count,), generator=generator)
    view = sample_view(weights, generator, count, 8)
    previous = [torch.rand(size, generator=generator, dtype=torch.float64) for size in (6, 6, 4, 4)]

    def gradient(chunk: int | None) -> tuple[float, Tensor, tuple[Tensor, ...]]:
        loss, gradient = inversion_gradient(
            member(),
            pixels,
            labels,
            PREPROCESSING,
            weights,
            view,
            student=student,
            previous_statistics=previous if weights.momentum else (),
            chunk=chunk,
        )
        return loss.total.item(), gradient, loss.ema_statistics

    (whole, expected, statistics), (total, found, other) = gradient(None), gradient(chunk)
    assert total == pytest.approx(whole, rel=1e-9)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(other, statistics, rtol=1e-8, atol=1e-12)


@pytest.mark.numeric
@pytest.mark.parametrize("chunk", [1, 2, 5])
def test_the_gradient_reaches_what_made_the_pixels(chunk: int) -> None:
    """The loss in chunks, scaled and added to another term, gives the gradient of the plain loss."""
    weight = torch.randn(3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()
    images = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    inputs = (torch.tensor([0, 1, 2, 0, 1]), PREPROCESSING, MEANS, sample_view(MEANS, torch.Generator(), 5, 8))

    def gradient(compute: Callable[..., InversionLoss]) -> tuple[Tensor, Tensor]:
        pixels = torch.einsum("ij,bjhw->bihw", weight, images)
        total = compute(member(), pixels, *inputs, student=student).total
        (found,) = torch.autograd.grad(3.0 * total + pixels.square().sum(), weight)
        return total.detach(), found

    expected, found = gradient(inversion_loss), gradient(partial(chunked_inversion_loss, chunk=chunk))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_the_number_of_images_per_pass_follows_the_memory() -> None:
    """Twice the memory takes twice the images, and an image of four times the pixels about four times the memory."""
    small, large = torch.zeros(4, 3, 8, 8).double(), torch.zeros(4, 3, 8, 8).double()
    at_once = images_per_pass(member(), small, 2**20)
    assert images_per_pass(member(), large, 2**21) in (2 * at_once, 2 * at_once + 1)
    # Inputs and two feature maps before and after batch-norm take at least this many bytes per image.
    least = 8 * (3 * 64 + 2 * 6 * 36)
    assert 1 <= at_once <= 2**20 // least
    assert images_per_pass(member(), small, 1) == 1

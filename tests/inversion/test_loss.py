from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from dfml.inversion import terms
from dfml.inversion.loss import InversionWeights, inversion_loss
from dfml.inversion.term_values import batch_norm_distance, total_variation
from dfml.inversion.views import View
from dfml.zoo import Preprocessing, PretrainedClassifier
from dfml.zoo.statistics import batch_norm_layers
from tests.factories import PREPROCESSING, SIZE, images, member


def reference_loss(
    classifier: PretrainedClassifier, pixels: Tensor, labels: Tensor, weights: InversionWeights
) -> Tensor:
    """Inversion loss of PURER (Hu et al., CVPR 2023): hooks on batch-norm inputs, norms term by term, no shift."""
    mean, std = (torch.tensor(v, dtype=pixels.dtype).view(3, 1, 1) for v in (PREPROCESSING.mean, PREPROCESSING.std))
    own_mean, own_std = (
        torch.tensor(v, dtype=pixels.dtype).view(3, 1, 1)
        for v in (classifier.preprocessing.mean, classifier.preprocessing.std)
    )
    recorded: list[tuple[torch.nn.Module, Tensor]] = []
    layers = [m for m in classifier.network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    handles = [m.register_forward_hook(lambda layer, inputs, _: recorded.append((layer, inputs[0]))) for m in layers]
    logits = classifier.network((pixels * std + mean - own_mean) / own_std)
    for handle in handles:
        handle.remove()
    loss = torch.nn.functional.cross_entropy(logits, labels)
    for position, (layer, x) in enumerate(recorded):
        factor = weights.first_layer if position == 0 else 1.0
        loss = loss + weights.batch_norm * factor * (
            (x.var(dim=(0, 2, 3), unbiased=False) - layer.running_var).norm()
            + (x.mean(dim=(0, 2, 3)) - layer.running_mean).norm()
        )
    size = pixels.shape[-1]
    for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
        here = pixels[:, :, : size - down, max(0, -right) : size - max(0, right)]
        there = pixels[:, :, down:, max(0, right) : size + min(0, right)]
        loss = loss + weights.total_variation * ((there - here) ** 2).sum().sqrt()
    return loss + weights.l2 * (pixels**2).sum().sqrt()


def test_it_equals_the_inversion_loss_of_purer_and_its_gradient() -> None:
    other = Preprocessing(SIZE, (0.1, 0.2, 0.3), (0.5, 0.4, 0.3))  # the member re-normalises with its own values
    classifier = member(0, preprocessing=other).double()
    pixels = PREPROCESSING.normalise(images(6, dtype=torch.float64)).requires_grad_()
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    weights = InversionWeights(batch_norm=0.3, first_layer=7.0, total_variation=0.02, l2=0.01, jitter=0)
    loss = inversion_loss(classifier, pixels, labels, PREPROCESSING, weights, View())
    expected = reference_loss(classifier, pixels, labels, weights)
    torch.testing.assert_close(loss.total, expected)
    torch.testing.assert_close(torch.autograd.grad(loss.total, pixels), torch.autograd.grad(expected, pixels))


def test_a_view_is_applied_to_the_whole_batch_before_the_loss_is_computed() -> None:
    classifier, pixels = member(0), PREPROCESSING.normalise(images(4))
    labels, weights = torch.tensor([0, 1, 2, 0]), InversionWeights()
    viewed = inversion_loss(classifier, pixels, labels, PREPROCESSING, weights, View(1, -2, flip=True)).total
    rolled = pixels.roll((1, -2), (2, 3)).flip(3)
    assert torch.equal(viewed, inversion_loss(classifier, rolled, labels, PREPROCESSING, weights, View()).total)


def test_a_term_of_weight_zero_is_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> Tensor:
        raise AssertionError("computed although its weight is 0")

    monkeypatch.setattr(PretrainedClassifier, "logits_and_statistics", refuse)
    monkeypatch.setattr(terms, "total_variation", refuse)
    weights = InversionWeights(batch_norm=0.0, momentum=0.9, disagreement=0.0, total_variation=0.0, l2=0.0)
    pixels, labels = PREPROCESSING.normalise(images(3)), torch.tensor([0, 1, 2])
    loss = inversion_loss(member(0), pixels, labels, PREPROCESSING, weights, View(), student=refuse)
    assert torch.equal(loss.total, loss.label)
    assert loss.ema_statistics == ()


def test_statistics_are_averaged_with_those_of_earlier_batches() -> None:
    """Momentum of FastDFKD (Fang et al., AAAI 2022), written out for two batches."""
    classifier = member(0).double()
    weights = InversionWeights(batch_norm=1.0, momentum=0.75, total_variation=0.0, l2=0.0)
    labels = torch.tensor([0, 1, 2, 0])

    def plain(batch: Tensor) -> list[Tensor]:
        _, statistics = classifier.logits_and_statistics(batch)
        return [part for layer in statistics for part in (layer.mean, layer.variance)]

    first, second = (images(4, seed=seed, dtype=torch.float64) for seed in (1, 2))
    stored = [
        part for layer in batch_norm_layers(classifier.network) for part in (layer.running_mean, layer.running_var)
    ]
    pixels = PREPROCESSING.normalise(second).requires_grad_()
    before = inversion_loss(classifier, PREPROCESSING.normalise(first), labels, PREPROCESSING, weights, View())
    after = inversion_loss(
        classifier, pixels, labels, PREPROCESSING, weights, View(), previous_statistics=before.ema_statistics
    )
    # The first batch is not averaged.
    torch.testing.assert_close(list(before.ema_statistics), plain(first))
    mixed = [
        0.75 * old + 0.25 * new for old, new in zip(plain(first), plain(PREPROCESSING.denormalise(pixels)), strict=True)
    ]
    torch.testing.assert_close(list(after.ema_statistics), [part.detach() for part in mixed])
    assert not any(part.requires_grad for part in after.ema_statistics)
    distance = sum((part - kept).norm() for part, kept in zip(mixed, stored, strict=True))
    torch.testing.assert_close(after.batch_norm, distance.detach())
    expected = functional.cross_entropy(classifier.logits(PREPROCESSING.denormalise(pixels)), labels) + distance
    torch.testing.assert_close(torch.autograd.grad(after.total, pixels), torch.autograd.grad(expected, pixels))


def test_a_member_of_another_size_receives_resized_images() -> None:
    larger = member(0, preprocessing=Preprocessing(32, PREPROCESSING.mean, PREPROCESSING.std))
    pixels = PREPROCESSING.normalise(images(3)).requires_grad_()
    loss = inversion_loss(larger, pixels, torch.tensor([0, 1, 2]), PREPROCESSING, InversionWeights(), View())
    (gradient,) = torch.autograd.grad(loss.total, pixels)
    assert torch.all(gradient.abs().sum(dim=(1, 2, 3)) > 0)


def test_statistics_of_the_training_images_have_distance_zero() -> None:
    classifier = member(0)
    for position in range(4):
        _, statistics = classifier.logits_and_statistics(images(8))
        statistics[position].running_mean.copy_(statistics[position].mean)
        statistics[position].running_variance.copy_(statistics[position].variance)
    _, statistics = classifier.logits_and_statistics(images(8))
    torch.testing.assert_close(batch_norm_distance(statistics), torch.tensor(0.0), atol=1e-4, rtol=0.0)


def test_total_variation_of_a_constant_is_zero_and_of_one_step_is_counted_in_all_directions() -> None:
    flat = torch.ones(1, 1, 3, 3)
    assert total_variation(flat) == 0
    flat[0, 0, 1, 1] = 2.0  # two steps of 1 in each of the four directions
    torch.testing.assert_close(total_variation(flat), torch.tensor(4 * 2**0.5))

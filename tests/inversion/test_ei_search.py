"""How many steps the inversion of a member takes, and that it works for architectures other than Conv4."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch

from dfml.backbones import size_arguments
from dfml.images import to_bytes, to_float
from dfml.inversion.ei import PixelInversion, PixelInversionConfig
from dfml.inversion.engine import Target, balanced_labels
from dfml.inversion.loss import InversionWeights
from dfml.pretraining.classifier_training import train_classifier
from dfml.pretraining.normalisation import pixel_statistics
from dfml.pretraining.recipes import STRONG
from dfml.zoo import PretrainedClassifier
from tests.factories import coloured_dataset, member

LABELS = torch.tensor([0, 1, 2])


def targets(count: int = 1) -> list[Target]:
    return [Target(f"member-{index}", member(index), LABELS) for index in range(count)]


def test_a_member_that_recognises_its_images_at_once_is_not_searched_for_long() -> None:
    classifier = member(0)
    bias = classifier.network.get_classifier().bias  # type: ignore[operator]
    bias.data[1] += 1000.0
    run = PixelInversion(PixelInversionConfig(steps=4)).start([Target("easy", classifier, torch.tensor([1, 1]))])
    run.take_steps(1000)
    assert run.done == 1 + 4  # one step of search sees that all images are recognised
    assert run.finished


def test_a_member_whose_loss_does_not_fall_ends_the_search() -> None:
    """A learning rate of almost nothing: after twice 20 steps the loss is not lower."""
    config = PixelInversionConfig(steps=4, lr=1e-9)
    run = PixelInversion(config).start([Target("stuck", member(0), torch.tensor([0, 1, 2]))])
    run.take_steps(1000)
    assert run.done <= 3 * 20 + 4


def test_the_search_ends_although_the_loss_is_negative() -> None:
    """A reward for what the student does not know can make the total negative; that it rises still ends the search."""
    weights = InversionWeights(form="means", disagreement=1000.0, divergence="js")
    config = PixelInversionConfig(steps=2, lr=1e-9, weights=weights)
    engine, labels = PixelInversion(config), torch.tensor([0, 1, 2])
    rows = torch.arange(3)
    run = engine.start([Target("stuck", member(0), labels, rows)], student=lambda images, _: images.mean((2, 3)) * 9.0)
    losses = run.take_steps(1000)
    assert float(losses[0][0].total) < 0.0
    assert run.done <= 3 * 20 + 2


def test_the_search_has_a_bound() -> None:
    run = PixelInversion(PixelInversionConfig(steps=2, search_steps=3, lr=1e-9)).start(targets())
    run.take_steps(1000)
    assert run.done == 3 + 2


def test_a_finished_target_keeps_its_images_while_another_goes_on() -> None:
    easy = member(0)
    easy.network.get_classifier().bias.data[1] += 1000.0  # type: ignore[operator]
    both = [Target("easy", easy, torch.tensor([1, 1])), Target("hard", member(1), LABELS)]
    run = PixelInversion(PixelInversionConfig(steps=3, search_steps=20, lr=1e-9)).start(both)
    run.take_steps(4)
    before = run.images()[0].clone()
    run.take_steps(1000)
    assert run.done > 4
    assert torch.equal(run.images()[0], before)


def test_what_is_optimised_stays_in_range() -> None:
    config = PixelInversionConfig(steps=3, search_steps=0, lr=2.0)
    run = PixelInversion(config).start(targets())
    run.take_steps(3)
    pixels = run._pixels[0]  # type: ignore[attr-defined]
    images = member(0).preprocessing.denormalise(pixels.detach())
    assert float(images.min()) > -1e-5
    assert float(images.max()) < 1.0 + 1e-5


def test_a_step_of_several_targets_reads_the_device_once_during_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU every `item` or `tolist` waits for all that was queued before it; Adam counts its steps on the CPU."""
    reads: list[str] = []
    for name in ("item", "tolist", "__bool__", "__float__", "__int__"):
        plain = getattr(torch.Tensor, name)

        def read(tensor: torch.Tensor, name: str = name, plain: Callable[..., Any] = plain) -> Any:
            if "dfml" in sys._getframe(1).f_globals["__name__"]:
                reads.append(name)
            return plain(tensor)

        monkeypatch.setattr(torch.Tensor, name, read)
    weights = InversionWeights(views="image", form="means")
    config = PixelInversionConfig(start="noise", steps=2, search_steps=3, lr=1e-9, weights=weights)
    run = PixelInversion(config).start(targets(3))
    reads.clear()
    run.take_steps(3)
    assert reads == ["tolist"] * 3
    run.take_steps(2)
    assert reads == ["tolist"] * 3


def test_little_memory_gives_the_same_images() -> None:
    engines = [PixelInversion(PixelInversionConfig(steps=3, search_steps=2)) for _ in range(2)]
    engines[1].memory_limit = 1  # one image at a time
    results = []
    for engine in engines:
        run = engine.start(targets())
        run.take_steps(5)
        results.append(run.images()[0])
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=2e-3)


@pytest.mark.numeric
@pytest.mark.parametrize("architecture", ["conv4", "resnet10t", "vit_tiny_patch16_224"])
def test_the_default_recovers_images_that_the_member_recognises(architecture: str) -> None:
    """Networks of three families, with and without batch-norm; their images as they would be stored."""
    dataset = coloured_dataset()
    preprocessing = pixel_statistics(dataset)
    arguments = size_arguments(architecture, preprocessing.size)
    recipe = STRONG.override(epochs=6, batch_size=16)
    trained = train_classifier(dataset, architecture, recipe, preprocessing=preprocessing, arguments=arguments)
    assert trained.held_out_accuracy > 0.8
    classifier = PretrainedClassifier(trained.network, dataset.classes, preprocessing)
    labels = balanced_labels(len(dataset.classes), 4)
    engine = PixelInversion(PixelInversionConfig(search_steps=60))
    run = engine.start([Target("member", classifier, labels)])
    run.take_steps(engine.steps)
    logits = classifier.predict_logits(to_float(to_bytes(run.images()[0])))
    agreement = float((logits.argmax(dim=1) == labels).float().mean())
    assert agreement > 0.7  # at least 0.95 over architectures and seeds; chance is 1/6

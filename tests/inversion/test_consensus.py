"""Engine `consensus`: one set of pixels per class, for all members that have the class."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import dfml
from dfml.errors import ConfigError
from dfml.inversion.consensus import ConsensusConfig, ConsensusInversion
from dfml.inversion.ei import PixelInversionConfig
from dfml.inversion.engine import InversionRun, Target, recover
from dfml.inversion.image_source import ImageSource
from dfml.inversion.loss import InversionWeights
from dfml.inversion.registry import InversionConfig, create_engine
from dfml.settings import build_config
from dfml.zoo import Preprocessing, Zoo
from tests.factories import PREPROCESSING, member, zoo

PER_CLASS = 3
# Members of random weights have nothing in common that image priors could help to find.
PLAIN = InversionWeights(form="means", batch_norm=0.1, total_variation=0.0, l2=0.0, jitter=0)


def targets(members: Zoo) -> list[Target]:
    """All members of a zoo, each with the images of its classes in one set of images by class."""
    found = []
    for index in range(len(members)):
        labels = torch.arange(len(members[index].labels)).repeat_interleave(PER_CLASS)
        classes = torch.tensor(members.classes.of_member[index])[labels]
        images = classes * PER_CLASS + torch.arange(PER_CLASS).repeat(len(labels) // PER_CLASS)
        found.append(Target(members.name(index), members[index], labels, images=images))
    return found


def start(members: Zoo, seed: int = 0, memory: float | None = None, **settings: Any) -> InversionRun:
    engine = ConsensusInversion(ConsensusConfig(**settings), PREPROCESSING, seed=seed)
    if memory:
        engine.memory_limit = int(memory)
    return engine.start(targets(members), round_index=2)


def of_three() -> Zoo:
    """Three members with the same three classes, and a fourth with one of these and two of its own."""
    return Zoo.of([member(0), member(1), member(2), member(3, ("c", "d", "e"))])


@pytest.mark.numeric
def test_all_members_that_have_a_class_recognise_its_images() -> None:
    members = of_three()
    run = start(members, search_steps=60, steps=40, members_per_class=4, weights=PLAIN)
    run.take_steps(100)
    for target, images in zip(run.targets, run.images(), strict=True):
        assert 0.0 <= images.min() < images.max() <= 1.0
        agreed = (target.network.logits(images).argmax(dim=1) == target.labels).float().mean()
        assert agreed > 0.8  # 1.0 over seeds
    first, second, _, fourth = run.images()
    assert torch.equal(first, second)
    assert torch.equal(first[-PER_CLASS:], fourth[:PER_CLASS])


@pytest.mark.numeric
def test_one_member_at_a_time_is_not_recognised_by_the_others() -> None:
    """What sharing pixels brings: by engine `ei`, with as many steps, the other members recognise fewer images."""
    members = of_three()
    labels = torch.arange(3).repeat_interleave(PER_CLASS)
    config = InversionConfig(engine="ei", ei=PixelInversionConfig(search_steps=60, steps=40, weights=PLAIN))
    (alone,) = recover(create_engine(config, PREPROCESSING), [Target("m", members[0], labels)])
    run = start(members, search_steps=60, steps=40, weights=PLAIN)
    run.take_steps(100)
    together = run.images()[0]

    def others(images: Tensor) -> float:
        agreed = [(members[index].logits(images).argmax(dim=1) == labels).float().mean() for index in (1, 2)]
        return torch.stack(agreed).mean().item()

    assert others(together) > others(alone) + 0.25  # 0.6 or more over seeds


def test_a_step_shows_every_image_to_enough_members_and_the_rest_keep_their_loss() -> None:
    members = of_three()
    run = start(members, search_steps=0, steps=8)
    before = run.step()
    assert len({loss.total.item() for loss in before}) == 4  # the first step shows the images to all members
    drawn = []
    for _ in range(7):
        losses = run.step()
        drawn.append([index for index, loss in enumerate(losses) if loss is not before[index]])
        before = losses
    # Member 3 alone has the classes d and e; its images of c need no other member, those of a and b need one of three.
    assert all(3 in chosen and len(chosen) == 2 for chosen in drawn)
    assert len({index for chosen in drawn for index in chosen}) > 2
    everyone = start(members, search_steps=0, steps=8, members_per_class=4)
    first, second = everyone.step(), everyone.step()
    assert all(new is not old for old, new in zip(first, second, strict=True))


def test_a_member_of_its_own_classes_is_inverted_as_by_pixel_inversion() -> None:
    settings: dict[str, Any] = {"start": "dead_leaves", "search_steps": 3, "steps": 4}
    weights = InversionWeights(form="means", batch_norm=3.0, jitter=0)
    members = Zoo.of([member(0)])
    run = start(members, weights=weights, **settings)
    run.take_steps(7)
    # The same member with the same initial pixels: their draws have other purposes, so they are taken over.
    labels = run.targets[0].labels
    config = InversionConfig(engine="ei", ei=PixelInversionConfig(weights=weights, **settings))
    other = create_engine(config, PREPROCESSING).start([Target("member-000", members[0], labels)], round_index=2)
    fresh = start(members, weights=weights, **settings)
    with torch.no_grad():
        other._pixels[0].copy_(fresh._pixels)  # type: ignore[attr-defined]
    other.take_steps(7)
    torch.testing.assert_close(run.images()[0], other.images()[0], rtol=1e-4, atol=1e-5)


def test_images_repeat_by_seed_and_round_and_do_not_depend_on_the_memory() -> None:
    def images(**changes: Any) -> Tensor:
        run = start(zoo(3), search_steps=2, steps=3, **changes)
        run.take_steps(5)
        return torch.cat(run.images())

    assert torch.equal(images(), images())
    assert not torch.equal(images(), images(seed=1))
    torch.testing.assert_close(images(), images(memory=1), rtol=1e-3, atol=1e-4)


def test_a_member_that_is_not_finite_is_excluded_and_spoils_no_image_of_the_others() -> None:
    bad = member(1)
    bad.network.get_classifier().weight.fill_(math.nan)  # type: ignore[operator]
    members = Zoo.of([member(0), bad, member(2)])
    config = build_config(InversionConfig, {"engine": "consensus", "consensus": {"search_steps": 0, "steps": 3}})
    source = ImageSource(config, members, PREPROCESSING, patience=2)
    found = source.recover([1, 0, 2], 2, 1)
    assert list(found) == [0]  # member 2 has the same classes, and so the same images
    assert bool(found[0].images.isfinite().all())
    assert found[0].labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert "not finite" in source.failures.excluded["member-001"]


def test_members_of_other_sizes_see_the_images_resized() -> None:
    larger = Preprocessing(24, (0.1, 0.2, 0.3), (0.5, 0.4, 0.3))
    members = Zoo.of([member(0), member(1, preprocessing=larger)])
    run = start(members, search_steps=0, steps=2)
    run.take_steps(2)
    assert [tuple(images.shape) for images in run.images()] == [(9, 3, 16, 16)] * 2
    inverted = dfml.invert(members, engine="consensus", per_class=2, config=_quick())
    assert [each.name for each in inverted] == ["member-000", "member-001"]
    for left, right in zip(inverted[0].images, inverted[1].images, strict=True):
        assert torch.equal(left, right)


def test_a_whole_zoo_is_recovered_once_per_class() -> None:
    members = zoo(3)  # adjacent members share one class: seven classes
    inverted = dfml.invert(members, engine="consensus", per_class=2, config=_quick())
    rows = {name: images for each in inverted for name, images in zip(each.classes, each.images, strict=True)}
    assert sorted(rows) == sorted(members.classes.names)
    assert len(torch.cat(list(rows.values())).unique(dim=0)) == 14
    assert [each.count for each in inverted] == [6, 6, 6]
    assert torch.equal(inverted[0].images[2], inverted[1].images[0])
    assert all(0.0 <= each.fidelity.agreement <= 1.0 for each in inverted)
    assert dfml.invert(members, engine="consensus", members=[], config=_quick()) == []


def test_momentum_is_refused() -> None:
    with pytest.raises(ConfigError, match="consensus keeps no statistics of earlier rounds' images"):
        build_config(ConsensusConfig, {"weights": {"momentum": 0.5}})


def _quick() -> InversionConfig:
    return build_config(InversionConfig, {"engine": "consensus", "consensus": {"search_steps": 1, "steps": 1}})


def test_a_member_takes_part_in_no_more_steps_than_its_limit() -> None:
    members = Zoo.of([member(0, ("a", "b")), member(1, ("c", "d"))])
    first, second = targets(members)
    engine = ConsensusInversion(ConsensusConfig(search_steps=0, steps=6), PREPROCESSING)
    run = engine.start([replace(first, steps=2), second])
    losses = run.take_steps(6)
    assert len(losses) == 6
    assert losses[0][0] is not losses[1][0]
    assert all(each[0] is losses[1][0] for each in losses[2:])
    assert len({each[1].total.item() for each in losses}) == 6
    both = engine.start([replace(target, steps=2) for target in (first, second)])
    assert len(both.take_steps(6)) == 2
    assert both.finished

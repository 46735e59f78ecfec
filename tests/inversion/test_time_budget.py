"""One member of a training takes no more of a round than the budget allows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dfml.inversion.image_cost import image_operations
from dfml.inversion.image_source import ImageSource
from dfml.inversion.time_budget import RoundSize, TimeBudget, fit_round
from dfml.zoo import Preprocessing, PretrainedClassifier, Zoo
from tests.factories import PREPROCESSING, member
from tests.inversion.small import small_config, small_engine, target
from tests.inversion.test_image_source import OtherDifferentiable

STEPS = 30
PER_CLASS = 4


def names(outputs: int) -> tuple[str, ...]:
    return tuple(f"class {index} of many" for index in range(outputs))


def sized(architecture: str, size: int, outputs: int, **arguments: Any) -> PretrainedClassifier:
    space = Preprocessing(size, PREPROCESSING.mean, PREPROCESSING.std)
    return member(0, names(outputs), space, architecture=architecture, arguments=arguments)


def conv4(outputs: int, *, size: int = 32, architecture: str = "conv4_64") -> PretrainedClassifier:
    return sized(architecture, size, outputs, img_size=size)


def resnet(outputs: int, size: int = 32) -> PretrainedClassifier:
    return sized("fewshot_resnet10", size, outputs)


def cost(classifier: PretrainedClassifier, size: RoundSize) -> float:
    images = min(size.classes, len(classifier.labels)) * size.per_class
    return float(images * (size.steps or STEPS) * image_operations(classifier))


@pytest.mark.parametrize("outputs", [5, 20, 200])
@pytest.mark.parametrize("architecture", ["conv4", "conv4_64"])
def test_the_default_leaves_a_conv4_of_32_pixels_as_it_is(architecture: str, outputs: int) -> None:
    budget = TimeBudget(Zoo.of([conv4(outputs, architecture=architecture)]), small_config("ei").budget, 20, STEPS)
    assert budget.round_size(0, 20) == RoundSize(20, 20)
    assert budget.pop_messages() == []


@pytest.mark.parametrize("size", [16, 32])
@pytest.mark.parametrize("budget", [1.0, 0.3, 0.05])
def test_a_round_costs_what_the_budget_allows(budget: float, size: int) -> None:
    """Up to rounding to whole images, and at least half of it."""
    expensive = resnet(20, size)
    found = TimeBudget(Zoo.of([expensive]), budget, 20, STEPS).round_size(0, PER_CLASS)
    allowed = budget * cost(conv4(1000), RoundSize(20, PER_CLASS))
    assert cost(expensive, found) <= allowed
    assert cost(expensive, found) >= 0.5 * min(allowed, cost(expensive, RoundSize(20, PER_CLASS)))


@pytest.mark.parametrize("budget", [20.0, 1.0])
def test_an_engine_of_more_steps_than_the_budget_refers_to_has_fewer_images(budget: float) -> None:
    expensive = resnet(20)
    found = TimeBudget(Zoo.of([expensive]), budget, 20, 4 * STEPS, reference_steps=STEPS).round_size(0, PER_CLASS)
    cost_of_round = cost(expensive, replace(found, steps=found.steps or 4 * STEPS))
    allowed = budget * cost(conv4(1000), RoundSize(20, PER_CLASS))
    assert 0.5 * allowed <= cost_of_round <= allowed


@given(
    classes=st.integers(1, 40), per_class=st.integers(1, 30), steps=st.integers(1, 300), share=st.floats(1e-4, 0.999)
)
def test_first_classes_then_images_then_steps_give_way(classes: int, per_class: int, steps: int, share: float) -> None:
    images = share * classes * per_class
    size = fit_round(classes, per_class, images, steps)
    assert 1 <= size.classes <= classes
    assert 1 <= size.per_class <= per_class
    if size.per_class < per_class:  # fewer images of each class only of the fewest classes
        assert size.classes <= 5
    if size.steps is not None:  # fewer steps only with the fewest images
        assert (size.classes, size.per_class) == (min(classes, 5), 1)
        assert size.steps == max(1, int(images / size.classes * steps))
    else:
        assert size.classes * size.per_class <= images


def test_without_a_budget_nothing_is_limited_or_counted() -> None:
    classifier = resnet(20)
    classifier.network.register_forward_pre_hook(lambda *_: pytest.fail("the member was queried"))
    assert TimeBudget(Zoo.of([classifier]), 0.0, 20, STEPS).round_size(0, 20) == RoundSize(20, 20)


def test_a_member_whose_operations_cannot_be_counted_is_not_limited() -> None:
    zoo = Zoo.of([OtherDifferentiable(resnet(20))])
    assert TimeBudget(zoo, 1e-6, 20, STEPS).round_size(0, 20) == RoundSize(20, 20)


def test_members_of_one_kind_are_reported_once_with_what_they_are_limited_to() -> None:
    zoo = Zoo.of([conv4(20), resnet(20), resnet(20), resnet(6)])
    budget = TimeBudget(zoo, 0.2, 20, STEPS)
    sizes = [budget.round_size(index, PER_CLASS) for index in (0, 1, 2, 3, 1)]
    first, second = (message for message in budget.pop_messages() if "member-000" not in message)
    assert first.startswith("member-001, and members like it")
    assert f"{sizes[1].classes} of its 20 classes, {sizes[1].per_class} instead of {PER_CLASS} of each" in first
    assert second.startswith("member-003")
    budget.round_size(2, PER_CLASS)
    assert budget.pop_messages() == []


def test_a_training_s_rounds_follow_the_budget() -> None:
    """The expensive member has fewer images and steps; the other one has the same images as without a budget."""
    cheap, expensive = member(0, names(6)), resnet(6)
    zoo = Zoo.of([cheap, expensive])
    sources = [
        ImageSource(
            small_config("ei", steps=4).model_copy(update={"budget": budget}), zoo, cheap.preprocessing, patience=3
        )
        for budget in (0.0, 0.15)
    ]
    whole, limited = (source.recover([0, 1], 2, 1) for source in sources)
    assert torch.equal(whole[0].images, limited[0].images)
    assert len(whole[1].labels) == 12
    labels = sources[1].labels(1, 2, 1)
    assert torch.equal(limited[1].labels, labels)
    assert len(limited[1].images) == len(labels) == 5
    assert len(labels.unique()) == 5
    (message,) = sources[1].pop_messages()
    assert "in at most" in message
    assert sources[0].pop_messages() == []


@pytest.mark.parametrize("engine", ["ei", "five", "fast_dfkd", "cmi"])
def test_a_target_with_fewer_steps_keeps_its_images_while_another_goes_on(engine: str) -> None:
    chosen = [replace(target("short", member(0)), steps=2), target("long", member(1))]
    run = small_engine(engine, steps=4).start(chosen)
    run.take_steps(2)
    before = [each.clone() for each in run.images()]
    losses = run.take_steps(2)
    assert torch.equal(run.images()[0], before[0])
    assert not torch.equal(run.images()[1], before[1])
    assert len(losses) == 2
    alone = small_engine(engine, steps=2).start([target("short", member(0))])
    alone.take_steps(2)
    torch.testing.assert_close(run.images()[0], alone.images()[0])

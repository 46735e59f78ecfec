"""Stacked members of one architecture give the same numbers as a loop over the members; so do images in chunks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from dfml.inversion.engine import Engine, Target
from dfml.inversion.generator_based import GeneratorInversionRun
from dfml.inversion.image_cost import bytes_per_image
from dfml.inversion.loss import InversionWeights
from dfml.zoo import Preprocessing
from tests.factories import SIZE
from tests.inversion.small import CoarseStudent, conv, precision, resnet, small_engine, target

ROWS = torch.tensor([4, 0, 6])


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    with precision(torch.float64):
        yield


def two_architectures(rows: torch.Tensor | None = None) -> list[Target]:
    """Targets of alternating architectures; one member has another normalisation than the others."""
    other = Preprocessing(SIZE, (0.1, 0.2, 0.3), (0.5, 0.4, 0.3))
    members = [conv(0), resnet(1), conv(2, preprocessing=other), resnet(3)]
    return [
        target(f"member {index}", each, rows=None if rows is None else (rows + index) % 8)
        for index, each in enumerate(members)
    ]


def assert_same_history(
    name: str, chosen: list[Target], rounds: list[list[int]], *, memory: int | None = None, **settings: Any
) -> None:
    """Compare two engines over several rounds of two steps: one of them stacked, or with another memory limit."""
    engines = [small_engine(name, stacked=flag, steps=2, **settings) for flag in (False, memory is None)]
    if memory:
        engines[1].memory_limit = memory
    for number, indices in enumerate(rounds):
        runs = [engine.start([chosen[i] for i in indices], number, student=CoarseStudent()) for engine in engines]
        for _ in range(2):
            one, other = (inversion.step() for inversion in runs)
            for plain, stacked in zip(one, other, strict=True):
                for part in ("total", "label", "batch_norm", "disagreement", "ema_statistics"):
                    torch.testing.assert_close(getattr(stacked, part), getattr(plain, part))
        torch.testing.assert_close(*(inversion.images() for inversion in runs))
        for engine, inversion in zip(engines, runs, strict=True):
            engine.learn(inversion)
        assert_same_state(*engines)


def assert_same_state(plain: Engine, stacked: Engine) -> None:
    assert plain.state_dict().keys() == stacked.state_dict().keys()
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(stacked.state_dict()[name], value, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize(("divergence", "through_student"), [("kl", True), ("js", False)])
@pytest.mark.numeric
def test_with_every_term_of_the_loss(divergence: str, through_student: bool) -> None:
    weights = InversionWeights(
        batch_norm=0.5,
        first_layer=3.0,
        momentum=0.8,
        disagreement=0.7,
        divergence=divergence,
        student_gradient=through_student,
        total_variation=0.01,
        l2=0.01,
        jitter=2,
        wrap=False,
        flip=True,
    )
    settings = {"weights": weights, "label_input": 0.5, "outer": "accumulated"}
    assert_same_history("five", two_architectures(ROWS), [[0, 1, 2, 3], [2, 0]], **settings)


@pytest.mark.numeric
def test_where_some_members_had_earlier_rounds_and_others_not() -> None:
    assert_same_history("fast_dfkd", two_architectures(ROWS), [[0, 1], [2, 1, 0]])


def test_without_rows_and_without_statistics() -> None:
    chosen = [Target(t.name, t.classifier, t.labels) for t in two_architectures()]
    weights = InversionWeights(batch_norm=0.0, total_variation=0.0, l2=0.0)
    assert_same_history("five", chosen, [[0, 2]], weights=weights)


@pytest.mark.numeric
def test_with_different_numbers_of_images_per_member() -> None:
    chosen = [target(f"member {index}", conv(index), per_class=2 + index // 2) for index in range(4)]
    weights = InversionWeights(jitter=2)
    assert_same_history("five", chosen, [[0, 1, 2, 3]], weights=weights)


def test_with_members_of_a_larger_size() -> None:
    larger = Preprocessing(24, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
    chosen = [target(f"member {index}", conv(index, preprocessing=larger)) for index in range(2)]
    assert_same_history("five", chosen, [[0, 1]], weights=InversionWeights(jitter=2))


@pytest.mark.numeric
def test_with_a_generator_from_scratch() -> None:
    assert_same_history("cmi", two_architectures(ROWS), [[0, 1, 2], [2]], contrast=0.0)


def test_contrasts_are_never_stacked() -> None:
    assert_same_history("cmi", two_architectures(ROWS), [[0, 2]], contrast=0.8)


EVERY_TERM = InversionWeights(
    batch_norm=0.5,
    momentum=0.8,
    disagreement=0.7,
    total_variation=0.01,
    l2=0.01,
    jitter=2,
    wrap=False,
    views="image",
    flip=True,
    zoom=0.2,
)


def images_per_gradient(chosen: list[Target]) -> dict[str, list[int]]:
    """Batch sizes of all passes through the members that a gradient goes back through, recorded from now on."""
    sizes: dict[str, list[int]] = {each.name: [] for each in chosen}
    for each in chosen:

        def record(_: torch.nn.Module, inputs: tuple[torch.Tensor], name: str = each.name) -> None:
            if torch.is_grad_enabled() and inputs[0].requires_grad:
                sizes[name].append(len(inputs[0]))

        each.network.network.register_forward_pre_hook(record)
    return sizes


@pytest.mark.numeric
@pytest.mark.parametrize("name", ["five", "fast_dfkd", "cmi"])
def test_little_memory_gives_the_same_generators(name: str) -> None:
    """One image in a backward pass gives what the whole batch gives, with every term and with CMI's contrasts."""
    assert_same_history(name, two_architectures(ROWS), [[0, 1], [1]], memory=1, weights=EVERY_TERM)


@pytest.mark.parametrize("name", ["five", "cmi"])
def test_no_backward_pass_has_more_images_than_the_memory_holds(name: str) -> None:
    chosen = two_architectures()[:2]
    for share, most in ((1.0, 6), (0.4, 2)):
        engine = small_engine(name, steps=1)
        needs = [1.5 * 6 * bytes_per_image(each.network, SIZE, torch.float64) for each in chosen]
        engine.memory_limit = int(share * max(needs)) + 10
        sizes = images_per_gradient(chosen)
        engine.start(chosen).step()
        assert max(sizes[chosen[1].name]) == most  # the ResNet, which takes more memory than the Conv4
        assert max(sizes[chosen[0].name]) == 6


def test_a_stack_has_no_more_members_than_the_memory_holds() -> None:
    chosen = [target(f"member {index}", conv(index)) for index in range(5)]
    engine = small_engine("five", steps=1, stacked=True)
    member_needs = 1.5 * 6 * bytes_per_image(chosen[0].network, SIZE, torch.float64)
    for share, sizes in ((5.0, [5]), (2.0, [2, 2, 1]), (0.9, [])):
        engine.memory_limit = int(share * member_needs) + 10
        run = engine.start(chosen)
        assert isinstance(run, GeneratorInversionRun)
        assert [len(group) for group in run.groups] == sizes

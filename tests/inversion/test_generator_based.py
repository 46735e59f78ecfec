"""Stacked members of one architecture give the same numbers as a loop over the members."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from dfml.inversion.engine import Engine, Target
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


def assert_same_history(name: str, chosen: list[Target], rounds: list[list[int]], **settings: Any) -> None:
    """Compare two engines, one of them stacked, over several rounds of two steps."""
    engines = [small_engine(name, stacked=flag, steps=2, **settings) for flag in (False, True)]
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

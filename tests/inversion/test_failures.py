from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

from dfml.inversion.engine import Target
from dfml.inversion.failures import FailureTracker
from dfml.inversion.loss import InversionLoss
from tests.factories import images, member

TARGET = Target("m", member(0), torch.tensor([0, 1, 2]))


def losses(*values: float) -> list[InversionLoss]:
    return [InversionLoss(torch.tensor(value), {"label": torch.tensor(value)}) for value in values]


def test_a_falling_or_low_cross_entropy_is_no_failure() -> None:
    failures = FailureTracker(patience=1)
    assert failures.check(TARGET, losses(3.0, 2.0), images(3))
    assert failures.check(TARGET, losses(0.1, 0.2), images(3))
    assert failures.check(TARGET, losses(5.0), images(3))  # one step cannot show a trend
    assert not failures.excluded


def test_a_member_with_values_that_are_not_finite_is_excluded_at_once() -> None:
    for values, recovered in (((1.0, float("nan")), images(3)), ((1.0, 0.5), images(3) / 0.0)):
        failures = FailureTracker()
        assert not failures.check(TARGET, losses(*values), recovered)
        assert "diverged" in failures.excluded["m"]


@pytest.mark.parametrize(
    "recovered",
    [
        images(3).repeat_interleave(2, dim=0),  # the two images of a class are equal
        images(6)[:, :, :1, :1].expand(-1, -1, 16, 16).mean(dim=1, keepdim=True).expand(-1, 3, -1, -1),  # constant
    ],
)
def test_images_without_variety_exclude_their_member(recovered: Tensor) -> None:
    failures, target = FailureTracker(), Target("m", member(0), torch.tensor([0, 0, 1, 1, 2, 2]))
    assert failures.check(target, losses(2.0, 1.0), images(6))
    assert not failures.check(target, losses(2.0, 1.0), recovered)
    assert "collapsed" in failures.excluded["m"]


def test_without_steps_only_the_images_are_checked() -> None:
    failures = FailureTracker(patience=1)
    assert all(failures.check(TARGET, [], images(3, seed)) for seed in range(3))
    assert not failures.excluded
    for recovered, reason in ((images(3) / 0.0, "diverged"), (torch.full((3, 3, 16, 16), 0.5), "collapsed")):
        assert not failures.check(TARGET, [], recovered)
        assert reason in failures.excluded["m"]


def test_a_member_whose_cross_entropy_has_stopped_falling_is_excluded_after_some_rounds() -> None:
    failures = FailureTracker(patience=3)
    rounds = [(2.0, 2.5), (2.0, 2.5), (2.0, 1.5), (2.0, 2.5), (2.0, 2.5)]
    assert all(failures.check(TARGET, losses(*values), images(3)) for values in rounds)
    resumed = FailureTracker(patience=3)
    resumed.load_state_dict(json.loads(json.dumps(failures.state_dict())))
    assert not resumed.check(TARGET, losses(2.0, 2.5), images(3))
    assert "stopped falling" in resumed.excluded["m"]

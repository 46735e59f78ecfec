"""Fidelity of recovered images in a zoo with many members."""

from __future__ import annotations

import pytest
import torch

from dfml.inversion import fidelity
from dfml.zoo import CountedMember, Zoo
from tests.factories import images, member


def test_no_more_than_some_other_members_are_asked_and_always_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fidelity, "MOST_OTHERS", 2)
    others = [CountedMember(member(seed)) for seed in range(1, 6)]
    strangers = [CountedMember(member(6, ("x", "y")))]
    meter = fidelity.FidelityMeter(Zoo.of([member(0), *others, *strangers]), 0)
    for _ in range(2):
        meter.add(images(6), torch.arange(3).repeat_interleave(2))
    assert sorted(other.queried for other in others) == [0, 0, 0, 12, 12]
    assert strangers[0].queried == 0
    assert meter.read().chance == pytest.approx(1 / 3)


def test_in_a_small_zoo_all_others_with_a_class_are_asked() -> None:
    others = [CountedMember(member(seed)) for seed in range(1, 6)]
    fidelity.measure(Zoo.of([member(0), *others]), 0, images(3), torch.arange(3))
    assert [other.queried for other in others] == [3] * 5

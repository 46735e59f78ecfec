"""The shared zoos, on which the results are measured, load without a change."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from dfml.zoo import Zoo
from dfml.zoo.formats import CONFIG, WEIGHTS
from dfml.zoo.inspection import inspect_zoo
from dfml.zoo.vetting import sha256

ZOOS = {"cifar-fs-disjoint-paper": 13, "cifar-fs-paper": 100, "cifar-fs-strong": 100}


@pytest.mark.shared
@pytest.mark.parametrize(("name", "members"), ZOOS.items())
def test_a_real_zoo_loads_and_nothing_is_wrong_with_it(shared: Path, name: str, members: int) -> None:
    report = inspect_zoo(shared / "zoos" / name)
    assert len(report.members) == members
    assert report.classes == 64
    assert report.usable
    assert all(row.warnings == () for row in report.members)
    assert all(row.batch_norms == 4 and row.size == 32 for row in report.members)
    assert {(len(row.labels), row.parameters) for row in report.members} <= {(5, 29541), (4, 29412)}
    for row in report.members:
        config = json.loads((shared / "zoos" / name / row.name / CONFIG).read_text())
        assert row.labels == tuple(config["label_names"])
        assert row.held_out_accuracy == config["dfml"]["held_out_accuracy"]
        assert row.sha256 == sha256(shared / "zoos" / name / row.name / WEIGHTS)


@pytest.mark.shared
def test_the_disjoint_zoo_has_each_class_once_and_can_be_batched(shared: Path) -> None:
    zoo = Zoo.open(shared / "zoos" / "cifar-fs-disjoint-paper")
    assert zoo.classes.merges() == {}
    assert sorted(map(len, zoo.groups().values())) == [1, 12]
    assert list(zoo.classes.names) == sorted(zoo.classes.names)
    preprocessing = zoo.preprocessing()
    assert preprocessing.size == 32
    assert preprocessing.mean == pytest.approx((0.5071, 0.4867, 0.4408))
    logits, statistics = zoo[12].logits_and_statistics(torch.rand(2, 3, 32, 32))
    assert logits.shape == (2, 4)
    assert [len(layer.mean) for layer in statistics] == [32] * 4

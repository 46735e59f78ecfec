"""A cell that is impossible is found on untrained stand-ins for the members."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dfml.benchmark.cells import plan_cells
from dfml.benchmark.data_catalog import locate
from dfml.benchmark.feasibility import learner_size, obstacle, plan_zoo, stand_in, together
from dfml.benchmark.suite import DatasetSpec, ZooSpec
from dfml.errors import UsageError
from dfml.methods import METHODS
from dfml.pretraining import STRONG, build_zoo
from dfml.zoo import Zoo
from tests.benchmark.small import suite
from tests.factories import written_zoo

GLYPHS = {"glyphs": locate("glyphs", DatasetSpec(train_images=4), {})}
SPEC = ZooSpec(data=("glyphs@16",), members=3, way=(3, 4), arch=("conv4", "fewshot_resnet10"))


def test_stand_ins_have_the_architectures_labels_and_sizes_of_the_members(tmp_path: Path) -> None:
    spec = SPEC.model_copy(update={"arch": ("conv4", "conv4_64")})
    found = stand_in(plan_zoo(spec, GLYPHS))
    build_zoo(
        [GLYPHS["glyphs"].open("train", 16)],
        tmp_path,
        members=3,
        way=(3, 4),
        architectures=("conv4", "conv4_64"),
        recipe=STRONG.override(epochs=1),
    )
    built = Zoo.open(tmp_path)
    assert found.classes == built.classes
    for index in range(3):
        one, other = found.classifier(index), built.classifier(index)
        assert one.labels == other.labels
        assert one.size == other.size
        assert {k: v.shape for k, v in one.network.state_dict().items()} == {
            k: v.shape for k, v in other.network.state_dict().items()
        }


def test_averaging_over_two_architectures_is_impossible_and_embedding_is_not() -> None:
    zoo = stand_in(plan_zoo(SPEC, GLYPHS))
    reasons = {each.cell.row: obstacle(each.cell, zoo) for each in plan_cells(suite(), {"letters": "x"})}
    assert reasons["average"] is not None
    assert "member-001 differs in" in reasons["average"]
    assert reasons["zoo_embedding"] is reasons["purer"] is None


@pytest.mark.parametrize("method", list(METHODS))
def test_every_method_can_learn_from_members_of_one_architecture(method: str) -> None:
    zoo = stand_in(plan_zoo(SPEC.model_copy(update={"arch": ("conv4",), "way": (3,)}), GLYPHS))
    (planned,) = plan_cells(suite(methods={method: {}}, scenarios={"letters": {"methods": method}}), {"letters": "x"})
    assert obstacle(planned.cell, zoo) is None


def test_an_architecture_that_is_unknown_or_too_deep_for_the_size_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown architecture 'magic'"):
        stand_in(plan_zoo(SPEC.model_copy(update={"arch": ("magic",)}), GLYPHS))
    small = SPEC.model_copy(update={"data": ("glyphs@3",), "arch": ("conv4",)})
    with pytest.raises(UsageError, match="must be at least 16"):
        stand_in(plan_zoo(small, GLYPHS))


def test_several_zoos_are_one(tmp_path: Path) -> None:
    one, other = stand_in(plan_zoo(SPEC, GLYPHS)), written_zoo(tmp_path / "zoo", 2)
    both = together([one, other])
    assert len(both) == 5
    assert together([one]) is one
    cell = plan_cells(suite(), {"letters": "x"})[0].cell
    assert learner_size(cell, both) == 16
    assert torch.equal(next(both.classifier(3).network.parameters()), next(other.classifier(0).network.parameters()))

"""Inspection reports the contents and defects of a zoo, member by member."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dfml.errors import ZooError
from dfml.zoo.formats import CONFIG, WEIGHTS
from dfml.zoo.inspection import inspect_zoo
from tests.factories import SIZE, ZooMaker, edit_config, edit_weights


def test_a_row_describes_a_member(zoo_maker: ZooMaker) -> None:
    folder, _ = zoo_maker.member("lab", details={"held_out_accuracy": 0.75})
    report = inspect_zoo(zoo_maker.path)
    (row,) = report.members
    assert report.usable
    assert row.name == "lab"
    assert row.problem is None
    assert row.warnings == ()
    assert row.architecture == "conv4"
    assert row.labels == ("ant", "bee", "cat")
    assert row.size == SIZE
    assert row.parameters == 896 + 3 * 9248 + 4 * 64 + 33 * 3
    assert row.batch_norms == 4
    assert row.sha256 == hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    assert row.held_out_accuracy == 0.75


def test_damaged_members_are_rows_and_do_not_stop_the_others(zoo_maker: ZooMaker) -> None:
    folders = [zoo_maker.member(f"m{index}", seed=index)[0] for index in range(6)]
    (folders[0] / WEIGHTS).write_bytes((folders[0] / WEIGHTS).read_bytes()[:-100])
    (folders[1] / CONFIG).write_text("{")
    (folders[2] / WEIGHTS).unlink()
    edit_config(folders[3], architecture="no_such_network")
    edit_config(folders[4], num_classes=7, label_names=None)
    report = inspect_zoo(zoo_maker.path)
    assert not report.usable
    assert [row.problem is None for row in report.members] == [False] * 5 + [True]
    for row, part in zip(
        report.members, ["cut short", "not valid JSON", "cannot be read", "no_such_network", "head"], strict=False
    ):
        assert row.problem is not None
        assert part in row.problem
        assert "\n" not in row.problem
    assert report.members[1].architecture is None
    assert report.members[1].sha256 is not None
    assert report.members[2].sha256 is None
    assert report.members[0].labels == ("ant", "bee", "cat")


def test_members_with_the_same_weights_are_a_warning(zoo_maker: ZooMaker) -> None:
    first, _ = zoo_maker.member("a")
    zoo_maker.member("b", seed=1)
    shutil.copytree(first, zoo_maker.path / "c")
    rows = inspect_zoo(zoo_maker.path).members
    assert [row.warnings for row in rows] == [(), (), ("its weights are those of a",)]


def test_a_channel_without_variance_is_a_warning(zoo_maker: ZooMaker) -> None:
    folder, _ = zoo_maker.member()

    def zero_variances(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        weights["blocks.1.norm.running_var"][:3] = 0
        return weights

    edit_weights(folder, zero_variances)
    (row,) = inspect_zoo(zoo_maker.path).members
    assert row.warnings == ("blocks.1.norm: 3 of 32 channels have a running variance of zero",)
    assert row.problem is None


def test_many_layers_with_one_defect_are_summed_up(zoo_maker: ZooMaker) -> None:
    folder, _ = zoo_maker.member(architecture="fewshot_resnet10", arguments={})

    def zero_variances(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        return {
            name: value.index_fill(0, torch.tensor([0]), 0) if name.endswith("running_var") else value
            for name, value in weights.items()
        }

    edit_weights(folder, zero_variances)
    (row,) = inspect_zoo(zoo_maker.path).members
    *named, rest = row.warnings
    assert len(named) == 3
    assert row.batch_norms is not None
    assert rest == f"and {row.batch_norms - 3} more batch-norm layers likewise"


def test_statistics_that_were_never_updated_are_a_warning(zoo_maker: ZooMaker) -> None:
    folder, _ = zoo_maker.member()

    def reset(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        weights["blocks.2.norm.running_mean"].zero_()
        weights["blocks.2.norm.running_var"].fill_(1)
        return weights

    edit_weights(folder, reset)
    (row,) = inspect_zoo(zoo_maker.path).members
    assert [warning.split(":")[0] for warning in row.warnings] == ["blocks.2.norm"]


def test_logits_that_do_not_depend_on_the_image_are_a_warning(zoo_maker: ZooMaker) -> None:
    folder, _ = zoo_maker.member()

    def zero_head(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        weights["head.weight"].zero_()
        return weights

    edit_weights(folder, zero_head)
    (row,) = inspect_zoo(zoo_maker.path).members
    assert row.warnings == ("its predictions are the same for 32 very different synthetic images",)


def test_logits_of_synthetic_images_that_are_not_finite_are_a_warning(zoo_maker: ZooMaker) -> None:
    folder, _ = zoo_maker.member()

    def explode(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        # Every feature of the image that a member is tried with on loading is zero, so its scores are finite.
        for name, tensor in weights.items():
            if name.endswith(("bias", "running_mean")):
                tensor.zero_()
        weights["head.weight"].fill_(torch.finfo(torch.float32).max)
        return weights

    edit_weights(folder, explode)
    (row,) = inspect_zoo(zoo_maker.path).members
    assert row.problem is None
    assert row.warnings == ("its logits for synthetic images are not finite",)


def test_a_network_without_batch_norm_is_a_warning(zoo_maker: ZooMaker) -> None:
    zoo_maker.member(architecture="test_vit", arguments={"img_size": 32}, size=32)
    (row,) = inspect_zoo(zoo_maker.path).members
    assert row.batch_norms == 0
    assert any("no batch-norm layer" in warning for warning in row.warnings)


def test_merged_classes_are_listed(zoo_maker: ZooMaker) -> None:
    zoo_maker.member("a", ("ant", "bee", "0"))
    zoo_maker.member("b", ("bee", "0", "cat"), seed=1)
    report = inspect_zoo(zoo_maker.path)
    assert report.merges == {"bee": ["a", "b"]}
    assert report.classes == 5
    apart = inspect_zoo(zoo_maker.path, class_identity="distinct")
    assert (apart.merges, apart.classes) == ({}, 6)


def test_a_report_is_plain_json(zoo_maker: ZooMaker) -> None:
    zoo_maker.member("a")
    folder, _ = zoo_maker.member("b")
    (folder / CONFIG).write_text("")
    report = inspect_zoo(zoo_maker.path)
    read = json.loads(json.dumps(report.as_dict()))
    assert read["usable"] is False
    assert [row["name"] for row in read["members"]] == ["a", "b"]
    assert read["members"][0]["labels"] == ["ant", "bee", "cat"]


def test_an_empty_zoo_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ZooError, match="is empty"):
        inspect_zoo(tmp_path)


def test_a_member_with_most_classes_of_the_zoo_is_named_with_those_that_others_know(zoo_maker: ZooMaker) -> None:
    zoo_maker.member("a", ("ant", "bee", "cat"))
    zoo_maker.member("b", ("bee", "cat", "dog"), seed=1)
    zoo_maker.member("large", ("ant", "bee", *(f"species {index}" for index in range(98))), seed=2)
    rows = {row.name: row.warnings for row in inspect_zoo(zoo_maker.path).members}
    assert rows["a"] == rows["b"] == ()
    (line,) = rows["large"]
    assert line.startswith("it has 100 of the zoo's 102 classes, of which other members know 2")


def test_a_member_of_more_classes_than_the_others_is_not_named_if_they_are_known_elsewhere(zoo_maker: ZooMaker) -> None:
    labels = tuple(f"species {index}" for index in range(40))
    for index in range(4):
        zoo_maker.member(f"small-{index}", labels[3 * index : 3 * index + 3], seed=index)
    zoo_maker.member("medium", labels[:29], seed=4)  # nine times as many
    zoo_maker.member("disjoint", ("ant", "bee", "cat"), seed=5)
    assert all(row.warnings == () for row in inspect_zoo(zoo_maker.path).members)


def test_model_files_that_are_no_members_are_rows_that_say_what_to_do(zoo_maker: ZooMaker) -> None:
    zoo_maker.member("lab")
    (zoo_maker.path / "theirs").mkdir()
    torch.save({"w": torch.ones(2)}, zoo_maker.path / "theirs" / "weights.ckpt")
    torch.save(torch.nn.Linear(2, 2), zoo_maker.path / "whole.pth")
    (zoo_maker.path / "README.md").write_text("about")
    report = inspect_zoo(zoo_maker.path)
    assert [row.name for row in report.members] == ["lab", "theirs/weights.ckpt", "whole.pth"]
    assert [row.is_member for row in report.members] == [True, False, False]
    assert [row.can_be_added for row in report.members] == [False, True, False]
    assert [row.problem is None for row in report.members] == [True, False, False]
    assert "dfml zoo add" in str(report.members[1].problem)
    assert "torch.nn.modules.linear.Linear" in str(report.members[2].problem)
    assert report.others == 1
    assert not report.usable


def test_a_single_file_is_a_row(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / "weights.pth")
    (row,) = inspect_zoo(tmp_path / "weights.pth").members
    assert (row.name, row.format, row.is_member) == ("weights.pth", "pickled tensors", False)

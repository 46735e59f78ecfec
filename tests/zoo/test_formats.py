"""A member format from outside the package: one class, no other edit."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import dfml
from dfml.errors import UsageError, ZooError, ZooMemberError
from dfml.zoo import Preprocessing, PretrainedClassifier, formats
from dfml.zoo.formats import CONFIG, MemberConfig, register_format
from dfml.zoo.inspection import inspect_zoo
from dfml.zoo.vetting import load_member, load_strictly, read_member_config
from tests.factories import ZooMaker
from tests.packages import declare_entry_points


class NpzFormat:
    """One `.npz` file: a linear classifier of all pixels, its labels and its preprocessing."""

    name = "npz"

    def recognises(self, path: Path) -> bool:
        return path.suffix == ".npz" and path.is_file()

    def read_config(self, path: Path) -> MemberConfig:
        with np.load(path) as file:
            size = int(file["size"])
            return MemberConfig(
                path=path,
                format=self.name,
                architecture="linear",
                labels=tuple(file["labels"].tolist()),
                preprocessing=Preprocessing(size, tuple(file["mean"].tolist()), tuple(file["std"].tolist())),
                arguments={"size": size},
            )

    def load(self, config: MemberConfig) -> nn.Module:
        def build(device: str) -> nn.Module:
            inputs = 3 * config.preprocessing.size**2
            return nn.Sequential(nn.Flatten(), nn.Linear(inputs, len(config.labels), device=device))

        def read() -> dict[str, Tensor]:
            with np.load(config.weight_file) as file:
                return {name: torch.from_numpy(file[name]) for name in ("1.weight", "1.bias")}

        return load_strictly(config, build, read, "write the file again")


def write_npz(path: Path, **changes: Any) -> dict[str, Any]:
    draws = np.random.default_rng(0)
    content: dict[str, Any] = {
        "labels": np.array(["dog", "bee"]),
        "size": 4,
        "mean": np.full(3, 0.5),
        "std": np.full(3, 0.25),
        "1.weight": draws.standard_normal((2, 48), dtype=np.float32),
        "1.bias": np.zeros(2, dtype=np.float32),
        **changes,
    }
    np.savez(path, **content)
    return content


@pytest.fixture(autouse=True)
def _no_format_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "_registered", {})


@pytest.fixture
def npz() -> NpzFormat:
    npz = NpzFormat()
    register_format(npz)
    return npz


@pytest.mark.usefixtures("npz")
def test_a_zoo_holds_members_of_a_format_from_outside(zoo_maker: ZooMaker) -> None:
    zoo_maker.member("a")
    content = write_npz(zoo_maker.path / "b.npz")
    (zoo_maker.path / "notes.txt").write_text("not a member")
    zoo = dfml.Zoo.open(zoo_maker.path)
    assert [zoo.name(index) for index in range(len(zoo))] == ["a", "b.npz"]
    assert zoo.classes.merges() == {"bee": [0, 1]}
    assert sorted(zoo.groups().values()) == [[0], [1]]
    images = torch.rand(3, 3, 4, 4)
    inputs = ((images - 0.5) / 0.25).flatten(1)
    torch.testing.assert_close(zoo[1].logits(images), inputs @ torch.from_numpy(content["1.weight"]).T)
    assert (zoo[1].labels, zoo[1].source) == (("dog", "bee"), str(zoo_maker.path / "b.npz"))
    zoo.vet()
    learner = dfml.ZooEmbedding().fit(zoo, out=zoo_maker.path.parent / "learner", device="cpu")
    again = dfml.MetaLearner.from_pretrained(zoo_maker.path.parent / "learner")
    support, labels = torch.rand(4, 3, 16, 16), torch.tensor([0, 0, 1, 1])
    assert torch.equal(*(each.adapt(support, labels).predict_proba(support) for each in (learner, again)))


@pytest.mark.usefixtures("npz")
def test_inspection_lists_members_of_a_format_from_outside(zoo_maker: ZooMaker) -> None:
    zoo_maker.member("a")
    write_npz(zoo_maker.path / "b.npz")
    report = inspect_zoo(zoo_maker.path)
    assert report.usable
    row = report.members[1]
    assert (row.name, row.format, row.architecture, row.labels) == ("b.npz", "npz", "linear", ("dog", "bee"))
    assert (row.parameters, row.batch_norms, row.size) == (2 * 48 + 2, 0, 4)
    assert row.sha256 is not None
    assert report.members[0].format == "timm"


@pytest.mark.usefixtures("npz")
def test_a_single_file_is_a_zoo_of_one_member(tmp_path: Path) -> None:
    write_npz(tmp_path / "only.npz")
    assert len(dfml.Zoo.open(tmp_path / "only.npz")) == 1


@pytest.mark.usefixtures("npz")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": np.array(["dog", "dog"])}, r"expected 1 to 1000000 distinct labels, found 2 \(1 distinct\)"),
        ({"size": 0}, "expected a size from 1 to 4096"),
        ({"std": np.array([0.1, 0.1, 0.0])}, "a positive std"),
        ({"mean": np.array([0.1, 0.1, np.nan])}, "a finite mean"),
        ({"1.bias": np.zeros(3, dtype=np.float32)}, r"1\.bias has shape \(3,\) where \(2,\) is expected; write the"),
        ({"1.bias": np.full(2, np.inf, dtype=np.float32)}, r"broken\.npz holds NaN or infinite values in 1\.bias"),
        ({"mean": "grey"}, r"the format 'npz' cannot read it .*; restore the file, or correct the format's reader"),
    ],
)
def test_members_of_a_format_from_outside_are_vetted_like_all_others(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    write_npz(tmp_path / "broken.npz", **changes)
    with pytest.raises(ZooMemberError, match=message) as caught:
        load_member(read_member_config(tmp_path / "broken.npz"))
    assert "\n" not in str(caught.value)


def test_a_network_without_weights_or_with_other_outputs_is_refused(tmp_path: Path) -> None:
    class WrongNetwork(NpzFormat):
        def load(self, config: MemberConfig) -> nn.Module:
            return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 5))

    register_format(WrongNetwork())
    write_npz(tmp_path / "member.npz")
    with pytest.raises(ZooMemberError, match=r"finite logits of shape \(1, 2\) .*found output of shape \(1, 5\)"):
        load_member(read_member_config(tmp_path / "member.npz"))


def test_without_the_format_its_files_are_no_members(zoo_maker: ZooMaker) -> None:
    zoo_maker.member("a")
    write_npz(zoo_maker.path / "b.npz")
    assert len(dfml.Zoo.open(zoo_maker.path)) == 1
    with pytest.raises(ZooMemberError, match="no known format recognises it"):
        read_member_config(zoo_maker.path / "b.npz")


def test_an_installed_package_declares_a_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = "from tests.zoo.test_formats import NpzFormat\nFORMAT = NpzFormat()\n"
    (tmp_path / "declared_format.py").write_text(module)
    monkeypatch.syspath_prepend(tmp_path)
    declare_entry_points(tmp_path, "formats", formats="npz = declared_format:FORMAT\nother = no_such_module:FORMAT")
    maker = ZooMaker(tmp_path / "zoo")
    maker.member("a")
    (maker.path / "zoo.json").write_text("{}")  # what `dfml zoo build` writes beside its members
    assert len(dfml.Zoo.open(maker.path)) == 1
    assert "declared_format" not in sys.modules  # the zoo needed none of them
    write_npz(maker.path / "b.npz")
    zoo = dfml.Zoo.open(maker.path)
    assert len(zoo) == 2
    assert isinstance(zoo[1], PretrainedClassifier)


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ("npz = no_such_module:FORMAT", r"the format 'npz' of .*package broken\) cannot be imported: .*no_such_module"),
        ("zip = json:loads", r"the format 'zip' of .*package broken\): expected an instance with name, recognises"),
        ("timm = dfml.zoo.formats.timm:FORMAT", "that dfml's own formats do not have"),
    ],
)
def test_the_error_of_a_declared_format_names_it_and_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, declared: str, message: str
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    declare_entry_points(tmp_path, "broken", formats=declared)
    (tmp_path / "zoo").mkdir()
    write_npz(tmp_path / "zoo" / "b.npz")
    with pytest.raises(ZooError, match=message):
        dfml.Zoo.open(tmp_path / "zoo")


def test_a_format_is_registered_once_and_is_an_instance(npz: NpzFormat) -> None:
    register_format(npz)
    with pytest.raises(UsageError, match="there is already a format 'npz'"):
        register_format(NpzFormat())
    with pytest.raises(UsageError, match="expected an instance"):
        register_format(NpzFormat)  # type: ignore[arg-type]


def test_a_folder_of_no_known_format_keeps_the_error_of_timms(tmp_path: Path) -> None:
    (tmp_path / "member").mkdir()
    (tmp_path / "member" / CONFIG).write_text('{"num_classes": 3}')
    with pytest.raises(ZooMemberError, match="expected `architecture`"):
        dfml.Zoo.open(tmp_path)


def test_dfmls_own_formats_are_the_modules_of_the_package() -> None:
    folder = Path(formats.__file__).parent
    for path in folder.glob("[!_]*.py"):
        assert formats.format_named(path.stem).name == path.stem
    with pytest.raises(ZooError, match=r"no format 'pickle' of zoo members; known are .*timm"):
        formats.format_named("pickle")

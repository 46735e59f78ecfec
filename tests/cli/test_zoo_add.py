"""`dfml zoo add`: what is added, and what is said where something is missing."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from torch import nn
from typer.testing import CliRunner

from dfml.cli import app
from dfml.zoo import PretrainedClassifier, Zoo
from dfml.zoo.layer_lists import build_layers
from tests.cli.conftest import dfml, results
from tests.factories import PREPROCESSING, SIZE, ZooMaker

LAYERS = ["Conv2d(3, 4, 3, padding=1)", "ReLU", "AdaptiveAvgPool2d(1)", "Flatten", "Linear(4, 3)"]
STATED = ("--layers", "layers.yaml", "--labels", "ant,bee,cat", "--size", str(SIZE))


def network() -> nn.Module:
    torch.manual_seed(0)
    return build_layers(LAYERS).eval()


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state dict without batch-norm layers, and its layers in a file of the working directory."""
    monkeypatch.chdir(tmp_path)
    Path("layers.yaml").write_text(yaml.safe_dump(LAYERS))
    path = tmp_path / "files" / "colours.pth"
    path.parent.mkdir()
    torch.save({"state_dict": network().state_dict()}, path)
    return path


def test_a_stated_file_becomes_a_member_with_its_digest(weights: Path, tmp_path: Path) -> None:
    zoo = tmp_path / "zoo"
    found = results("zoo", "add", weights, "--zoo", zoo, *STATED, "--mean", "0.4,0.5,0.6", "--std", "0.2,0.25,0.3")
    assert found["files"][0]["added"] == "colours"
    (entry,) = yaml.safe_load((zoo / "zoo.yaml").read_text())["members"]
    assert len(entry["sha256"]) == 64
    assert entry["evidence"]["preprocessing"] == "stated by the user"
    opened = Zoo.open(zoo)
    assert opened[0].labels == ("ant", "bee", "cat")
    images = torch.rand(4, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    own = PretrainedClassifier(network(), ("ant", "bee", "cat"), PREPROCESSING)
    assert torch.allclose(opened[0].predict_proba(images), own.predict_proba(images), atol=1e-5)


def test_preprocessing_is_never_taken_silently(weights: Path, tmp_path: Path) -> None:
    shown = dfml("zoo", "add", weights, "--zoo", tmp_path / "zoo", *STATED, "--yes")
    assert shown.exit_code == 1
    (line,) = [line for line in shown.stderr.splitlines() if line.startswith("error: ")]
    assert "preprocessing" in line
    assert "--mean and --std" in line
    assert not (tmp_path / "zoo" / "zoo.yaml").exists()


def test_the_good_files_are_added_and_the_bad_ones_listed(weights: Path, tmp_path: Path) -> None:
    (weights.parent / "pointer.pth").write_bytes(b"version https://git-lfs.github.com/spec/v1")
    arguments = ("zoo", "add", weights.parent, "--zoo", tmp_path / "zoo", *STATED, "--mean", "0.5", "--std", "0.25")
    shown = dfml(*arguments)
    assert shown.exit_code == 1
    assert "pointer.pth: it is a git-lfs pointer" in shown.stderr
    assert len(Zoo.open(tmp_path / "zoo")) == 1
    assert dfml(*arguments, "--on-bad-member", "skip").exit_code == 0


def test_the_commands_of_the_page_run(weights: Path) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "adding-members.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```sh\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    weights.rename("colours.pth")
    commands = block.splitlines()
    assert len(commands) >= 2
    for command in commands:
        shown = dfml(*command.split()[1:])
        assert shown.exit_code == 0, shown.stderr


@pytest.mark.parametrize(
    "wrong", [("--mean", "0.5"), ("--size", "big"), ("--channels", "2"), ("--layers", "none.yaml"), ("--labels", "a")]
)
def test_wrong_usage_ends_with_2(weights: Path, tmp_path: Path, wrong: tuple[str, str]) -> None:
    assert dfml("zoo", "add", weights, "--zoo", tmp_path / "zoo", *wrong).exit_code == 2


def test_a_folder_that_describes_itself_can_be_given_a_name(tmp_path: Path) -> None:
    folder, _ = ZooMaker(tmp_path / "theirs").member("plain", labels=("ant", "bee"))
    found = results("zoo", "add", folder, "--zoo", tmp_path / "zoo", "--name", "timm")
    assert found["files"][0]["added"] == "timm"
    assert Zoo.open(tmp_path / "zoo")[0].labels == ("ant", "bee")


def test_many_names_are_no_path(weights: Path, tmp_path: Path) -> None:
    names = ",".join(f"{name}{'x' * 300}" for name in "abc")
    stated = ("--layers", "layers.yaml", "--labels", names, "--size", str(SIZE), "--range", "0..1")
    assert results("zoo", "add", weights, "--zoo", tmp_path / "zoo", *stated)["files"][0]["added"] == "colours"


def test_a_size_that_does_not_fit_is_named_by_its_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    flat = ["Flatten", "Linear(192, 3)"]
    Path("flat.yaml").write_text(yaml.safe_dump(flat))
    torch.save(build_layers(flat).state_dict(), "flat.pth")
    shown = dfml("zoo", "add", "flat.pth", "--zoo", "zoo", "--layers", "flat.yaml", "--size", "9", "--range", "0..1")
    assert shown.exit_code == 1
    assert "cannot classify an image of 9 x 9 pixels" in shown.stderr
    assert "--size" in shown.stderr
    assert "model_args" not in shown.stderr


def test_on_a_terminal_it_asks_for_what_is_missing(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dfml.cli.zoo_add.sys", SimpleNamespace(stdin=SimpleNamespace(isatty=lambda: True)))
    command = ["zoo", "add", str(weights), "--zoo", str(tmp_path / "zoo"), *STATED[:4]]
    declined = CliRunner().invoke(app, command, input=f"{SIZE}\n0.5\n0.25\nn\n")
    assert declined.exit_code == 1
    assert "you declined" in declined.stderr
    assert not (tmp_path / "zoo" / "zoo.yaml").exists()
    added = CliRunner().invoke(app, command, input=f"{SIZE}\n0.5\n0.25\ny\n")
    assert added.exit_code == 0, added.stderr
    (entry,) = yaml.safe_load((tmp_path / "zoo" / "zoo.yaml").read_text())["members"]
    assert (entry["size"], entry["mean"], entry["std"]) == (SIZE, [0.5], [0.25])


def test_a_copied_file_belongs_to_the_zoo(weights: Path, tmp_path: Path) -> None:
    zoo = tmp_path / "zoo"
    results("zoo", "add", weights, "--zoo", zoo, *STATED, "--range", "0..1", "--copy")
    weights.unlink()
    assert Zoo.open(zoo)[0].labels == ("ant", "bee", "cat")


OWNER = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self):
        pool = nn.AdaptiveAvgPool2d(1)
        super().__init__(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), pool, nn.Flatten(), nn.Linear(4, 3))
"""


def test_an_owner_s_network_is_run_only_where_the_command_names_it_again(weights: Path, tmp_path: Path) -> None:
    zoo, file = tmp_path / "zoo", tmp_path / "owner.py"
    file.write_text(OWNER)
    stated = ("--labels", "ant,bee,cat", "--size", str(SIZE), "--mean", "0.5", "--std", "0.25")
    results("zoo", "add", weights, "--zoo", zoo, "--network", f"{file}:Net", *stated)
    again = ("--network", f"colours={file}:Net")
    for command in (("zoo", "inspect", zoo), ("train", zoo, "--method", "random_init", "--out", tmp_path / "no")):
        result = dfml(*command)
        assert result.exit_code in (1, 2)
        assert "--network colours=" in " ".join(result.output.split())
    assert dfml("zoo", "inspect", zoo, *again).exit_code == 0
    assert dfml("invert", zoo, *again, "--per-class", "1", "--steps", "1", "--out", tmp_path / "images").exit_code == 0
    assert dfml("train", zoo, *again, "--method", "random_init", "--out", tmp_path / "learner").exit_code == 0
    for wrong, words in (("colours", "expected NAME=FILE.py:CLASS"), (f"other={file}:Net", "no member 'other'")):
        result = dfml("invert", zoo, "--network", wrong, "--out", tmp_path / "none")
        assert result.exit_code == 2
        assert words in " ".join(result.output.split())


def test_inspect_tells_files_that_can_be_added_from_those_that_cannot(weights: Path) -> None:
    (weights.parent / "pointer.pth").write_text("version https://git-lfs.github.com/spec/v1\n")
    result = dfml("zoo", "inspect", weights.parent)
    assert result.exit_code == 1
    lines = " ".join(result.output.split())
    assert "colours.pth: it is no member of the zoo; `dfml zoo add" in lines
    assert "pointer.pth: BAD: it is a git-lfs pointer" in lines

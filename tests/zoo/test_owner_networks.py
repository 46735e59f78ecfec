"""A network that only its owner's Python file describes: run where the user names it, and only if it is that file."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from torch import nn

from dfml.errors import ConfigError
from dfml.zoo.owner_networks import build_owner_network, network_digest, split_network

SOURCE = """
from torch import nn

class Net(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.head = nn.Linear(width, 2)

def make(width):
    return Net(width)

def text():
    return "no network"

def fail():
    raise RuntimeError("two\\nlines")
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.py"
    path.write_text(SOURCE)
    return path


def test_a_class_or_a_function_of_the_file_is_called_with_the_arguments(file: Path) -> None:
    assert build_owner_network(f"{file}:Net", {}).get_submodule("head").weight.shape == (2, 4)
    assert build_owner_network(f"{file}:make", {"width": 7}).get_submodule("head").weight.shape == (2, 7)
    assert isinstance(build_owner_network(f"{file}:Net", {}), nn.Module)


def test_another_content_than_the_recorded_one_is_not_run(file: Path) -> None:
    digest = network_digest(f"{file}:Net")
    assert digest == hashlib.sha256(SOURCE.encode()).hexdigest()
    build_owner_network(f"{file}:Net", {}, digest)
    file.write_text(f"open({str(file.with_name('canary'))!r}, 'w')\n{SOURCE}")
    with pytest.raises(ConfigError, match=rf"has changed: its SHA-256 is [0-9a-f]{{64}}, the manifest has {digest}"):
        build_owner_network(f"{file}:Net", {}, digest)
    assert not file.with_name("canary").exists()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("Missing", "AttributeError"),
        ("text", "to return a torch.nn.Module, found a str"),
        ("fail", "RuntimeError: two lines"),
        ("make", "TypeError"),
    ],
)
def test_what_is_no_network_says_so_in_one_line(file: Path, name: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        build_owner_network(f"{file}:{name}", {})
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_run_says_so(file: Path, tmp_path: Path) -> None:
    file.write_text("import no_such_module_at_all")
    with pytest.raises(ConfigError, match="ModuleNotFoundError"):
        build_owner_network(f"{file}:Net", {})
    with pytest.raises(ConfigError, match="cannot be read"):
        build_owner_network(f"{tmp_path / 'missing.py'}:Net", {})


@pytest.mark.parametrize("text", ["model.py", "model.py:", ":Net", "model.txt:Net", "model.py:Net()", "model.py:a.b"])
def test_another_form_than_file_and_class_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"expected FILE\.py:CLASS"):
        split_network(text)


def test_colons_in_a_path_belong_to_the_path() -> None:
    assert split_network("C:/models/a.py:Net") == (Path("C:/models/a.py"), "Net")

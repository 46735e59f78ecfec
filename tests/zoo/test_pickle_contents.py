"""The contents of pickles are read from their opcodes, for every protocol, and nothing is unpickled."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dfml.zoo.pickle_contents import PickleContents, printable, read_pickle_contents

HERE = __name__


class Network:
    """A class of a stranger's."""


class Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


def read(value: Any, protocol: int = 2) -> PickleContents:
    return read_pickle_contents(pickle.dumps(value, protocol))


@pytest.mark.parametrize("protocol", range(6))
def test_an_object_that_is_a_class_instance_is_a_module(protocol: int) -> None:
    contents = read(Network(), protocol)
    assert contents.is_module
    assert contents.module_class == f"{HERE}.Network"
    assert contents.module_key is None
    assert contents.complete


@pytest.mark.parametrize("protocol", range(6))
def test_the_names_in_a_dictionary_of_values_make_no_module(protocol: int) -> None:
    contents = read({"acc": 91.5, "options": Network(), "state_dict": OrderedDict(a=1)}, protocol)
    assert not contents.is_module
    assert contents.foreign == (f"{HERE}.Network",)
    assert {"acc", "options", "state_dict"} <= contents.keys


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_network_in_a_dictionary_is_found_under_its_key(protocol: int) -> None:
    value = {"epoch": 3, "options": Network(), "net": torch.nn.Linear(2, 2), "other": torch.nn.ReLU()}
    contents = read(value, protocol)
    assert contents.is_module
    assert contents.module_key == "net"
    assert contents.module_class == "torch.nn.modules.linear.Linear"


def test_a_loss_function_beside_the_weights_is_no_network() -> None:
    assert not read({"state_dict": OrderedDict(a=1), "criterion": torch.nn.CrossEntropyLoss()}).is_module


def test_a_file_of_an_old_torch_is_read_up_to_its_object(tmp_path: Path) -> None:
    path = tmp_path / "old.pth"
    torch.save({"state_dict": {"w": torch.ones(2)}}, path, _use_new_zipfile_serialization=False)
    contents = read_pickle_contents(path.read_bytes())
    assert "state_dict" in contents.keys
    assert "torch.FloatStorage" in contents.names
    assert contents.foreign == ()


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    contents = read({"state_dict": Trap(tmp_path / "opened")})
    assert any(name.startswith("pathlib.") for name in contents.foreign)
    assert not (tmp_path / "opened").exists()


def test_a_pickle_that_is_cut_short_is_not_complete() -> None:
    content = pickle.dumps({"a": list(range(100))}, 2)
    assert not read_pickle_contents(content[:-5]).complete


@given(st.binary(max_size=200))
def test_any_bytes_are_described_or_refused(content: bytes) -> None:
    try:
        contents = read_pickle_contents(content)
    except ValueError:
        return
    assert isinstance(contents.is_module, bool)
    assert all(name.isprintable() for name in contents.names)


def test_control_characters_do_not_reach_a_message() -> None:
    assert printable("a\x1b[31m\nb", limit=8) == "a?[31m?b"
    assert printable("x" * 300, limit=10) == "x" * 10

"""Networks that only their owner's Python file describes. The file runs: it is used only where the user names it."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from dfml.errors import ConfigError
from dfml.files import open_regular_file

_MAX_BYTES = 10 * 2**20


def split_network(text: str) -> tuple[Path, str]:
    """Split `FILE.py:CLASS`.

    Raises:
        ConfigError: If it has another form.
    """
    file, colon, name = text.rpartition(":")
    if not colon or not file.endswith(".py") or not name.isidentifier():
        raise ConfigError(f"network: expected FILE.py:CLASS, found {text!r}")
    return Path(file), name


def network_digest(text: str) -> str:
    """SHA-256 of the Python file of `FILE.py:CLASS`, as hex digits.

    Raises:
        ConfigError: If the text has another form, or the file cannot be read.
    """
    return hashlib.sha256(_source(split_network(text)[0])).hexdigest()


def build_owner_network(text: str, arguments: Mapping[str, Any], sha256: str | None = None) -> nn.Module:
    """Run a Python file and build the network that it describes.

    Args:
        text: `FILE.py:CLASS`; a class or function that returns a network.
        arguments: Arguments of the class.
        sha256: Digest that the file must have; None for any.

    Raises:
        ConfigError: If the file has another digest, cannot be run, has no such class, or the class returns no network.
    """
    path, name = split_network(text)
    source = _source(path)
    found = hashlib.sha256(source).hexdigest()
    if sha256 is not None and found != sha256:
        raise ConfigError(f"network: {path} has changed: its SHA-256 is {found}, the manifest has {sha256}")
    specification = importlib.util.spec_from_loader(f"dfml_owner_{found[:12]}", loader=None)
    assert specification is not None
    module = importlib.util.module_from_spec(specification)
    module.__file__ = str(path)
    try:
        exec(compile(source, str(path), "exec"), module.__dict__)
        network = getattr(module, name)(**arguments)
    except Exception as error:  # the owner's code may raise anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ConfigError(f"network: {text} cannot be built with {dict(arguments)} ({reason})") from error
    if not isinstance(network, nn.Module):
        raise ConfigError(f"network: expected {text} to return a torch.nn.Module, found a {type(network).__name__}")
    return network


def _source(path: Path) -> bytes:
    try:
        with open_regular_file(path) as file:
            return file.read(_MAX_BYTES)
    except OSError as error:
        raise ConfigError(f"network: {path} cannot be read ({error.strerror or error})") from error

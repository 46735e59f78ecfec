"""What the options of `dfml zoo add` say about a member."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dfml.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from dfml.images import Interpolation
    from dfml.zoo.adding import Stated
    from dfml.zoo.labelled_check import LabelledImages

_MAX_YAML = 2**20


def read_statement(
    *,
    name: str | None,
    architecture: str | None,
    layers: Path | None,
    network: str | None,
    labels: str | None,
    size: str | None,
    channels: int | None,
    mean: str | None,
    std: str | None,
    pixel_range: str | None,
    output: str | None,
    interpolation: str | None,
    images: Path | None,
    class_index: Path | None,
) -> Stated:
    """Parse the options.

    Args:
        name: Name of the member.
        architecture: Architecture by name.
        layers: YAML file of a list of layers.
        network: `FILE.py:CLASS`.
        labels: A file, or names separated by commas.
        size: `N` or `HxW`.
        channels: 1 or 3.
        mean: One value or three, separated by commas.
        std: The same.
        pixel_range: `0..1` or `0..255`.
        output: What the network returns.
        interpolation: How images are resized.
        images: Folder of labelled images.
        class_index: File that maps the folders of images to outputs.

    Raises:
        UsageError: If options contradict each other, or a value has another form.
    """
    from dfml.zoo.adding import Stated

    if sum(each is not None for each in (architecture, layers, network)) > 1:
        raise UsageError("expected one of --arch, --layers and --network, found several")
    if channels == 2:
        raise UsageError("expected --channels 1 or 3, found 2")
    if class_index and not images:
        raise UsageError("--class-index is for the folders of --check-with; give that too")
    if (mean is None) != (std is None):
        raise UsageError("expected both of --mean and --std; a mean of 0 or a std of 1 can be given as such")
    fields: dict[str, Any] = {
        "name": name,
        "architecture": _read_yaml(layers, "--layers", list) if layers else architecture,
        "labels": None if labels is None else _read_labels(labels),
        "size": None if size is None else read_size(size),
        "channels": channels,
        "mean": None if mean is None else read_values("--mean", mean),
        "std": None if std is None else read_values("--std", std),
        "range": pixel_range,
        "output": output,
        "interpolation": interpolation,
        **(_network(network) if network else {}),
    }
    stated = {field: value for field, value in fields.items() if value is not None}
    index = _read_index(class_index) if class_index else {}
    return Stated(stated, images=_reader(images) if images else None, class_index=index)


def read_size(text: str) -> int | tuple[int, int]:
    """Read `N` or `HxW`, in pixels.

    Raises:
        UsageError: If it has another form.
    """
    parts = text.lower().split("x")
    if not all(part.strip().isdecimal() and int(part) for part in parts) or len(parts) > 2:
        raise UsageError(f"expected --size N or HxW in pixels, found {text!r}")
    height, width = int(parts[0]), int(parts[-1])
    return height if height == width else (height, width)


def read_values(option: str, text: str) -> tuple[float, ...]:
    """Read one number, or three separated by commas.

    Raises:
        UsageError: If it has another form.
    """
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) not in (1, 3):
        raise UsageError(f"expected {option} with one number, or three separated by commas, found {text!r}")
    return values


def _network(text: str) -> dict[str, str]:
    from dfml.zoo.owner_networks import network_digest, split_network

    file, class_name = split_network(text)
    return {"network": f"{os.path.abspath(file)}:{class_name}", "network_sha256": network_digest(text)}


def _read_labels(text: str) -> tuple[str, ...]:
    from dfml.zoo.label_files import read_labels

    if os.path.isfile(text):  # False for names too long for a path, where `Path.is_file` raises
        return read_labels(Path(text))
    names = tuple(part.strip() for part in text.split(","))
    if len(names) < 2 or not all(names):
        raise UsageError(f"expected --labels with a file, or class names separated by commas, found {text!r}")
    return names


def _read_index(file: Path) -> dict[str, int]:
    mapping = _read_yaml(file, "--class-index", dict)
    if not all(isinstance(index, int) and not isinstance(index, bool) and index >= 0 for index in mapping.values()):
        raise UsageError(f"--class-index {file}: expected a mapping from folders to the numbers of outputs from 0 on")
    return {str(folder): index for folder, index in mapping.items()}


def _read_yaml(file: Path, option: str, kind: type) -> Any:
    import yaml

    from dfml.files import open_regular_file

    try:
        with open_regular_file(file) as opened:
            content = yaml.safe_load(opened.read(_MAX_YAML))
    except (OSError, yaml.YAMLError, RecursionError) as error:
        raise UsageError(f"{option} {file} cannot be read as YAML ({error})") from error
    if not isinstance(content, kind):
        raise UsageError(f"{option} {file}: expected a {kind.__name__}, found a {type(content).__name__}")
    return content


def _reader(folder: Path) -> LabelledImages:
    """A function that reads the labelled images, once per size and interpolation."""
    from functools import lru_cache

    from dfml.data.support import read_support

    @lru_cache(maxsize=3)
    def read(size: int, interpolation: Interpolation) -> tuple[Tensor, Tensor, Sequence[str]]:
        return read_support(folder, size, interpolation)

    return read

"""The checks applied to every zoo member, whatever its format: bounds, shapes, finite values, one forward pass.

Formats call `input_is_usable` and `load_strictly`; users of a zoo call `read_member_config` and
`load_member`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from dfml.errors import UsageError, ZooError, ZooMemberError
from dfml.files import open_regular_file
from dfml.zoo.black_box import BlackBoxClassifier
from dfml.zoo.bounds import TooCostlyError, TooManyModulesError, bounded_modules, check_buffers, largest_tensor
from dfml.zoo.formats import WEIGHTS, MemberConfig, MemberFormat, format_named, format_of
from dfml.zoo.hub import absolute_path, is_hub_id, local_folder
from dfml.zoo.manifest import ManifestMember, entry_path, find_entry
from dfml.zoo.manifest_members import read_entry
from dfml.zoo.member_files import RESTORE
from dfml.zoo.members import Predicts, teacher_logits
from dfml.zoo.pretrained import PretrainedClassifier

# Larger than any classifier needs: a damaged or hostile configuration must not exhaust the memory.
MAX_CLASSES, MAX_SIZE = 1_000_000, 4096
MIN_STD, MAX_MAGNITUDE = 1e-6, 1e6
"""Bounds of the standard deviation, and of the absolute values of both, in units of pixels in [0, 1]: normalised images
must be finite numbers, and differ."""

_FIX_SIZE = "correct `input_size` or the architecture's arguments (`model_args`) in its configuration"
_FIX_ENTRY = "correct `size` (`dfml zoo add --size`) or the architecture in its entry in zoo.yaml"

Result = TypeVar("Result")
Argument = TypeVar("Argument")


def read_member_config(path: Path, network: str | None = None, entry: ManifestMember | None = None) -> MemberConfig:
    """Read and check the configuration of a member, by the format that recognises it or its entry in `zoo.yaml`.

    Args:
        path: The member's folder or file, `ZOO/zoo.yaml#NAME`, or `hf:OWNER/NAME[@REVISION]` (`dfml.zoo.hub`).
        network: `FILE.py:CLASS` that the user named for this member; needed where its entry in `zoo.yaml` names one.
        entry: An entry that is not in the manifest yet, for a path of the form `ZOO/zoo.yaml#NAME`.

    Raises:
        ZooMemberError: If the configuration is missing or damaged, or lacks or contradicts what a classifier needs.
    """
    if is_hub_id(path):
        config = read_member_config(local_folder(path))
        source = absolute_path(path)
        details = {**config.details, "hub": str(source)}
        return replace(config, path=source, weights=config.weight_file, details=details)
    entry = entry or find_entry(path)
    member_format = _format_of_entry(path, entry) if entry else format_of(path)
    if entry and is_hub_id(entry.path):
        return replace(read_member_config(Path(entry.path)), path=path, entry=entry)
    if entry:
        config = read_entry(path, entry, member_format, network)
    else:
        config = _call(member_format.name, member_format.read_config, path, path)
    return _checked(config, member_format.name)


def _checked(config: MemberConfig, name: str) -> MemberConfig:
    """The configuration that the format `name` returned, if it is within bounds."""
    path = config.path
    if config.format != name:
        reason = f"the format {name!r} returns a configuration of the format {config.format!r}"
        raise ZooMemberError(path, reason, "correct the format's read_config")
    labels, preprocessing = config.labels, config.preprocessing
    if not 1 <= len(labels) <= MAX_CLASSES or len(set(labels)) != len(labels):
        found = f"{len(labels)} ({len(set(labels))} distinct)"
        raise ZooMemberError(path, f"expected 1 to {MAX_CLASSES} distinct labels, found {found}", "correct the labels")
    if not input_is_usable(preprocessing.size, preprocessing.mean, preprocessing.std):
        raise ZooMemberError(
            path,
            f"expected a size from 1 to {MAX_SIZE}, a finite mean and a positive std (up to {MAX_MAGNITUDE:.0e}; std "
            f"from {MIN_STD:.0e}), found {preprocessing}",
            "state the preprocessing that the classifier was trained with",
        )
    return config


def check_networks(paths: Sequence[Path], networks: Mapping[str, str] | None) -> None:
    """Check that all members whose network is named are entries of a manifest.

    Raises:
        UsageError: If `networks` has the name of no member.
    """
    names = {entry.member_name for path in paths if (entry := find_entry(path))}
    unknown = [name for name in networks or {} if name not in names]
    if unknown:
        raise UsageError(f"networks: the manifest has no member {', '.join(map(repr, unknown))}; check the names")


def load_member(config: MemberConfig) -> Predicts:
    """Load a member's network by its format, check its weights, and classify one image with it.

    Returns:
        A `PretrainedClassifier`; or, of a format whose member gives no gradients, a member that only predicts.

    Raises:
        ZooMemberError: If the weights are missing, damaged, of another network or not finite, or the network cannot
            classify an image of the stated size.
    """
    member_format = format_named(config.format)
    if config.entry and config.entry.sha256 and _digest(config) != config.entry.sha256:
        reason = f"{config.weight_file.name} has another SHA-256 than the entry in zoo.yaml"
        raise ZooMemberError(config.path, reason, "restore the file, or add it again with `dfml zoo add`")
    network = _call(member_format.name, member_format.load, config, config.path)
    if not isinstance(network, nn.Module):
        if isinstance(network, BlackBoxClassifier):
            _query_once(config, network)
        return network
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ZooMemberError(
                config.path, f"{config.weight_file.name} holds NaN or infinite values in {name}", RESTORE
            )
    classifier = PretrainedClassifier(network, config.labels, config.preprocessing, source=str(config.path))
    _classify_one(config, classifier)
    return classifier


def _digest(config: MemberConfig) -> str:
    """SHA-256 of a member's weight file."""
    try:
        return sha256(config.weight_file)
    except OSError as error:
        reason = f"{config.weight_file.name} cannot be read ({error.strerror or error})"
        raise ZooMemberError(config.path, reason, RESTORE) from error


def load_entry(entry: ManifestMember, folder: Path, network: str | None = None) -> Predicts:
    """Load what an entry of a manifest describes, before the entry is written: to compare proposals, for example.

    Args:
        entry: The entry.
        folder: Folder that relative paths in it start from.
        network: See `read_member_config`.

    Raises:
        ZooMemberError: See `read_member_config` and `load_member`.
        ZooError: If there is no format of the entry's name.
    """
    config = read_entry(entry_path(folder, entry), entry, format_named(entry.format), network)
    return load_member(_checked(config, entry.format))


def _format_of_entry(path: Path, entry: ManifestMember) -> MemberFormat:
    """The format that an entry names; its absence is a mistake in this entry, and does not affect other members."""
    try:
        return format_named(entry.format)
    except ZooError as error:
        raise ZooMemberError(path, str(error), f"correct `format` of {entry.member_name} in zoo.yaml") from error


def _call(name: str, function: Callable[[Argument], Result], argument: Argument, path: Path) -> Result:
    """Call a function of the format `name`; whatever it raises becomes a `ZooMemberError`."""
    try:
        return function(argument)
    except ZooMemberError:
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        # The cause is unknown: a damaged file, or a mistake in the code of a format from outside.
        fix = "restore the file, or correct the format's reader"
        raise ZooMemberError(path, f"the format {name!r} cannot read it ({reason})", fix) from error


# Not inference mode: a network may cache tensors per image size; cached inference tensors would break later autograd.
@torch.no_grad()
def _classify_one(config: MemberConfig, classifier: PretrainedClassifier) -> None:
    size = config.preprocessing.size
    _check_cost(config, classifier.network)
    try:
        # Zeros after normalisation: every pixel has the mean colour of the preprocessing.
        logits = classifier.network(torch.zeros(1, 3, size, size))
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ZooMemberError(
            config.path,
            f"{config.architecture} cannot classify an image of {size} x {size} pixels, its input size ({reason})",
            _FIX_ENTRY if config.entry else _FIX_SIZE,
        ) from error
    expected = (1, len(config.labels))
    if logits.shape != expected or not bool(torch.isfinite(logits).all()):
        found = f"output of shape {tuple(logits.shape)} with {int(logits.isfinite().sum())} finite values"
        raise ZooMemberError(
            config.path, f"expected finite logits of shape {expected} for one image, found {found}", RESTORE
        )


_affordable: set[tuple[str, int, int]] = set()


def _check_cost(config: MemberConfig, network: nn.Module) -> None:
    """Check the memory and operations of one image; once for members that have the same network up to its weights."""
    size = config.preprocessing.size
    kind = config.network_key, len(config.labels), size
    if kind in _affordable:
        return
    try:
        largest_tensor(network, size)
    except TooCostlyError as error:
        fix = "correct the input size in its configuration, or leave the member out"
        raise ZooMemberError(config.path, f"at {size} x {size} pixels {error}", fix) from error
    _affordable.add(kind)


def _query_once(config: MemberConfig, member: Predicts) -> None:
    """Query a member that runs on this machine with one grey image; a service would have to be paid for."""
    size = config.preprocessing.size
    try:
        probabilities = teacher_logits(member, torch.full((1, 3, size, size), 0.5)).softmax(dim=1)
    except ZooMemberError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ZooMemberError(
            config.path, f"it cannot classify an image of {size} x {size} pixels ({reason})", RESTORE
        ) from error
    if not bool(probabilities.isfinite().all()):
        raise ZooMemberError(config.path, "its probabilities for one image are not finite", RESTORE)


def input_is_usable(size: object, mean: Sequence[float], std: Sequence[float]) -> bool:
    """Whether a network's input is within bounds: size, three means, three positive standard deviations."""
    return (
        isinstance(size, int)
        and 1 <= size <= MAX_SIZE
        and len(mean) == len(std) == 3
        and all(math.isfinite(value) and abs(value) <= MAX_MAGNITUDE for value in (*mean, *std))
        and min(std) >= MIN_STD
    )


def load_strictly(
    config: MemberConfig, build: Callable[[str], nn.Module], read: Callable[[], dict[str, Tensor]], fix: str
) -> nn.Module:
    """Build a network and load weights into it, after comparing names, shapes and kinds of values.

    Floating-point weights of any precision become float32.

    Args:
        config: The member's configuration, for messages.
        build: Returns the untrained network on a device, given by name; called with `meta` first, so that nothing is
            allocated for a network that does not fit.
        read: Returns the whole state dict from the weight file; called when the network has been built.
        fix: What the user can do when the weights do not fit the network.

    Raises:
        ZooMemberError: If the weights do not fit the network.
    """
    try:
        with bounded_modules():
            network = build("meta")
        check_buffers(network)
    except (TooManyModulesError, TooCostlyError) as error:
        raise ZooMemberError(config.path, f"{config.architecture} cannot be built: {error}", fix) from error
    weights = read()
    _compare(config, network.state_dict(), weights, fix)
    weights = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
    network.load_state_dict(weights, strict=True, assign=True)
    if any(tensor.is_meta for tensor in (*network.parameters(), *network.buffers())):
        # A buffer that is computed at construction and not saved: build once more, with memory.
        network = build("cpu")
        network.load_state_dict(weights, strict=True)
    return network


def _compare(config: MemberConfig, expected: dict[str, Tensor], found: dict[str, Tensor], fix: str) -> None:
    problems = [f"{name} is missing" for name in sorted(expected.keys() - found.keys())]
    problems += [f"{name} is not part of {config.architecture}" for name in sorted(found.keys() - expected.keys())]
    problems += [
        f"{name} has shape {tuple(found[name].shape)} where {tuple(tensor.shape)} is expected"
        for name, tensor in expected.items()
        if name in found and found[name].shape != tensor.shape
    ]
    problems += [
        f"{name} holds {found[name].dtype} where {tensor.dtype} is expected"
        for name, tensor in expected.items()
        if name in found and found[name].is_floating_point() != tensor.is_floating_point()
    ]
    if problems:
        more = f" and {len(problems) - 1} more differences" if len(problems) > 1 else ""
        raise ZooMemberError(
            config.path,
            f"{config.weight_file.name} does not fit {config.architecture} with {len(config.labels)} classes: "
            f"{problems[0]}{more}",
            fix,
        )


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with open_regular_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def weight_digest(path: Path) -> str | None:
    """SHA-256 of a member's weight file, as hex digits; None if there is no such file.

    Of several files it is the SHA-256 of their digests. Where the configuration cannot be read, the weight file is
    `model.safetensors`, as in timm's format.
    """
    try:
        entry = find_entry(path)
        file = entry.location(path.parent) if entry else path
        if entry and file.is_file():
            files: tuple[Path, ...] = (file,)
        else:
            config = read_member_config(file)
            files = config.shards or (config.weight_file,)
    except ZooError:
        files = (path / WEIGHTS,)
    try:
        digests = [sha256(file) for file in files]
    except OSError:
        return None
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()

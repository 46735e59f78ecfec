"""Reads the configuration of a member that has an entry in `zoo.yaml`."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from dfml.errors import ConfigError, ZooMemberError
from dfml.zoo.bounds import check_arguments
from dfml.zoo.formats import MemberConfig, MemberFormat
from dfml.zoo.manifest import MANIFEST, ManifestMember


def read_entry(path: Path, entry: ManifestMember, member_format: MemberFormat, network: str | None) -> MemberConfig:
    """Configuration of a member that has an entry.

    If the format recognises the file, such as a timm folder, the configuration is read there and the entry is only its
    address. Otherwise architecture, labels and preprocessing are those of the entry.

    Args:
        path: `ZOO/zoo.yaml#NAME`.
        entry: The entry.
        member_format: The format that the entry names.
        network: `FILE.py:CLASS` that the user named for this member (`Zoo.open(networks=...)`); None: none.

    Raises:
        ZooMemberError: If the file is missing, or the entry lacks something or names a Python file that the user did
            not name, or its arguments are out of bounds.
    """
    file = entry.location(path.parent)
    if not entry.is_remote and not file.exists():
        raise ZooMemberError(path, f"expected {file}, found no such file", f"correct `path` in {MANIFEST}")
    if not entry.is_remote and member_format.recognises(file):
        described = member_format.read_config(file)
        return replace(described, path=path, entry=entry, weights=described.weight_file)
    if entry.network is not None and not _same_network(path.parent, entry.network, network):
        stated = f"{MANIFEST} names {entry.network} as its network, which would be run"
        found = f"and you named {network}" if network else "and you have not named it"
        fix = f"if you trust that file, repeat it: --network {entry.member_name}={entry.network}"
        raise ZooMemberError(path, f"{stated}, {found}", fix)
    try:
        labels, preprocessing = entry.label_names(path.parent), entry.preprocessing()
    except ConfigError as error:
        raise ZooMemberError(path, str(error), f"correct the entry of {entry.member_name} in {MANIFEST}") from error
    check_arguments(path, entry.arguments, f"`arguments` in {MANIFEST}")
    written = isinstance(entry.architecture, str)
    return MemberConfig(
        path=path,
        format=entry.format,
        architecture=network or (str(entry.architecture) if written else "layers"),
        labels=labels,
        preprocessing=preprocessing,
        arguments=entry.arguments if written else {**entry.arguments, "layers": entry.architecture},
        details={} if entry.held_out_accuracy is None else {"held_out_accuracy": entry.held_out_accuracy},
        weights=file,
        entry=entry,
        network=network,
    )


def _same_network(folder: Path, stated: str, named: str | None) -> bool:
    """Whether the user named the file and class that the manifest states; a relative one may start at the zoo."""
    if named is None:
        return False
    file, _, name = stated.rpartition(":")
    file_named, _, name_named = named.rpartition(":")
    places = {os.path.abspath(place) for place in (file, folder / file)}
    return name == name_named and os.path.abspath(file_named) in places

"""Which members of a zoo can be used: all bad ones are found together, before any work starts."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from dfml.errors import ConfigError, ZooError, ZooMemberError, ZooMembersError
from dfml.zoo.formats import MemberConfig
from dfml.zoo.manifest import find_entry
from dfml.zoo.members import Predicts
from dfml.zoo.vetting import check_networks, load_member, read_member_config

OnBadMember = Literal["fail", "skip"]
"""What to do about members that cannot be used. `fail`: an error that lists all of them; `skip`: leave them out."""


@dataclass
class UsableMembers:
    """Members that can be used, as far as they were read.

    Attributes:
        configs: Name of a member -> its configuration, in the order of the zoo.
        loaded: Name -> member, of those whose weights were read too.
        left_out: Name of a member that is left out -> why, and what to do.
    """

    configs: dict[str, MemberConfig] = field(default_factory=dict)
    loaded: dict[str, Predicts] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


def read_usable(
    paths: Mapping[str, Path],
    networks: Mapping[str, str] | None = None,
    *,
    on_bad_member: OnBadMember = "fail",
    leave_out: Collection[str] = (),
    max_loaded: int = 1024,
) -> UsableMembers:
    """Read the configurations of a zoo's members; of a zoo with bad ones, or with `skip`, the weights too.

    Args:
        paths: Name of a member -> its path; see `dfml.zoo.folder.named_members`.
        networks: Name of a member -> `FILE.py:CLASS`; see `Zoo.open`.
        on_bad_member: What to do about members that cannot be used.
        leave_out: Names of members that are left out without being read.
        max_loaded: Largest number of members that are kept in memory after their weights were read.

    Raises:
        ZooMemberError: If one member cannot be used, and they are not skipped.
        ZooMembersError: If several cannot.
        ZooError: If none can be used.
        ConfigError: If `on_bad_member` is neither `fail` nor `skip`.
        UsageError: If `networks` has the name of no member.
    """
    if on_bad_member not in get_args(OnBadMember):
        raise ConfigError(f"on_bad_member: expected 'fail' or 'skip', found {on_bad_member!r}")
    check_networks(list(paths.values()), networks)
    found = UsableMembers(left_out={name: "it was left out before" for name in paths if name in leave_out})
    problems: dict[str, ZooMemberError] = {}
    for name, path in paths.items():
        if name in found.left_out:
            continue
        try:
            entry = find_entry(path)
            network = (networks or {}).get(entry.member_name) if entry else None
            found.configs[name] = read_member_config(path, network)
        except ZooMemberError as error:
            problems[name] = error
    # All bad members are to be listed at once, so that the first one ends nothing: the weights of the others count too.
    for name, config in found.configs.items() if problems or on_bad_member == "skip" else ():
        try:
            member = load_member(config)
        except ZooMemberError as error:
            problems[name] = error
            continue
        if len(found.loaded) < max_loaded:
            found.loaded[name] = member
    if on_bad_member == "fail":
        raise_problems([problems[name] for name in paths if name in problems], len(paths))
    for name in [name for name in paths if name in problems]:
        found.configs.pop(name, None)
        found.left_out[name] = f"{problems[name].reason}; {problems[name].fix}"
    if not found.configs:
        reasons = " | ".join(f"{name}: {reason}" for name, reason in found.left_out.items())
        raise ZooError(f"expected a zoo with members that can be used, found none among {len(paths)}: {reasons}")
    return found


def raise_problems(problems: list[ZooMemberError], members: int) -> None:
    """Raise the error for bad members, if there are any.

    Args:
        problems: One error per bad member.
        members: Number of members of the zoo.

    Raises:
        ZooMemberError: If there is one problem.
        ZooMembersError: If there are several.
    """
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise ZooMembersError(problems, members)

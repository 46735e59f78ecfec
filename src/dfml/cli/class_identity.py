"""The option `--class-identity` of subcommands that open a zoo, which may need images recovered from its members."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dfml.cli.options import MAX_RESIDENT, OnBadMember
from dfml.cli.output import Output
from dfml.errors import UsageError

if TYPE_CHECKING:
    from dfml.zoo.label_space import ClassIdentity

BEHAVIOUR = "behaviour"
"""Rule that matches outputs by what members predict for images recovered from each other."""

_LISTED = 200  # matches that are printed; `--json` and `--write-identity` have all


def resolve_identity(
    argument: str | None,
    zoo: Path | Sequence[Path],
    output: Output,
    networks: Mapping[str, str],
    *,
    max_resident: int = MAX_RESIDENT,
    on_bad_member: OnBadMember = "fail",
    leave_out: Collection[str] = (),
) -> ClassIdentity:
    """Read a class identity, or find it by behaviour, which takes minutes, and list what was matched.

    Args:
        argument: Value of the option; None: `names`.
        zoo: The folder of a zoo, or of several.
        output: Output of the subcommand.
        networks: See `Zoo.open`.
        max_resident: See `Zoo.open`.
        on_bad_member: See `Zoo.open`.
        leave_out: See `Zoo.open`.

    Raises:
        ConfigError: If the file that the argument names cannot be used.
        ZooError: If members cannot be used, or fewer than two can be inverted.
    """
    from dfml.zoo.label_space import read_identity

    if argument != BEHAVIOUR:
        return read_identity(argument or "names")
    from dfml.inversion.behaviour import identity_by_behaviour
    from dfml.training.progress import deferred_progress
    from dfml.zoo.zoo import Zoo

    members = Zoo.open(
        zoo,
        class_identity="distinct",
        networks=networks,
        max_resident=max_resident,
        on_bad_member=on_bad_member,
        leave_out=leave_out,
    )
    with deferred_progress("class identity") as report:
        found = identity_by_behaviour(members, on_member=lambda done, total: report(done, total, {}))
    for name, reason in found.left_out.items():
        output.say(f"{name}: its classes stay its own, because {reason}")
    for one, other, score in found.pairs[:_LISTED]:
        output.say(f"same class by behaviour: {one} and {other} (score {score:.2f})")
    if len(found.pairs) > _LISTED:
        output.say(f"... and {len(found.pairs) - _LISTED} more pairs")
    return found.mapping


def write_identity(identity: ClassIdentity, file: Path) -> None:
    """Write a class identity as a YAML file that `--class-identity` reads.

    Raises:
        UsageError: If the identity is a rule, which needs no file.
    """
    import yaml

    from dfml.files import atomic_write

    if isinstance(identity, str):
        raise UsageError(f"--write-identity needs --class-identity {BEHAVIOUR} or a file; {identity!r} is a rule")
    plain = {member: dict(labels) for member, labels in identity.items()}
    atomic_write(file, yaml.safe_dump(plain, sort_keys=False, allow_unicode=True))

"""`open_learner`: a saved learner by its folder, or `METHOD:ZOO` for a method with little or no training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from dfml.errors import LearnerError, UsageError
from dfml.learners.base import MetaLearner, ProtocolName
from dfml.learners.saving import CONFIG
from dfml.training.device import select_device
from dfml.training.progress import Progress

if TYPE_CHECKING:
    from dfml.zoo.usable_members import OnBadMember


def open_learner(
    name: str | Path,
    device: str | torch.device = "auto",
    *,
    way: int = 5,
    shot: int = 1,
    protocol: ProtocolName = "strict",
    seed: int = 0,
    progress: Callable[[str, int], Progress] | None = None,
    networks: Mapping[str, str] | None = None,
    on_bad_member: OnBadMember = "fail",
    on_left_out: Callable[[Mapping[str, str]], None] | None = None,
    max_resident: int | None = None,
) -> MetaLearner:
    """Open a saved learner, or make one by a method with little or no training.

    Args:
        name: Folder of a learner (from `dfml train`, `MetaLearner.save_pretrained` or a run's `snapshots/N`); or
            `METHOD:ZOO` for a method without meta-iterations or with `Method.trains_on_demand`, such as
            "zoo_embedding:zoo/". METHOD is a name or `MODULE:CLASS`; if the part before the first colon is the name of
            a method, everything behind it is the zoo.
        device: `auto` (the first GPU if there is one), a name such as "cuda:1", or a `torch.device`.
        way: Classes per episode. This and the following settings are for `METHOD:ZOO`; a folder has its own.
        shot: Support images per class.
        protocol: Evaluation protocol that the learner is made for.
        seed: Seed of all random numbers.
        progress: Makes the progress display of a training, from the method's name and the number of meta-iterations
            (`dfml.training.progress.show_progress`). None shows nothing.
        networks: Name of a member -> `FILE.py:CLASS`; see `Zoo.open`. Names that the zoo does not have are passed over
            here: they may be those of another `METHOD:ZOO`.
        on_bad_member: What to do about members of the zoo that cannot be used; see `Zoo.open`.
        on_left_out: Called with the members that are left out: name -> reason.
        max_resident: See `Zoo.open`; for `METHOD:ZOO`. None: the default of `Zoo.open`.

    Returns:
        The learner, on the device.

    Raises:
        LearnerError: If there is no such learner, its run is not finished, or the package of its kind is missing.
        UsageError: If the method has to be trained by `dfml train`, it cannot be imported, or there is no such device.
        DfmlError: If the method cannot use the zoo.
    """
    name = str(name)
    device = device if isinstance(device, torch.device) else select_device(device)
    if Path(name).is_dir():
        if not (Path(name) / CONFIG).exists() and (snapshots := _snapshots(Path(name))):
            raise LearnerError(
                f"the run {name} is not finished: continue it with `dfml train --resume`, or use its newest snapshot, "
                f"{snapshots[-1]}"
            )
        return MetaLearner.from_pretrained(name).to(device)
    from dfml.methods import find_method
    from dfml.zoo.zoo import MAX_RESIDENT, Zoo

    method_name, zoo = _split(name)
    if not method_name:
        raise LearnerError(
            f"expected a learner's folder (from `dfml train`) or METHOD:ZOO at {name}, found neither; check the path"
        )
    method = find_method(method_name)(way=way, shot=shot, protocol=protocol, seed=seed)
    iterations = method.config.iterations
    command = f"`dfml train {zoo} --method {method_name} --out LEARNER`"
    if iterations and not method.trains_on_demand:
        raise UsageError(f"{method_name} has to be trained before it is used: {command}")
    known = owner_network_names(zoo)
    own = {member: network for member, network in (networks or {}).items() if member in known}
    members = Zoo.open(zoo, networks=own, on_bad_member=on_bad_member, max_resident=max_resident or MAX_RESIDENT)
    if on_left_out:
        on_left_out(members.left_out)
    shown = progress(method.name, iterations) if progress and iterations else None
    if shown:
        shown.message(f"{method_name} is trained on {zoo} first; {command} would keep it")
    return method.fit(members, device=str(device), progress=shown)


def owner_network_names(zoo: str | Path) -> set[str]:
    """Names of the members of a zoo whose network its manifest may describe; empty where there is no manifest.

    Raises:
        ZooError: If the manifest cannot be read.
    """
    from dfml.zoo.hub import is_hub_id
    from dfml.zoo.manifest import read_manifest

    manifest = None if is_hub_id(zoo) else read_manifest(Path(zoo))
    return {member.member_name for member in manifest.members} if manifest else set()


def zoo_of(name: str) -> str | None:
    """The zoo of `METHOD:ZOO`; None for a learner's folder."""
    return None if Path(name).is_dir() else _split(name)[1] or None


def _snapshots(run: Path) -> list[Path]:
    from dfml.training.run_folder import list_snapshots

    return list_snapshots(run)


def _split(name: str) -> tuple[str, str]:
    """Split `METHOD:ZOO` into its parts; both are empty if the name has another form.

    A module is imported only if the folder of the zoo exists: otherwise a mistyped path could run code.
    """
    from dfml.methods import method_names
    from dfml.methods.plugins import is_path
    from dfml.zoo.hub import is_hub_id

    method, _, zoo = name.partition(":")
    if zoo and method in method_names():
        return method, zoo
    class_name, _, zoo = zoo.partition(":")
    path = f"{method}:{class_name}"
    return (path, zoo) if is_path(path) and zoo and (is_hub_id(zoo) or Path(zoo).is_dir()) else ("", "")

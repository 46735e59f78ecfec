"""`open_learner`: a saved learner by its folder, or `METHOD:ZOO` for a method that needs no training."""

from __future__ import annotations

from pathlib import Path

import torch

from dfml.errors import LearnerError, UsageError
from dfml.learners.base import MetaLearner, ProtocolName
from dfml.learners.classifier import CONFIG
from dfml.methods import find_method, method_names
from dfml.methods.plugins import is_path
from dfml.training.run_folder import list_snapshots
from dfml.zoo.zoo import Zoo


def open_learner(
    name: str, device: torch.device, *, way: int = 5, shot: int = 1, protocol: ProtocolName = "strict", seed: int = 0
) -> MetaLearner:
    """A saved learner by its folder, or `METHOD:ZOO` for a method that needs no training.

    Args:
        name: What the user wrote. A method is a name, or `MODULE:CLASS`; where the part before the first colon is the
            name of a method, all that follows is the zoo.
        device: Where the learner will compute.
        way: For a method.
        shot: For a method.
        protocol: For a method.
        seed: For a method.

    Raises:
        LearnerError: If there is no learner of that name, or nobody has announced the module of its kind.
        UsageError: If the method has to be trained first, or cannot be imported.
        DfmlError: If the method cannot use the zoo.
    """
    if Path(name).is_dir():
        snapshots = list_snapshots(Path(name))
        if snapshots and not (Path(name) / CONFIG).exists():
            raise LearnerError(
                f"the run {name} is not finished: continue it with `dfml train --resume`, or use its newest snapshot, "
                f"{snapshots[-1]}"
            )
        return MetaLearner.from_pretrained(name).to(device)
    method, zoo = _split(name)
    if not method:
        raise LearnerError(
            f"expected a learner's folder (from `dfml train`) or METHOD:ZOO at {name}, found neither; check the path"
        )
    untrained = find_method(method)(way=way, shot=shot, protocol=protocol, seed=seed)
    if untrained.config.iterations:
        raise UsageError(
            f"{method} has to be trained before it is used: `dfml train {zoo} --method {method} --out LEARNER`"
        )
    return untrained.fit(Zoo.open(zoo), device=str(device))


def _split(name: str) -> tuple[str, str]:
    """`METHOD:ZOO` -> its parts; both empty if it is of another form. Only a zoo that is there makes a module run."""
    method, _, zoo = name.partition(":")
    if zoo and method in method_names():
        return method, zoo
    owner, _, zoo = zoo.partition(":")
    path = f"{method}:{owner}"
    return (path, zoo) if is_path(path) and zoo and Path(zoo).is_dir() else ("", "")

"""Names on the command line -> the learners and labelled images that they mean. Imported when a verb runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from dfml.cli.late import late_progress
from dfml.data.dataset import ImageDataset
from dfml.data.glyphs import glyphs
from dfml.data.image_folder import open_images
from dfml.data.sources import arrange, open_source
from dfml.errors import LearnerError, UsageError
from dfml.evaluation.snapshots import list_snapshots
from dfml.learners.base import MetaLearner, ProtocolName
from dfml.learners.classifier import CONFIG
from dfml.methods import find_method, method_names
from dfml.methods.elsewhere import is_path
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


def open_data(name: str, *, split: str | None, usual: str, official: str | None, size: int) -> ImageDataset:
    """An image folder, a zip of one, or `glyphs`.

    Args:
        name: What the user wrote.
        split: As the user asked; None: `usual`, or everything where the images are in no splits.
        usual: The split that the verb is about.
        official: A benchmark whose official class split divides the folder.
        size: Pixels a side.

    Raises:
        DfmlError: If the images cannot be opened like that.
    """
    if name == "glyphs":
        return glyphs(split or usual, size=size)
    if split is None and (official is not None or "" not in arrange(open_source(name))):
        split = usual
    with late_progress(f"decoding {Path(name).stem}") as report:
        return open_images(
            name, split=split, official=official, size=size, progress=lambda done, total: report(done, total, {})
        )


def distinct_names(learners: Sequence[MetaLearner], sources: Sequence[str]) -> list[str]:
    """What each learner is called in tables: its own name, with its source where two have the same."""
    names = [learner.name for learner in learners]
    return [
        f"{name} ({source})" if names.count(name) > 1 else name for name, source in zip(names, sources, strict=True)
    ]

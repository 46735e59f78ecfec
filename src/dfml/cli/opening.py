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
from dfml.methods import METHODS
from dfml.zoo.zoo import Zoo


def open_learner(
    name: str, device: torch.device, *, way: int = 5, shot: int = 1, protocol: ProtocolName = "strict", seed: int = 0
) -> MetaLearner:
    """A saved learner by its folder, or `METHOD:ZOO` for a method that needs no training.

    Args:
        name: What the user wrote.
        device: Where the learner will compute.
        way: For a method.
        shot: For a method.
        protocol: For a method.
        seed: For a method.

    Raises:
        LearnerError: If there is no learner of that name.
        UsageError: If the method has to be trained first.
        DfmlError: If the method cannot use the zoo.
    """
    method, _, zoo = name.partition(":")
    if Path(name).is_dir():
        snapshots = list_snapshots(Path(name))
        if snapshots and not (Path(name) / CONFIG).exists():
            raise LearnerError(
                f"the run {name} is not finished: continue it with `dfml train --resume`, or use its newest snapshot, "
                f"{snapshots[-1]}"
            )
        return MetaLearner.from_pretrained(name).to(device)
    if not zoo or method not in METHODS:
        raise LearnerError(
            f"expected a learner's folder (from `dfml train`) or METHOD:ZOO at {name}, found neither; check the path"
        )
    untrained = METHODS[method](way=way, shot=shot, protocol=protocol, seed=seed)
    if untrained.config.iterations:
        raise UsageError(
            f"{method} has to be trained before it is used: `dfml train {zoo} --method {method} --out LEARNER`"
        )
    return untrained.fit(Zoo.open(zoo), device=str(device))


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

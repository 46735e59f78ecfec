"""What the zoo tab shows: members, classes, recovered images and their fidelity, from a run or from `dfml invert`.

A run of `dfml train` keeps its zoo's path and, in its newest checkpoint, the images that it has recovered. The output
of `dfml invert` holds images and their fidelity.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import torch
import yaml
from jaxtyping import Float
from torch import Tensor

from dfml.data.support import read_image
from dfml.errors import RunError
from dfml.files import check_format_version
from dfml.inversion.fidelity import FidelityMeter
from dfml.inversion.inverted import folder_names
from dfml.methods import find_method
from dfml.training.loop import TrainingRun, restore
from dfml.training.run_folder import CONFIG, RunFolder
from dfml.zoo.zoo import Zoo

_IMAGES, _CLASSES, _LARGEST_SIDE = 10, 50, 224  # shown of a class, of a member, and pixels of an image

ClassImages = list[tuple[str, Float[Tensor, "_images 3 _size _size"]]]
"""Label and recovered images, in [0, 1], of every class of a member."""


class ZooView(ABC):
    """Members of a zoo, and images that were recovered from them.

    Attributes:
        source: Where members and images come from.
        headings: Headings of `rows`.
    """

    source: str
    headings: ClassVar[tuple[str, ...]]

    @abstractmethod
    def rows(self) -> list[list[str]]:
        """One row per member; the first cell is its name."""

    @abstractmethod
    def recovered(self, member: int) -> ClassImages:
        """At most 10 images of each of the first 50 classes of a member; no images where none were kept.

        Raises:
            DfmlError: If they cannot be read.
        """

    @abstractmethod
    def fidelity(self, member: int, images: ClassImages) -> str:
        """What is known about the fidelity of a member's images, from `recovered`, in sentences.

        Raises:
            DfmlError: If a member that is asked about them cannot be loaded.
        """


class TrainedZoo(ZooView):
    """The zoo of a learner, with the images of its training.

    Args:
        zoo: The zoo.
        run: The run as its newest checkpoint left it; None if there is none.
        source: See `ZooView`.
    """

    headings = ("member", "network", "pixels", "classes")

    def __init__(self, zoo: Zoo, run: TrainingRun | None, source: str) -> None:
        self._zoo, self._run, self.source = zoo, run, source

    def rows(self) -> list[list[str]]:
        """See `ZooView.rows`."""
        configs = [config for config in self._zoo.member_configs if config]
        return [
            [self._zoo.name(index), each.architecture, str(each.preprocessing.size), ", ".join(each.labels)]
            for index, each in enumerate(configs)
        ]

    def recovered(self, member: int) -> ClassImages:
        """See `ZooView.recovered`."""
        config = self._zoo.member_configs[member]
        assert config is not None  # the zoo was opened from a path
        none = torch.empty(0, 3, 1, 1)
        return [
            (label, self._run.images(index, _IMAGES) if self._run else none)
            for label, index in list(zip(config.labels, self._zoo.classes.of_member[member], strict=True))[:_CLASSES]
        ]

    def fidelity(self, member: int, images: ClassImages) -> str:
        """See `ZooView.fidelity`; it is measured on these images."""
        counts = [len(of_class) for _, of_class in images]
        if not sum(counts):
            return (
                "This learner's folder holds no images of this member. Recover some with `dfml invert ZOO --out "
                "IMAGES` and start `dfml playground --recovered IMAGES`."
            )
        meter = FidelityMeter(self._zoo, member)
        for output, (_, of_class) in enumerate(images):
            if len(of_class):
                meter.add(of_class, torch.full((len(of_class),), output))
        found = meter.read()
        text = f"The member predicts the intended class for {found.agreement:.0%} of these {sum(counts)} images"
        if found.other_agreement is None:
            return f"{text}; no other member has its classes."
        return f"{text}; other members with the class for {found.other_agreement:.0%}."


class InvertedZoo(ZooView):
    """Output folder of `dfml invert`.

    Args:
        folder: The folder.

    Raises:
        RunError: If it holds no output of `dfml invert`.
    """

    headings = ("member", "recognised by itself", "by other members", "classes")

    def __init__(self, folder: Path) -> None:
        self._folder, self.source = folder, f"dfml invert, {folder}"
        try:
            content = json.loads((folder / "fidelity.json").read_text(encoding="utf-8"))
            self._members: dict[str, dict[str, Any]] = dict(content["members"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(
                f"expected the output folder of `dfml invert` at {folder}, found no fidelity.json that can be read "
                f"({error}); check --recovered"
            ) from error
        self._names = list(self._members)

    def rows(self) -> list[list[str]]:
        """See `ZooView.rows`."""
        return [
            [name, _percent(each["agreement"]), _percent(each["other_agreement"]), ", ".join(each["labels"])]
            for name, each in self._members.items()
        ]

    def recovered(self, member: int) -> ClassImages:
        """See `ZooView.recovered`."""
        name = self._names[member]
        labels = self._members[name]["labels"][:_CLASSES]
        folders = zip(labels, folder_names(self._members[name]["labels"]), strict=False)
        # An engine whose images are of a class, not of a member, writes no folders of members.
        parent = self._folder / name if (self._folder / name).is_dir() else self._folder
        return [(label, _read_images(parent / folder)) for label, folder in folders]

    def fidelity(self, member: int, images: ClassImages) -> str:
        """See `ZooView.fidelity`; it was measured on all images that were recovered."""
        found = self._members[self._names[member]]
        warning = f" {found['warning']}." if found["warning"] else ""
        text = f"The member predicts the intended class for {_percent(found['agreement'])} of its recovered images"
        if found["other_agreement"] is None:
            return f"{text}; no other member has its classes.{warning}"
        return f"{text}; other members with the class for {_percent(found['other_agreement'])}.{warning}"


def open_zoo_view(learner: str, recovered: Path | None = None) -> ZooView:
    """Open what the zoo tab shows.

    Args:
        learner: Folder of a learner, or `METHOD:ZOO`.
        recovered: Output folder of `dfml invert`, which is shown in place of the learner's zoo; None: none.

    Raises:
        DfmlError: If there is nothing to show; the message says what to do.
    """
    if recovered:
        return InvertedZoo(recovered)
    folder = Path(learner)
    if not folder.is_dir() and ":" in learner:
        zoo = learner.partition(":")[2]
        return TrainedZoo(Zoo.open(zoo), None, zoo)
    try:
        config = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise RunError(
            f"{folder} is no run of `dfml train` (it has no {CONFIG}), so its zoo is not known; show images of a zoo "
            "with `dfml invert ZOO --out IMAGES` and `dfml playground --recovered IMAGES`"
        ) from error
    check_format_version(config.get("format_version"), f"the run {folder}", RunError)
    paths = config["zoo"] if isinstance(config["zoo"], list) else [config["zoo"]]
    zoo_of_run = Zoo.open(
        [_find(path, folder) for path in paths],
        class_identity=config["class_identity"],
        leave_out=config.get("left_out", ()),
    )
    newest = RunFolder(folder).newest_checkpoint()
    if newest is None:
        return TrainedZoo(zoo_of_run, None, ", ".join(paths))
    method = find_method(config["method"])
    run = method(**config[method.name]).start(zoo_of_run, torch.device("cpu"))
    restore(run, newest, torch.device("cpu"))
    return TrainedZoo(zoo_of_run, run, f"{', '.join(paths)}; images: {newest}")


def _find(zoo: str, run: Path) -> str:
    """The path of a run's zoo; beside the run if it is not there any more, as in a quickstart that was moved."""
    beside = run.absolute().parent / Path(zoo).name
    return str(beside) if not Path(zoo).exists() and beside.is_dir() else zoo


def _read_images(folder: Path) -> Float[Tensor, "_images 3 _size _size"]:
    from PIL import Image

    files = sorted(folder.glob("*.png"))[:_IMAGES]
    if not files:
        return torch.empty(0, 3, 1, 1)
    with Image.open(files[0]) as first:
        size = min(*first.size, _LARGEST_SIDE)
    return torch.stack([read_image(file, size) for file in files])


def _percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{fraction:.0%}"

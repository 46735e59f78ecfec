"""`invert`: recover images of every class from the members of a zoo, and measure how faithful they are."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dfml.errors import RunError, UsageError
from dfml.files import shape_mismatch
from dfml.images import to_pil
from dfml.inversion.engine import Engine, InversionRun, Target
from dfml.inversion.fidelity import Fidelity, FidelityMeter
from dfml.inversion.loss import InversionLoss
from dfml.inversion.registry import (
    InversionConfig,
    LearnedEngine,
    create_engine,
    missing_requirement,
    require_learned,
    without_member_state,
)
from dfml.settings import build_config, merge
from dfml.zoo.pretrained import Preprocessing
from dfml.zoo.zoo import Zoo

KEPT_IMAGES, KEPT_CLASSES = 12, 20
"""Images per class, and classes per member, that are returned when the images are written to a folder."""

_PIXELS_AT_ONCE = 2**22  # per round, with all that gradients need: 83 images of 224 x 224

OnStep = Callable[[str, int, int, Mapping[str, float]], None]
"""Called with (member's name, steps done, steps in total, losses) after every step."""


@dataclass(frozen=True)
class InvertedMember:
    """What was recovered from one member.

    Attributes:
        name: Name of the member in the zoo.
        labels: Names of its classes.
        count: Number of images recovered, all classes together.
        images: For every class its images in [0, 1]; with an output folder only the first 12 images of the first 20
            classes, so that a large zoo does not fill the memory.
        fidelity: How faithful all images are.
    """

    name: str
    labels: tuple[str, ...]
    count: int
    images: tuple[Float[Tensor, "_images 3 _size _size"], ...]
    fidelity: Fidelity


def invert(
    zoo: Zoo,
    *,
    engine: str = "ei",
    members: Sequence[str | int] | None = None,
    per_class: int = 10,
    learned: LearnedEngine | None = None,
    config: InversionConfig | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    on_step: OnStep | None = None,
) -> list[InvertedMember]:
    """Recover images of every class from members of a zoo, one member after the other, without any training image.

    Args:
        zoo: The members; they stay on the zoo's device (`Zoo.to`).
        engine: Name of the inversion engine: `ei`, `cmi`, `five`, `fast_dfkd`, or one of another package.
        members: Names or indices of the members; None: all.
        per_class: Number of images of each class.
        learned: What a run has meta-trained (`dfml.read_engine`); required for engines that are meta-trained.
        config: Settings, as `inversion_settings` makes them; None: the run's, or the defaults.
        out: Folder in which `MEMBER/CLASS/0000.png` are written; None keeps all images in memory instead.
        seed: Seed of all draws. No member influences the images of another.
        on_step: Called after every step.

    Returns:
        One entry per member, in the order of `members`.

    Raises:
        UsageError: If a member or the engine is unknown, or a meta-trained engine comes without what it has learned.
        RunError: If `learned` does not fit the settings.
    """
    config = config or inversion_settings(engine, learned)
    engine = config.engine
    require_learned(engine, learned)
    chosen = member_indices(zoo, members)
    shared = _learned(config, learned, seed, zoo.device) if learned else None
    inverted = []
    for index in chosen:
        own = shared or _engine(config, zoo[index].preprocessing, seed, zoo.device)
        size = max(zoo[index].preprocessing.size, learned.preprocessing.size if learned else 0)
        folder = Path(out) / zoo.name(index) if out else None
        inverted.append(_invert_member(zoo, index, own, config, size, per_class, folder, on_step))
    return inverted


def inversion_settings(
    engine: str, learned: LearnedEngine | None = None, settings: Mapping[str, Any] | None = None
) -> InversionConfig:
    """Settings of `invert`: the defaults, or those of the run that trained the engine, with some overridden.

    Args:
        engine: Name of the engine.
        learned: What a run has meta-trained.
        settings: Settings of the engine to override, nested as in YAML.

    Raises:
        UsageError: If the engine or a setting is unknown, or a setting has a wrong value.
    """
    require_learned(engine, learned)
    base = learned.config if learned else InversionConfig()
    section = base.section(engine)
    values = merge(section.model_dump(), settings or {})
    if values["weights"]["disagreement"] != section.weights.disagreement:
        raise UsageError("inversion by itself has no student to disagree with: leave weights.disagreement out")
    values["weights"]["disagreement"] = 0.0
    return base.model_copy(update={"engine": engine, engine: build_config(type(section), values, section=engine)})


def member_indices(zoo: Zoo, members: Sequence[str | int] | None) -> list[int]:
    """Indices of members given by name or index; all members for None.

    Raises:
        UsageError: If there is no such member.
    """
    by_name = {zoo.name(index): index for index in range(len(zoo))}
    indices = []
    for member in range(len(zoo)) if members is None else members:
        index = by_name.get(member, -1) if isinstance(member, str) else member
        if not 0 <= index < len(zoo):
            raise UsageError(f"the zoo has no member {member!r}; `dfml zoo inspect` lists them")
        indices.append(index)
    return indices


def _engine(config: InversionConfig, preprocessing: Preprocessing, seed: int, device: torch.device) -> Engine:
    return create_engine(config, preprocessing, seed=seed, device=device, stacked=False)


def _learned(config: InversionConfig, learned: LearnedEngine, seed: int, device: torch.device) -> Engine:
    engine = _engine(config, learned.preprocessing, seed, device)
    mismatch = shape_mismatch(learned.tensors, without_member_state(engine.state_dict()))
    if mismatch:
        raise RunError(
            f"the engine {config.engine} of {learned.source} does not fit the settings: {mismatch}; leave width and "
            "latent as they are in the run"
        )
    engine.load_state_dict(learned.tensors)
    return engine


def _invert_member(
    zoo: Zoo,
    index: int,
    engine: Engine,
    config: InversionConfig,
    size: int,
    per_class: int,
    folder: Path | None,
    on_step: OnStep | None,
) -> InvertedMember:
    classifier, name = zoo[index], zoo.name(index)
    reason = missing_requirement(config.engine, classifier)
    if reason:
        raise UsageError(f"{name} cannot be inverted: {reason}; choose other members")
    meter = FidelityMeter(zoo, index)
    folders = folder_names(classifier.labels)
    most_images, most_classes = (KEPT_IMAGES, KEPT_CLASSES) if folder else (per_class, len(folders))
    kept: list[list[Tensor]] = [[] for _ in folders[:most_classes]]
    rounds = plan_rounds(len(folders), per_class, size, config.classes_per_round)
    for round_index, (classes, numbers) in enumerate(rounds):
        labels = torch.tensor(classes, device=zoo.device).repeat_interleave(len(numbers))
        run = engine.start([Target(name, classifier, labels)], round_index)

        def report(losses: list[InversionLoss], run: InversionRun = run, done: int = round_index) -> None:
            if on_step:
                figures = {"label_loss": losses[0].label.item(), "batch_norm": losses[0].batch_norm.item()}
                on_step(name, done * engine.steps + run.done, len(rounds) * engine.steps, figures)

        run.take_steps(engine.steps, report)
        (images,) = run.images()
        meter.add(images, labels)
        for label, of_class in zip(classes, torch.split(images.cpu(), len(numbers)), strict=True):
            if folder:
                _write(folder / folders[label], numbers, of_class)
            if label < len(kept):
                kept[label].append(of_class[: max(0, most_images - numbers.start)].clone())
    count = len(folders) * per_class
    return InvertedMember(name, classifier.labels, count, tuple(torch.cat(each) for each in kept), meter.read())


def plan_rounds(outputs: int, per_class: int, size: int, classes_per_round: int) -> list[tuple[range, range]]:
    """Divide the images of one member into rounds, each recovered together: (classes, numbers of their images).

    A round has as many classes as possible, because its images are to match running statistics over all classes; where
    they do not fit the memory, it has fewer images of each.

    Args:
        outputs: Number of classes of the member.
        per_class: Number of images of each class.
        size: Height and width of the images in pixels.
        classes_per_round: Largest number of classes of a round.
    """
    groups = math.ceil(outputs / classes_per_round)
    ends = [round(outputs * number / groups) for number in range(groups + 1)]
    rounds = []
    for start, stop in itertools.pairwise(ends):
        at_once = max(1, _PIXELS_AT_ONCE // ((stop - start) * size**2))
        parts = math.ceil(per_class / at_once)
        bounds = [round(per_class * number / parts) for number in range(parts + 1)]
        rounds += [(range(start, stop), range(*numbers)) for numbers in itertools.pairwise(bounds)]
    return rounds


def _write(folder: Path, numbers: range, images: Tensor) -> None:
    folder.mkdir(parents=True, exist_ok=numbers.start > 0)
    for number, image in zip(numbers, images, strict=True):
        to_pil(image).save(folder / f"{number:04d}.png")


def folder_names(labels: Sequence[str]) -> list[str]:
    """Folder names for labels: safe whatever the labels hold, and distinct on file systems that ignore case."""
    names: list[str] = []
    taken: set[str] = set()
    for index, label in enumerate(labels):
        name = plain = re.sub(r"[^\w.,+()-]+", "_", label).strip("._")[:80] or "class"
        while name.lower() in taken:
            name = f"{plain}-{index}"
            index += 1
        taken.add(name.lower())
        names.append(name)
    return names

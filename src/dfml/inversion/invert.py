"""`invert`: recover images of every class from the members of a zoo, and measure how faithful they are."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from dfml.errors import RunError, UsageError
from dfml.files import shape_mismatch
from dfml.inversion.engine import Engine, InversionRun, Target
from dfml.inversion.fidelity import FidelityMeter
from dfml.inversion.inverted import SHARED_CLASSES, ClassImages, InvertedMember, plan_rounds
from dfml.inversion.loss import InversionLoss
from dfml.inversion.registry import (
    InversionConfig,
    LearnedEngine,
    create_engine,
    missing_requirement,
    require_learned,
    shares_pixels,
    without_member_state,
)
from dfml.settings import build_config, merge
from dfml.zoo.pretrained import Preprocessing
from dfml.zoo.zoo import Zoo

OnStep = Callable[[str, int, int, Mapping[str, float]], None]
"""Called with (member's name, steps done, steps in total, losses) after every step."""


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
    """Recover images of every class from members of a zoo, without any training image.

    Members are inverted one after the other; by an engine that shares pixels (`consensus`) all together, and a class
    that several of them have is recovered once.

    Args:
        zoo: The members; they stay on the zoo's device (`Zoo.to`).
        engine: Name of the inversion engine: `ei`, `consensus`, `cmi`, `five`, `fast_dfkd`, or one of another package.
        members: Names or indices of the members; None: all.
        per_class: Number of images of each class.
        learned: What a run has meta-trained (`dfml.read_engine`); required for engines that are meta-trained.
        config: Settings, as `inversion_settings` makes them; None: the run's, or the defaults.
        out: Folder in which `MEMBER/CLASS/0000.png` are written, or `CLASS/0000.png` by an engine that shares pixels;
            None keeps all images in memory instead.
        seed: Seed of all draws. Members influence each other's images only if they share pixels.
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
    if shares_pixels(engine):
        return _invert_together(zoo, chosen, config, per_class, Path(out) if out else None, seed, on_step)
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


def not_invertible(zoo: Zoo, engine: str) -> dict[str, str]:
    """Members that an engine cannot invert: name -> reason.

    Args:
        zoo: The members.
        engine: Name of the engine.
    """
    reasons = ((zoo.name(index), missing_requirement(engine, zoo[index])) for index in range(len(zoo)))
    return {name: reason for name, reason in reasons if reason is not None}


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
    _require_invertible(zoo, [index], config.engine)
    meter = FidelityMeter(zoo, index)
    found = ClassImages(classifier.labels, per_class, folder)
    rounds = plan_rounds(len(classifier.labels), per_class, size, config.classes_per_round)
    for round_index, (classes, numbers) in enumerate(rounds):
        labels = torch.tensor(classes, device=zoo.device).repeat_interleave(len(numbers))
        run = engine.start([Target(name, classifier, labels)], round_index)
        _take_all_steps(run, engine.steps, name, round_index, len(rounds), on_step)
        (images,) = run.images()
        meter.add(images, labels)
        found.add(classes, numbers, images)
    return InvertedMember(name, classifier.labels, _class_names(zoo, index), per_class, found.read(), meter.read())


def _invert_together(
    zoo: Zoo,
    indices: Sequence[int],
    config: InversionConfig,
    per_class: int,
    folder: Path | None,
    seed: int,
    on_step: OnStep | None,
) -> list[InvertedMember]:
    """Invert members by an engine that shows the same images of a class to all members that have the class."""
    if not indices:
        return []
    _require_invertible(zoo, indices, config.engine)
    preprocessing = zoo.preprocessing(None)
    engine = _engine(config, preprocessing, seed, zoo.device)
    classes = sorted({label for index in indices for label in zoo.classes.of_member[index]})
    found = ClassImages([zoo.classes.names[label] for label in classes], per_class, folder, most_classes=SHARED_CLASSES)
    meters = {index: FidelityMeter(zoo, index) for index in indices}
    rounds = plan_rounds(len(classes), per_class, preprocessing.size)
    for round_index, (positions, numbers) in enumerate(rounds):
        targets, members = [], []
        for index in indices:
            places = {label: output for output, label in enumerate(zoo.classes.of_member[index])}
            own = [place for place in positions if classes[place] in places]
            if not own:
                continue
            outputs = torch.tensor([places[classes[place]] for place in own], device=zoo.device)
            images = torch.tensor(own, device=zoo.device)[:, None] - positions.start
            images = images * len(numbers) + torch.arange(len(numbers), device=zoo.device)
            labels = outputs.repeat_interleave(len(numbers))
            targets.append(Target(zoo.name(index), zoo[index], labels, images=images.flatten()))
            members.append(index)
        run = engine.start(targets, round_index)
        _take_all_steps(run, engine.steps, "all members", round_index, len(rounds), on_step)
        pixels = preprocessing.size
        of_round = torch.empty(len(positions) * len(numbers), 3, pixels, pixels, device=zoo.device)
        for index, target, images in zip(members, targets, run.images(), strict=True):
            meters[index].add(images, target.labels)
            of_round[target.images] = images
        found.add(positions, numbers, of_round)
    images_of = dict(itertools.zip_longest(classes, found.read(), fillvalue=torch.empty(0, 3, 1, 1)))
    return [
        InvertedMember(
            zoo.name(index),
            zoo[index].labels,
            _class_names(zoo, index),
            per_class,
            tuple(images_of[label] for label in zoo.classes.of_member[index]),
            meters[index].read(),
        )
        for index in indices
    ]


def _class_names(zoo: Zoo, index: int) -> tuple[str, ...]:
    return tuple(zoo.classes.names[label] for label in zoo.classes.of_member[index])


def _require_invertible(zoo: Zoo, indices: Sequence[int], engine: str) -> None:
    for index in indices:
        reason = missing_requirement(engine, zoo[index])
        if reason:
            raise UsageError(f"{zoo.name(index)} cannot be inverted: {reason}; choose other members")


def _take_all_steps(
    run: InversionRun, steps: int, name: str, round_index: int, rounds: int, on_step: OnStep | None
) -> None:
    def report(losses: list[InversionLoss]) -> None:
        if on_step:
            values = {"label_loss": [loss.label for loss in losses], "batch_norm": [loss.batch_norm for loss in losses]}
            figures = {key: torch.stack(parts).mean().item() for key, parts in values.items()}
            on_step(name, round_index * steps + run.done, rounds * steps, figures)

    run.take_steps(steps, report)

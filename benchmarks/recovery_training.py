"""Meta-training of FIVE and FastDFKD for `benchmarks/recovery.py`, without the new members."""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from dfml import seeds
from dfml.errors import UsageError
from dfml.inversion.engine import Target, balanced_labels
from dfml.inversion.meta_generator import MetaGenerator
from dfml.zoo.zoo import Zoo
from recovery_figures import FAST, FIVE


@dataclass
class MetaTraining:
    """Course of the meta-training of one generator.

    Attributes:
        device: Name of the device.
        threads: CPU threads.
        updates: Number of outer updates.
        seconds: Duration.
        excluded: Number of inversion runs that diverged and were left out of their outer update.
        cross_entropy: For every update, the members' mean cross-entropy on augmented images at the first and at the
            last of the k steps.
    """

    device: str
    threads: int
    updates: int = 0
    seconds: float = 0.0
    excluded: int = 0
    cross_entropy: list[tuple[float, float]] = field(default_factory=list)


def meta_train_all(
    zoo: Zoo, members: Sequence[int], engines: Mapping[str, Any], device: torch.device, arguments: argparse.Namespace
) -> dict[str, MetaTraining]:
    """Meta-train FIVE and FastDFKD, or read them from `--generator`."""
    names = (FIVE, FAST)
    names_of_conditions = ("seed", "members_per_update", "per_class", "meta_updates", "minutes")
    conditions: dict[str, Any] = {name: getattr(arguments, name) for name in names_of_conditions}
    conditions |= {"zoo": arguments.zoo.resolve().name, "members": [zoo.name(member) for member in members]}
    conditions |= {name: engines[name].config.model_dump(mode="json") for name in names}
    path: Path | None = arguments.generator
    if path and path.exists():
        return load_generators(path, conditions, {name: engines[name] for name in names}, device)
    training: dict[str, MetaTraining] = {}
    tensors: dict[str, Tensor] = {}
    for name in names:
        # Stacked on a GPU, where one call for several members is faster; new members are inverted one by one.
        stacked, config = device.type == "cuda", engines[name].config
        engine = MetaGenerator(config, zoo.preprocessing(), seed=arguments.seed, device=device, stacked=stacked)
        training[name] = meta_train(name, engine, zoo, members, device, arguments)
        engines[name].load_state_dict(engine.state_dict())
        tensors |= {f"{name}.{key}": value for key, value in engine.state_dict().items()}
    if path:
        plain = {
            key: value.detach().cpu().clone(memory_format=torch.contiguous_format) for key, value in tensors.items()
        }
        about = {"conditions": conditions, "training": {name: asdict(each) for name, each in training.items()}}
        save_file(plain, path, metadata={"about": json.dumps(about)})
    return training


def load_generators(
    path: Path, conditions: Mapping[str, Any], engines: Mapping[str, MetaGenerator], device: torch.device
) -> dict[str, MetaTraining]:
    """Load meta-trained generators from a file that an earlier benchmark wrote.

    Raises:
        UsageError: If the file is another one, or was written under other conditions (such as other members).
    """
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {})["about"])
        tensors = load_file(path, device=str(device))
    except (SafetensorError, KeyError, ValueError) as error:
        raise UsageError(
            f"expected meta-trained generators of this benchmark in {path}, found none; delete it"
        ) from error
    different = [key for key in conditions if conditions[key] != about["conditions"].get(key)]
    if different:
        raise UsageError(f"{path} was meta-trained with other {', '.join(different)}; use the same, or another file")
    for name, engine in engines.items():
        engine.load_state_dict(
            {key.removeprefix(f"{name}."): t for key, t in tensors.items() if key.startswith(f"{name}.")}
        )
    return {name: MetaTraining(**values) for name, values in about["training"].items()}


def meta_train(
    name: str,
    engine: MetaGenerator,
    zoo: Zoo,
    members: Sequence[int],
    device: torch.device,
    arguments: argparse.Namespace,
) -> MetaTraining:
    """Run outer updates, each on a few sampled members, for a number of updates or minutes."""
    training = MetaTraining(str(device), arguments.threads)
    start = printed = now(device)
    limit = 60.0 * arguments.minutes if arguments.minutes is not None else math.inf
    while training.updates < (arguments.meta_updates or math.inf) and training.seconds < limit:
        training.updates += 1
        rng = seeds.rng(arguments.seed, "visits", training.updates)
        chosen = rng.choice(members, min(arguments.members_per_update, len(members)), replace=False).tolist()
        inversion_run = engine.start([target_of(zoo, member, arguments, device) for member in chosen], training.updates)
        losses = [torch.stack([loss.label for loss in inversion_run.step()]) for _ in range(engine.steps)]
        finite = [index for index, value in enumerate(losses[-1].tolist()) if math.isfinite(value)]
        engine.learn(inversion_run, finite)
        training.excluded += len(chosen) - len(finite)
        if finite:
            training.cross_entropy.append((losses[0][finite].mean().item(), losses[-1][finite].mean().item()))
        training.seconds = now(device) - start
        if training.seconds + start > printed + 30.0:
            printed = training.seconds + start
            print(f"meta-training {name}: {training.updates} updates, {training.seconds:.0f} s", file=sys.stderr)
    return training


def target_of(zoo: Zoo, member: int, arguments: argparse.Namespace, device: torch.device) -> Target:
    """Return the target of `--per-class` images of every class of a member."""
    labels = balanced_labels(len(zoo[member].labels), arguments.per_class, device)
    return Target(zoo.name(member), zoo.classifier(member), labels)


def now(device: torch.device) -> float:
    """Return the time in seconds, after the device has finished all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()

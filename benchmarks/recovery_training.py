"""Meta-training for `benchmarks/recovery.py`: FIVE and FastDFKD, on the members that are no newcomers."""

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
    """What it took to meta-train a generator.

    Attributes:
        cross_entropy: For every update, under the steps' views and averaged over members, at the first and at the last
            of the k steps.
        excluded: Visits that diverged, from which nothing was learned.
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
    """Meta-train FIVE and FastDFKD, or take them from `--generator`."""
    names = (FIVE, FAST)
    asked = ("seed", "visits", "per_class", "meta_updates", "minutes")
    made: dict[str, Any] = {name: getattr(arguments, name) for name in asked}
    made |= {"zoo": arguments.zoo.resolve().name, "members": [zoo.name(member) for member in members]}
    made |= {name: engines[name].config.model_dump(mode="json") for name in names}
    path: Path | None = arguments.generator
    if path and path.exists():
        return load_generators(path, made, {name: engines[name] for name in names}, device)
    training: dict[str, MetaTraining] = {}
    tensors: dict[str, Tensor] = {}
    for name in names:
        # Stacked on a GPU, where several members at a time are faster in one call; newcomers are visited one by one.
        stacked, config = device.type == "cuda", engines[name].config
        engine = MetaGenerator(config, zoo.preprocessing(), seed=arguments.seed, device=device, stacked=stacked)
        training[name] = meta_train(name, engine, zoo, members, device, arguments)
        engines[name].load_state_dict(engine.state_dict())
        tensors |= {f"{name}.{key}": value for key, value in engine.state_dict().items()}
    if path:
        plain = {
            key: value.detach().cpu().clone(memory_format=torch.contiguous_format) for key, value in tensors.items()
        }
        about = {"made": made, "training": {name: asdict(each) for name, each in training.items()}}
        save_file(plain, path, metadata={"about": json.dumps(about)})
    return training


def load_generators(
    path: Path, made: Mapping[str, Any], engines: Mapping[str, MetaGenerator], device: torch.device
) -> dict[str, MetaTraining]:
    """Restore engines from a file of an earlier benchmark.

    Raises:
        UsageError: If the file is no such file, or was made otherwise (other newcomers, say).
    """
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {})["about"])
        tensors = load_file(path, device=str(device))
    except (SafetensorError, KeyError, ValueError) as error:
        raise UsageError(
            f"expected meta-trained generators of this benchmark in {path}, found none; delete it"
        ) from error
    different = [key for key in made if made[key] != about["made"].get(key)]
    if different:
        raise UsageError(f"{path} was meta-trained with other {', '.join(different)}; give the same, or another file")
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
    """Outer updates, each of a few members drawn anew, for as many updates or as long as was asked for."""
    training = MetaTraining(str(device), arguments.threads)
    began = told = now(device)
    limit = 60.0 * arguments.minutes if arguments.minutes is not None else math.inf
    while training.updates < (arguments.meta_updates or math.inf) and training.seconds < limit:
        training.updates += 1
        drawn = seeds.rng(arguments.seed, "visits", training.updates)
        chosen = drawn.choice(members, min(arguments.visits, len(members)), replace=False).tolist()
        recovery = engine.start([target_of(zoo, member, arguments, device) for member in chosen], training.updates)
        losses = [torch.stack([loss.label for loss in recovery.step()]) for _ in range(engine.steps)]
        kept = [place for place, value in enumerate(losses[-1].tolist()) if math.isfinite(value)]
        engine.learn(recovery, kept)
        training.excluded += len(chosen) - len(kept)
        if kept:
            training.cross_entropy.append((losses[0][kept].mean().item(), losses[-1][kept].mean().item()))
        training.seconds = now(device) - began
        if training.seconds + began > told + 30.0:
            told = training.seconds + began
            print(f"meta-training {name}: {training.updates} updates, {training.seconds:.0f} s", file=sys.stderr)
    return training


def target_of(zoo: Zoo, member: int, arguments: argparse.Namespace, device: torch.device) -> Target:
    """`--per-class` images of every class of a member."""
    labels = balanced_labels(len(zoo[member].labels), arguments.per_class, device)
    return Target(zoo.name(member), zoo.classifier(member), labels)


def now(device: torch.device) -> float:
    """Seconds, once the device has done all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()

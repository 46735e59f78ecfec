"""Measure the cost of recovering images from a member, and what a meta-learned initialisation saves.

    uv run python benchmarks/recovery.py ZOO --minutes 30 --json result.json

A few members, sampled by the seed, are new: FIVE and FastDFKD are meta-trained on the others only. Then every engine
inverts every new member: same members, same number of images, one device. Without a student, the disagreement term has
weight 0. A time is that of one whole inversion run (start, steps, generating the final images), synchronised with the
device; a cross-entropy is that of the final images without augmentation, evaluated outside the timing.

The main figures: time until OTHER members classify half of the images as intended, and 60%, for FIVE, a generator from
scratch and EI; and the ratio of 200 steps from scratch, a number that earlier work uses, to the k = 5 of FIVE, which
recover worse images. `--latent-draws` and `--label-input` apply to FIVE and to the generator from scratch alike.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from dfml import seeds
from dfml.errors import DfmlError, UsageError
from dfml.evaluation.protocol import versions
from dfml.images import resize_and_crop
from dfml.inversion.cmi import ContrastiveConfig, ContrastiveInversion
from dfml.inversion.ei import PixelInversion, PixelInversionConfig
from dfml.inversion.engine import Engine, Target
from dfml.inversion.fidelity import measure
from dfml.inversion.loss import InversionWeights
from dfml.inversion.meta_generator import FastDfkdConfig, FiveConfig, MetaGenerator
from dfml.methods.free import FREE
from dfml.settings import build_config, merge
from dfml.training.device import keep_freed_memory, select_device
from dfml.zoo.zoo import Zoo
from recovery_figures import (
    CMI,
    EI,
    FAST,
    FIVE,
    LEVELS,
    SCRATCH,
    TRACED_STEPS,
    UNTRAINED,
    first_at_least,
    headline,
    mean_curve,
    medians,
    show,
)
from recovery_training import meta_train_all, now, target_of


@dataclass(frozen=True)
class Contender:
    """An engine with a number of steps: one row of the table."""

    name: str
    engine: Engine
    steps: int

    @property
    def title(self) -> str:
        """Label in tables, and key in the results."""
        return f"{self.name}, {self.steps} steps"


def main() -> None:
    """Parse the arguments, meta-train, measure, print."""
    arguments = _parse()
    torch.set_num_threads(arguments.threads)
    device = select_device(arguments.device)
    keep_freed_memory()
    zoo = Zoo.open(arguments.zoo).to(device)
    zoo.vet()  # also loads every member, so that reading from disk is not timed
    new_members, others = split(len(zoo), arguments.new_members, arguments.seed)
    engines = create_engines(zoo, device, arguments)
    training = meta_train_all(zoo, others, engines, device, arguments)
    contenders = create_contenders(engines, arguments)
    for contender in contenders:
        recover_timed(contender.engine, target_of(zoo, others[0], arguments, device), 3, device)  # warm-up
    rows = [measure_member(zoo, member, contenders, engines, arguments, device) for member in new_members]
    result: dict[str, Any] = {
        "headline": headline(rows, training[FIVE].seconds, arguments.scratch_steps),
        "medians": {
            contender.title: medians([row["engines"][contender.title] for row in rows]) for contender in contenders
        },
        **{
            curve: {name: mean_curve([row[curve][name] for row in rows]) for name in (FIVE, SCRATCH, EI)}
            for curve in ("cross_entropy", "others")
        },
        "meta_training": {name: asdict(each) for name, each in training.items()},
        "new_members": rows,
        "meta_trained_on": [zoo.name(member) for member in others],
        "settings": {name: str(value) if isinstance(value, Path) else value for name, value in vars(arguments).items()},
        "engines": {name: engine.config.model_dump() for name, engine in engines.items()},
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "threads": arguments.threads,
        "command": shlex.join(sys.argv),
        "versions": versions(),
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    show(result)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("zoo", type=Path)
    parser.add_argument("--new-members", type=_positive, default=5, help="members left out of meta-training")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--meta-updates", type=_positive, help="outer updates of each meta-generator (default 1000)")
    length.add_argument(
        "--minutes", type=float, help="minutes of meta-training of each meta-generator, instead of --meta-updates"
    )
    parser.add_argument("--members-per-update", type=_positive, default=4, help="members in one outer update")
    parser.add_argument(
        "--preset", choices=FREE.presets, help="preset of FREE whose settings FIVE has, instead of the published ones"
    )
    parser.add_argument("--width", type=_positive, help="width of all generators (default: that of FIVE)")
    parser.add_argument("--outer", help="outer update of FIVE: last, accumulated or reptile (default: last)")
    parser.add_argument("--label-input", type=float, help="scale of the label's code in latent vectors (default 0)")
    parser.add_argument("--latent-draws", type=int, help="latent vectors drawn for every image (default 0)")
    parser.add_argument("--per-class", type=_positive, default=20, help="images per class")
    parser.add_argument("--scratch-steps", type=_positive, default=200, help="steps of the generator from scratch")
    parser.add_argument(
        "--generator", type=Path, help="file of the meta-trained generators; read if it exists, written otherwise"
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=_positive, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    for path in (arguments.generator, arguments.json):
        if path and not path.parent.is_dir():
            raise UsageError(f"expected a folder for {path}, found no {path.parent}; create it first")
    if arguments.meta_updates is None and arguments.minutes is None:
        arguments.meta_updates = 1000
    return arguments


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a number of at least 1, found {value}")
    return value


def split(members: int, new_members: int, seed: int) -> tuple[list[int], list[int]]:
    """Divide the members into new ones, sampled uniformly, and those to meta-train on.

    Returns:
        Indices of the new members and of the others, both ascending.

    Raises:
        UsageError: If no member would be left to meta-train on.
    """
    if new_members >= members:
        raise UsageError(f"expected fewer new members than the zoo has ({members}), found {new_members}")
    chosen = set(seeds.rng(seed, "newcomers").choice(members, new_members, replace=False).tolist())
    return sorted(chosen), [member for member in range(members) if member not in chosen]


def create_engines(zoo: Zoo, device: torch.device, arguments: argparse.Namespace) -> dict[str, Any]:
    """Create the engines by name; none is meta-trained yet.

    The generator from scratch has FIVE's losses and learning rates; only initialisation and number of steps differ.
    """
    preprocessing, seed = zoo.preprocessing(), arguments.seed
    preset = FREE.presets[arguments.preset]["inversion"]["five"] if arguments.preset else {}
    chosen = {name: getattr(arguments, name) for name in ("width", "outer", "label_input", "latent_draws")}
    overrides = {name: value for name, value in chosen.items() if value is not None}
    merged = {**preset, **overrides, "weights": {**preset.get("weights", {}), "disagreement": 0.0}}
    five = build_config(FiveConfig, merge(FiveConfig().model_dump(), merged))
    width = five.width
    fast = FastDfkdConfig(width=width, weights=_without_student(FastDfkdConfig().weights))
    cmi = ContrastiveConfig(width=width, weights=_without_student(ContrastiveConfig().weights))
    same = {"lr", "latent_lr", "beta1", "latent", "width", "label_input", "latent_draws", "weights"}
    shared = five.model_dump(include=same)
    scratch = ContrastiveConfig(contrast=0.0, **(shared | {"steps": arguments.scratch_steps}))
    engines: dict[str, Any] = {
        name: MetaGenerator(config, preprocessing, seed=seed, device=device)
        for name, config in ((FIVE, five), (UNTRAINED, five), (FAST, fast))
    }
    for name, config in ((SCRATCH, scratch), (CMI, cmi)):
        engines[name] = ContrastiveInversion(config, preprocessing, seed=seed, device=device)
    return engines | {EI: PixelInversion(PixelInversionConfig(), seed)}


def create_contenders(engines: Mapping[str, Any], arguments: argparse.Namespace) -> list[Contender]:
    """Create the rows of the table. FIVE has one generator for every number of steps, meta-trained for k = 5."""
    lengths = {FIVE: (1, 2, 5, 10), UNTRAINED: (5,), SCRATCH: (arguments.scratch_steps,)}
    lengths |= {name: (engines[name].steps,) for name in (CMI, FAST)}
    contenders = [Contender(name, engines[name], steps) for name, counts in lengths.items() for steps in counts]
    # The learning rate of pixels falls to zero over the planned steps, so each number of steps is an engine of its own.
    short = [Contender(EI, PixelInversion(PixelInversionConfig(steps=n), arguments.seed), n) for n in (5, 50)]
    return [*contenders, *short, Contender(EI, engines[EI], engines[EI].steps)]


def _without_student(weights: InversionWeights) -> InversionWeights:
    return weights.model_copy(update={"disagreement": 0.0})


def measure_member(
    zoo: Zoo,
    member: int,
    contenders: Sequence[Contender],
    engines: Mapping[str, Engine],
    arguments: argparse.Namespace,
    device: torch.device,
) -> dict[str, Any]:
    """Measure all engines on one member: times, cross-entropies, fidelity, curves, time to equal agreement."""
    target = target_of(zoo, member, arguments, device)
    measured: dict[str, Any] = {}
    for contender in contenders:
        seconds, images = recover_timed(contender.engine, target, contender.steps, device)
        fidelity = measure(zoo, member, images, target.labels).as_dict()
        measured[contender.title] = {"seconds": seconds, "cross_entropy": cross_entropy(target, images), **fidelity}
    curves = {name: trace(engines[name], zoo, member, target, arguments.scratch_steps) for name in (FIVE, SCRATCH, EI)}
    equal: dict[str, dict[str, Any]] = {level: {} for level in LEVELS}
    for level in LEVELS:
        for name in curves:
            first = first_at_least(curves[name][1], float(level.rstrip("%")) / 100.0)
            steps = arguments.scratch_steps if first is None else first
            seconds, _ = recover_timed(engines[name], target, steps, device)
            equal[level][name] = {"steps": steps, "reached": first is not None, "seconds": seconds}
    print(f"{target.name}: measured", file=sys.stderr)
    return {
        "member": target.name,
        "engines": measured,
        "cross_entropy": {name: curve[0] for name, curve in curves.items()},
        "others": {name: curve[1] for name, curve in curves.items()},
        "equal_agreement": equal,
    }


def recover_timed(engine: Engine, target: Target, steps: int, device: torch.device) -> tuple[float, Tensor]:
    """Run one whole inversion and return its seconds and images."""
    start = now(device)
    inversion_run = engine.start([target])
    for _ in range(steps):
        inversion_run.step()
    (images,) = inversion_run.images()
    return now(device) - start, images


def trace(
    engine: Engine, zoo: Zoo, member: int, target: Target, steps: int
) -> tuple[dict[int, float], dict[int, float]]:
    """Return the cross-entropy and the agreement of other members after some numbers of steps.

    Raises:
        UsageError: If no other member knows a class of the member.
    """
    inversion_run = engine.start([target])
    entropies, others = {}, {}
    for step in (*(each for each in TRACED_STEPS if each < steps), steps):
        while inversion_run.done < step:
            inversion_run.step()
        (images,) = inversion_run.images()
        agreement = measure(zoo, member, images, target.labels).other_agreement
        if agreement is None:
            raise UsageError(f"expected a zoo whose members share classes, found none that shares one of {target.name}")
        entropies[step], others[step] = cross_entropy(target, images), agreement
    return entropies, others


@torch.no_grad()
def cross_entropy(target: Target, images: Tensor) -> float:
    """Return the member's cross-entropy on images without augmentation, in nats."""
    logits = target.network.logits(resize_and_crop(images, target.network.size))
    return functional.cross_entropy(logits, target.labels).item()


if __name__ == "__main__":
    try:
        main()
    except DfmlError as error:
        sys.exit(f"error: {error}")

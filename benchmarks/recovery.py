"""What it costs to recover a task from a member, and what a meta-learned start saves.

    uv run python benchmarks/recovery.py ZOO --minutes 30 --json result.json

Some members, drawn by the seed, are newcomers; FIVE and FastDFKD are meta-trained on the others only. Then every engine
recovers every newcomer, in turn: same members, same number of images, one device. There is no student here, so the
disagreement weighs 0 everywhere. A time is that of a whole task (start, steps, drawing the final images), synchronised;
a cross-entropy is that of images as they stand, without the view that a step draws, and is evaluated untimed.

Two ratios are the point: the time that a generator from scratch takes until its cross-entropy is that of FIVE after its
k = 5 steps, over FIVE's time; and the same for the fixed 200 steps of earlier work (papers 2.7, 2.8).
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
from recovery_figures import CMI, EI, FAST, FIVE, SCRATCH, UNTRAINED, first_at_most, headline, mean_curve, medians, show
from recovery_training import meta_train_all, now, target_of


@dataclass(frozen=True)
class Contender:
    """An engine with a number of steps; one row of the table."""

    name: str
    engine: Engine
    steps: int

    @property
    def title(self) -> str:
        """For tables and as a key."""
        return f"{self.name}, {self.steps} steps"


def main() -> None:
    """Parse, meta-train, measure, print."""
    arguments = _parse()
    torch.set_num_threads(arguments.threads)
    device = select_device(arguments.device)
    keep_freed_memory()
    zoo = Zoo.open(arguments.zoo).to(device)
    zoo.vet()  # also loads every member, so that no disk is timed
    newcomers, others = split(len(zoo), arguments.newcomers, arguments.seed)
    engines = create_engines(zoo, device, arguments)
    training = meta_train_all(zoo, others, engines, device, arguments)
    contenders = line_up(engines, arguments)
    for contender in contenders:
        recover_timed(contender.engine, target_of(zoo, others[0], arguments, device), 3, device)  # warms up
    rows = [measure_newcomer(zoo, member, contenders, engines, arguments, device) for member in newcomers]
    result: dict[str, Any] = {
        "headline": headline(rows, training[FIVE].seconds, arguments.scratch_steps),
        "medians": {
            contender.title: medians([row["engines"][contender.title] for row in rows]) for contender in contenders
        },
        "curves": {name: mean_curve([row["curves"][name] for row in rows]) for name in (FIVE, SCRATCH, EI)},
        "meta_training": {name: asdict(each) for name, each in training.items()},
        "newcomers": rows,
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
    parser.add_argument("--newcomers", type=_positive, default=5, help="members that nothing is meta-trained on")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--meta-updates", type=_positive, help="outer updates of each meta-generator (1000)")
    length.add_argument("--minutes", type=float, help="of meta-training of each meta-generator, instead")
    parser.add_argument("--visits", type=_positive, default=4, help="members in one outer update")
    parser.add_argument("--preset", choices=FREE.presets, help="of FREE: FIVE's settings, instead of the papers'")
    parser.add_argument("--width", type=_positive, help="of all generators (FIVE's)")
    parser.add_argument("--per-class", type=_positive, default=20, help="images of every class")
    parser.add_argument("--scratch-steps", type=_positive, default=200, help="of the generator from scratch")
    parser.add_argument("--generator", type=Path, help="keeps the meta-trained generators; used again if it exists")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=_positive, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    for path in (arguments.generator, arguments.json):
        if path and not path.parent.is_dir():
            raise UsageError(f"expected a folder for {path}, found no {path.parent}; make it first")
    if arguments.meta_updates is None and arguments.minutes is None:
        arguments.meta_updates = 1000
    return arguments


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a number of at least 1, found {value}")
    return value


def split(members: int, newcomers: int, seed: int) -> tuple[list[int], list[int]]:
    """Newcomers, drawn so that every architecture of a mixed zoo has its chance, and all others; both in order.

    Raises:
        UsageError: If nobody would be left to meta-train on.
    """
    if newcomers >= members:
        raise UsageError(f"expected fewer newcomers than the zoo's {members} members, found {newcomers}; ask for fewer")
    drawn = set(seeds.rng(seed, "newcomers").choice(members, newcomers, replace=False).tolist())
    return sorted(drawn), [member for member in range(members) if member not in drawn]


def create_engines(zoo: Zoo, device: torch.device, arguments: argparse.Namespace) -> dict[str, Any]:
    """One engine a name, nothing meta-trained yet.

    The generator from scratch has FIVE's losses and learning rates: only start and number of steps differ.
    """
    preprocessing, seed = zoo.preprocessing(), arguments.seed
    preset = FREE.presets[arguments.preset]["inversion"]["five"] if arguments.preset else {}
    asked = {"width": arguments.width} if arguments.width else {}
    over = {**preset, **asked, "weights": {**preset.get("weights", {}), "disagreement": 0.0}}
    five = build_config(FiveConfig, merge(FiveConfig().model_dump(), over))
    width = five.width
    fast = FastDfkdConfig(width=width, weights=_alone(FastDfkdConfig().weights))
    cmi = ContrastiveConfig(width=width, weights=_alone(ContrastiveConfig().weights))
    shared = five.model_dump(include={"lr", "latent_lr", "beta1", "latent", "width", "label_input", "weights"})
    scratch = ContrastiveConfig(contrast=0.0, **(shared | {"steps": arguments.scratch_steps}))
    engines: dict[str, Any] = {
        name: MetaGenerator(config, preprocessing, seed=seed, device=device)
        for name, config in ((FIVE, five), (UNTRAINED, five), (FAST, fast))
    }
    for name, config in ((SCRATCH, scratch), (CMI, cmi)):
        engines[name] = ContrastiveInversion(config, preprocessing, seed=seed, device=device)
    return engines | {EI: PixelInversion(PixelInversionConfig(), seed)}


def line_up(engines: Mapping[str, Any], arguments: argparse.Namespace) -> list[Contender]:
    """The rows of the table. FIVE takes its k steps from one generator, meta-trained for k = 5."""
    lengths = {FIVE: (1, 2, 5, 10), UNTRAINED: (5,), SCRATCH: (arguments.scratch_steps,)}
    lengths |= {name: (engines[name].steps,) for name in (CMI, FAST)}
    contenders = [Contender(name, engines[name], steps) for name, each in lengths.items() for steps in each]
    # The learning rate of pixels falls to zero over the steps that are planned: each length is an engine of its own.
    short = [Contender(EI, PixelInversion(PixelInversionConfig(steps=n), arguments.seed), n) for n in (5, 50)]
    return [*contenders, *short, Contender(EI, engines[EI], engines[EI].steps)]


def _alone(weights: InversionWeights) -> InversionWeights:
    return weights.model_copy(update={"disagreement": 0.0})


def measure_newcomer(
    zoo: Zoo,
    member: int,
    contenders: Sequence[Contender],
    engines: Mapping[str, Engine],
    arguments: argparse.Namespace,
    device: torch.device,
) -> dict[str, Any]:
    """All engines on one member: times, cross-entropies, fidelity, curves, and the steps to FIVE's cross-entropy."""
    target = target_of(zoo, member, arguments, device)
    found: dict[str, Any] = {}
    for contender in contenders:
        seconds, images = recover_timed(contender.engine, target, contender.steps, device)
        figures = measure(zoo, member, images, target.labels).as_dict()
        found[contender.title] = {"seconds": seconds, "cross_entropy": cross_entropy(target, images), **figures}
    curves = {name: trace(engines[name], target, arguments.scratch_steps) for name in (FIVE, SCRATCH, EI)}
    level, equal = found[f"{FIVE}, 5 steps"]["cross_entropy"], {}
    for name in (SCRATCH, EI):
        first = first_at_most(curves[name], level)
        steps = arguments.scratch_steps if first is None else first
        seconds, _ = recover_timed(engines[name], target, steps, device)
        equal[name] = {"steps": steps, "reached": first is not None, "seconds": seconds}
    print(f"{target.name}: measured", file=sys.stderr)
    return {"member": target.name, "engines": found, "curves": curves, "equal_cross_entropy": equal}


def recover_timed(engine: Engine, target: Target, steps: int, device: torch.device) -> tuple[float, Tensor]:
    """Seconds of a whole task, and its images."""
    began = now(device)
    recovery = engine.start([target])
    for _ in range(steps):
        recovery.step()
    (images,) = recovery.images()
    return now(device) - began, images


def trace(engine: Engine, target: Target, steps: int) -> list[float]:
    """The cross-entropy after 0, 1, ... steps."""
    recovery = engine.start([target])
    curve = [cross_entropy(target, recovery.images()[0])]
    for _ in range(steps):
        recovery.step()
        curve.append(cross_entropy(target, recovery.images()[0]))
    return curve


@torch.no_grad()
def cross_entropy(target: Target, images: Tensor) -> float:
    """A member's, on images as they stand."""
    logits = target.network.logits(resize_and_crop(images, target.network.size))
    return functional.cross_entropy(logits, target.labels).item()


if __name__ == "__main__":
    try:
        main()
    except DfmlError as error:
        sys.exit(f"error: {error}")

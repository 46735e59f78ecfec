"""Builds a zoo: plans its members, trains those that are not there yet, and writes each as soon as it is trained."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError

from dfml.backbones import size_arguments
from dfml.data.dataset import ImageDataset
from dfml.errors import RunError, UsageError
from dfml.pretraining.classifier_training import split_images, train_classifier
from dfml.pretraining.cost import best_workers, seconds_per_image
from dfml.pretraining.normalisation import pixel_statistics
from dfml.pretraining.plan import MemberPlan, plan_members
from dfml.pretraining.recipes import PAPER, Recipe
from dfml.pretraining.record import dataset_record, open_zoo_folder
from dfml.pretraining.workers import run_in_processes
from dfml.zoo import Preprocessing
from dfml.zoo.vetting import load_member, read_member_config
from dfml.zoo.writer import write_member


@dataclass(frozen=True)
class BuiltMember:
    """What became of one member.

    Attributes:
        number: Its place in the zoo.
        name: Of its folder.
        architecture: Of its network.
        labels: One an output.
        held_out_accuracy: A fraction.
        seconds: That its training took; None when it was there already.
    """

    number: int
    name: str
    architecture: str
    labels: tuple[str, ...]
    held_out_accuracy: float
    seconds: float | None


Progress = Callable[[BuiltMember, int, int], None]
"""Called with (member, members ready, members in total)."""


@dataclass(frozen=True)
class _Job:
    """All that it takes to train and write one member. Images are arrays: tensors would travel as shared memory."""

    folder: Path
    plan: MemberPlan
    images: npt.NDArray[np.uint8]
    image_labels: npt.NDArray[np.int64]
    source: str
    preprocessing: Preprocessing
    recipe: Recipe
    seed: int
    device: torch.device


def build_zoo(
    datasets: Sequence[ImageDataset],
    out: str | Path,
    *,
    members: int | None = None,
    way: int = 5,
    architectures: Sequence[str] = ("conv4",),
    recipe: Recipe = PAPER,
    disjoint: bool = False,
    seed: int = 0,
    preprocessing: Sequence[Preprocessing] | None = None,
    workers: int | None = None,
    device: torch.device | None = None,
    progress: Progress | None = None,
) -> list[BuiltMember]:
    """Pre-train classifiers and write them as a zoo; called again, it goes on where an earlier call stopped.

    Every member is trained by one thread and draws by its number: its bits depend neither on the workers nor on an
    interruption.

    Args:
        datasets: To draw classes from; see `plan_members`.
        out: The zoo's folder: new, empty, or holding an unfinished zoo of the same settings.
        members: How many; None: as many as there are disjoint sets of classes (with `disjoint` only).
        way: Classes a member.
        architectures: Members take turns; names as `dfml.backbones.create_backbone` takes them.
        recipe: How to train.
        disjoint: Whether no two members share a class.
        seed: Of all draws.
        preprocessing: One a data set; the mean and standard deviation of its pixels when not given.
        workers: Processes that train at once. None: as many as torch has threads, or one where starting more takes
            longer than it saves. More than one need a script with `if __name__ == "__main__":`, as all processes do.
        device: Where to train; the CPU when not given. On a GPU one member at a time, unless `workers` says otherwise.
        progress: Called for every member that is ready, with those that were there already first.

    Returns:
        The members, in order.

    Raises:
        UsageError: If the plan cannot be made, or an architecture does not take images of this size.
        DataError: If a class has fewer than two images.
        RunError: If `out` holds something else or cannot be written, or a training diverges.
        ZooMemberError: If a member that is there already is damaged.
    """
    out, device = Path(out), device or torch.device("cpu")
    if workers is not None and workers < 1:
        raise UsageError(f"expected at least 1 worker, found {workers}")
    plans = plan_members(datasets, members=members, way=way, architectures=architectures, disjoint=disjoint, seed=seed)
    for dataset in datasets:
        split_images(dataset)  # a class that is too small is better found now than by the last member
    preprocessing = preprocessing or [pixel_statistics(dataset) for dataset in datasets]
    sizes = [dataset.images.shape[-1] for dataset in datasets]
    if [each.size for each in preprocessing] != sizes:
        raise UsageError(f"expected one preprocessing a data set, of sizes {sizes}, found {len(preprocessing)}")
    settings = {
        "datasets": [dataset_record(dataset) for dataset in datasets],
        "preprocessing": [each.as_dict() for each in preprocessing],
        "members": len(plans),
        "way": way,
        "architectures": list(architectures),
        "disjoint": disjoint,
        "seed": seed,
        "recipe": recipe.model_dump(mode="json"),
    }
    pending = [plan for plan in plans if not (out / plan.name).exists()]
    seconds = _expected_seconds(pending, datasets, recipe)
    open_zoo_folder(out, settings)
    ready = [_existing(out, plan) for plan in plans if plan not in pending]
    for done, member in enumerate(ready, start=1):
        _report(progress, member, done, len(plans))
    jobs = (
        _job(out, plan, datasets[plan.dataset], preprocessing[plan.dataset], recipe, seed, device) for plan in pending
    )
    workers = workers or best_workers(seconds, len(pending), device)
    with closing(_results(jobs, min(workers, len(pending)))) as results:
        for member in results:
            ready.append(member)
            _report(progress, member, len(ready), len(plans))
    return sorted(ready, key=lambda member: member.number)


def _report(progress: Progress | None, member: BuiltMember, done: int, total: int) -> None:
    if progress:
        progress(member, done, total)


def _expected_seconds(pending: Sequence[MemberPlan], datasets: Sequence[ImageDataset], recipe: Recipe) -> float:
    """What the training will take one after the other; also finds architectures that cannot be trained at all."""
    measured: dict[tuple[str, int], float] = {}
    expected = 0.0
    for plan in pending:
        dataset = datasets[plan.dataset]
        size = dataset.images.shape[-1]
        kind = plan.architecture, size
        if kind not in measured:
            arguments = size_arguments(plan.architecture, size)
            measured[kind] = seconds_per_image(plan.architecture, arguments, len(plan.classes), size)
        images = len(dataset) * len(plan.classes) / len(dataset.classes)
        expected += measured[kind] * images * recipe.epochs
    return expected


def _existing(out: Path, plan: MemberPlan) -> BuiltMember:
    config = read_member_config(out / plan.name)
    load_member(config)
    noted = config.details.get("held_out_accuracy")
    accuracy = float(noted) if isinstance(noted, int | float) else math.nan
    return BuiltMember(plan.number, plan.name, config.architecture, config.labels, accuracy, seconds=None)


def _job(
    out: Path,
    plan: MemberPlan,
    dataset: ImageDataset,
    preprocessing: Preprocessing,
    recipe: Recipe,
    seed: int,
    device: torch.device,
) -> _Job:
    chosen = dataset.select(plan.classes)
    return _Job(
        folder=out / plan.name,
        plan=plan,
        images=chosen.images.numpy(),
        image_labels=chosen.labels.numpy(),
        source=dataset.name,
        preprocessing=preprocessing,
        recipe=recipe,
        seed=seed,
        device=device,
    )


def _results(jobs: Iterator[_Job], workers: int) -> Generator[BuiltMember]:
    if workers > 1:
        yield from run_in_processes(_train_and_write, jobs, workers)
    else:
        yield from map(_train_and_write, jobs)


def _train_and_write(job: _Job) -> BuiltMember:
    start = time.perf_counter()
    plan, preprocessing = job.plan, job.preprocessing
    arguments = size_arguments(plan.architecture, preprocessing.size)
    trained = train_classifier(
        ImageDataset(torch.from_numpy(job.images), torch.from_numpy(job.image_labels), plan.classes, job.source),
        plan.architecture,
        job.recipe,
        preprocessing=preprocessing,
        seed=job.seed,
        member=plan.number,
        arguments=arguments,
        device=job.device,
    )
    dataset, _, split = job.source.rpartition("/")
    details = {
        "dataset": dataset or split,
        "split": split if dataset else None,
        "recipe": job.recipe.name,
        "epochs": job.recipe.epochs,
        "seed": job.seed,
        "held_out_accuracy": round(trained.held_out_accuracy, 4),
    }
    try:
        write_member(
            job.folder,
            trained.network,
            architecture=plan.architecture,
            labels=plan.labels,
            preprocessing=preprocessing,
            arguments=arguments,
            details=details,
        )
    except (OSError, SafetensorError) as error:
        raise RunError(
            f"cannot write {job.folder} ({error}); finished members are kept: free some space and repeat the command"
        ) from error
    seconds = time.perf_counter() - start
    return BuiltMember(
        plan.number, plan.name, plan.architecture, plan.labels, round(trained.held_out_accuracy, 4), seconds
    )

"""Builds a zoo: plans its members, trains those that are missing, and writes each as soon as it is trained."""

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
from dfml.pretraining.cost import best_workers, has_batch_norm, seconds_per_image
from dfml.pretraining.normalisation import pixel_statistics
from dfml.pretraining.plan import MemberPlan, as_ways, plan_members
from dfml.pretraining.recipes import PAPER, Recipe
from dfml.pretraining.record import dataset_record, open_zoo_folder, recipe_record
from dfml.pretraining.workers import run_in_processes
from dfml.zoo import Preprocessing
from dfml.zoo.vetting import load_member, read_member_config
from dfml.zoo.writer import write_member


@dataclass(frozen=True)
class BuiltMember:
    """One member of a built zoo.

    Attributes:
        number: Its position in the zoo.
        name: Name of its folder.
        architecture: Name of its architecture.
        labels: One name per output.
        size: Height and width of its input, in pixels.
        held_out_accuracy: Accuracy on held-out images, a fraction; NaN if its configuration has none.
        seconds: Seconds of its training; None for a member that an earlier build has trained.
    """

    number: int
    name: str
    architecture: str
    labels: tuple[str, ...]
    size: int
    held_out_accuracy: float
    seconds: float | None


Progress = Callable[[BuiltMember, int, int], None]
"""Function of (finished member, number of members finished so far, number of members of the zoo). Members of an earlier
build count as finished."""


@dataclass(frozen=True)
class _Job:
    """The inputs of training and writing one member.

    Images and labels are arrays, because a job is sent to a worker process: an array is copied, while torch would put a
    tensor into shared memory, of which containers often have little.

    Attributes:
        images: Bytes, (images, 3, size, size), sorted by class.
        image_labels: For every image the index of its class in `plan.classes`, (images,).
        source: Name of the data set, `NAME` or `NAME/SPLIT`.
    """

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
    way: int | Sequence[int] = 5,
    architectures: Sequence[str] = ("conv4",),
    recipe: Recipe = PAPER,
    disjoint: bool = False,
    seed: int = 0,
    preprocessing: Sequence[Preprocessing] | None = None,
    workers: int | None = None,
    device: torch.device | None = None,
    progress: Progress | None = None,
) -> list[BuiltMember]:
    """Pre-train classifiers and write them as a zoo. An unfinished zoo of the same settings is resumed.

    A member's weights depend neither on the number of workers nor on interruptions: each is trained by one CPU thread,
    because the number of threads changes the rounding of sums, and its random draws are seeded by its number.

    Args:
        datasets: Data sets that classes are taken from, of any image sizes, also the same data at several sizes; see
            `plan_members`.
        out: The zoo's folder: new, empty, or holding an unfinished zoo of the same settings.
        members: Number of members of the zoo. None (only with `disjoint`): as many as the classes suffice for.
        way: Number of classes (outputs) per member, at least 2; or several numbers, which members take in turn.
        architectures: Names for `dfml.backbones.create_backbone`; members alternate between them. Every pair of an
            architecture and a way occurs with every data set if there are enough members; see `plan_members`.
        recipe: Training recipe; default `PAPER`, the pre-training of PURER and FREE.
        disjoint: Whether no two members share a class.
        seed: Seed of all random draws.
        preprocessing: One per data set; None for the mean and standard deviation of each data set's pixels.
        workers: Number of processes that train members at the same time, at least 1. None chooses it: 1 on a GPU and
            for short trainings, for which starting processes takes longer than they save; otherwise the number of
            torch's threads. With more than one, the calling script needs `if __name__ == "__main__":`.
        device: Device to train on; None for the CPU.
        progress: Called for every finished member, first for those of an earlier build.

    Returns:
        The members in order.

    Raises:
        UsageError: If the plan cannot be made, `workers` is below 1, `preprocessing` has other sizes than the data
            sets, or an architecture does not take images of a data set's size.
        DataError: If a class has fewer than two images.
        RunError: If `out` holds something else or cannot be written, or a training diverges.
        ZooMemberError: If a member of an earlier build is damaged.
    """
    out, device = Path(out), device or torch.device("cpu")
    if workers is not None and workers < 1:
        raise UsageError(f"expected at least 1 worker, found {workers}")
    ways = as_ways(way)
    plans = plan_members(datasets, members=members, way=ways, architectures=architectures, disjoint=disjoint, seed=seed)
    for dataset in datasets:
        split_images(dataset)  # fails now, before any training, if a class is too small
    preprocessing = preprocessing or [pixel_statistics(dataset) for dataset in datasets]
    sizes = [dataset.images.shape[-1] for dataset in datasets]
    if [own.size for own in preprocessing] != sizes:
        found = [own.size for own in preprocessing]
        raise UsageError(f"expected one preprocessing per data set, of sizes {sizes}, found sizes {found}")
    settings = {
        "datasets": [dataset_record(dataset) for dataset in datasets],
        "preprocessing": [own.as_dict() for own in preprocessing],
        "members": len(plans),
        "way": ways[0] if len(ways) == 1 else list(ways),
        "architectures": list(architectures),
        "disjoint": disjoint,
        "seed": seed,
        "recipe": recipe_record(recipe, sizes, _batch_norms(plans, sizes)),
    }
    # Before the folder is made, so that an architecture that cannot be trained on these images leaves none behind.
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


def _batch_norms(plans: Sequence[MemberPlan], sizes: Sequence[int]) -> list[bool]:
    """Whether the network has batch-norm layers, for every architecture of the zoo.

    Each architecture is built once, at the image size of the first member that has it.

    Raises:
        UsageError: If an architecture is unknown, or cannot be built for the size of a data set.
    """
    first = {plan.architecture: sizes[plan.dataset] for plan in reversed(plans)}
    return [has_batch_norm(architecture, size_arguments(architecture, size)) for architecture, size in first.items()]


def _expected_seconds(pending: Sequence[MemberPlan], datasets: Sequence[ImageDataset], recipe: Recipe) -> float:
    """Expected seconds of training all pending members one after the other.

    For each pair of an architecture and an image size, the forward and backward pass of a small batch is timed.

    Raises:
        UsageError: If an architecture cannot be trained on images of this size.
    """
    measured: dict[tuple[str, int], float] = {}
    expected = 0.0
    for plan in pending:
        dataset = datasets[plan.dataset]
        size = dataset.images.shape[-1]
        key = plan.architecture, size
        if key not in measured:
            arguments = size_arguments(plan.architecture, size)
            measured[key] = seconds_per_image(plan.architecture, arguments, len(plan.classes), size)
        images = len(dataset) * len(plan.classes) / len(dataset.classes)
        expected += measured[key] * images * recipe.epochs
    return expected


def _existing(out: Path, plan: MemberPlan) -> BuiltMember:
    """The member that an earlier build has written; its weights are loaded, to find a damaged one before any training.

    Raises:
        ZooMemberError: If it is damaged.
    """
    config = read_member_config(out / plan.name)
    load_member(config)
    recorded = config.details.get("held_out_accuracy")
    accuracy = float(recorded) if isinstance(recorded, int | float) else math.nan
    size = config.preprocessing.size
    return BuiltMember(plan.number, plan.name, config.architecture, config.labels, size, accuracy, seconds=None)


def _job(
    out: Path,
    plan: MemberPlan,
    dataset: ImageDataset,
    preprocessing: Preprocessing,
    recipe: Recipe,
    seed: int,
    device: torch.device,
) -> _Job:
    subset = dataset.select(plan.classes)
    return _Job(
        folder=out / plan.name,
        plan=plan,
        images=subset.images.numpy(),
        image_labels=subset.labels.numpy(),
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
    dataset, _, split = job.source.rpartition("/")  # "NAME/SPLIT"; for "NAME", the name is in `split`
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
            f"cannot write {job.folder} ({error}); finished members are kept; free some space and repeat the command"
        ) from error
    seconds = time.perf_counter() - start
    return BuiltMember(
        plan.number,
        plan.name,
        plan.architecture,
        plan.labels,
        preprocessing.size,
        round(trained.held_out_accuracy, 4),
        seconds,
    )

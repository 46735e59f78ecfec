"""What a child process of a benchmark does: build one zoo, or train one cell and evaluate its learner.

Every result is a file that is complete or absent: after a process was killed, the next one computes what is absent.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dfml.benchmark.cells import Cell, Measurement, digest_of
from dfml.benchmark.data_catalog import LocatedDataset
from dfml.benchmark.suite import ZooSpec
from dfml.evaluation.protocol import Evaluation
from dfml.evaluation.runner import LearnerEvaluation, evaluate_learner
from dfml.evaluation.snapshots import evaluate_snapshots
from dfml.files import atomic_write
from dfml.learners import MetaLearner
from dfml.learners.base import ProtocolName
from dfml.methods import find_method
from dfml.pretraining import build_zoo, recipe_by_name
from dfml.report.training import recovered_images
from dfml.training.device import keep_freed_memory, select_device
from dfml.training.run_folder import RunFolder, list_snapshots
from dfml.zoo.zoo import Zoo

RUN, TRAINED, IMAGES = "run", "trained.json", "images.png"
"""In the folder of a cell: the run folder, costs of the training (JSON), and a contact sheet of recovered images."""


@dataclass(frozen=True)
class ZooJob:
    """A zoo to build.

    Attributes:
        name: Name of the zoo in the suite.
        spec: Its data, members and recipe.
        folder: Its folder; may hold an unfinished zoo, which is then resumed.
        datasets: Located data sets by name.
        device: Device to train on: `auto`, or a name that `torch.device` takes.
        threads: Number of CPU threads; as many members are trained at once.
    """

    name: str
    spec: ZooSpec
    folder: Path
    datasets: Mapping[str, LocatedDataset]
    device: str
    threads: int

    @property
    def title(self) -> str:
        """Description for messages."""
        return f"zoo {self.name}"

    def run(self) -> None:
        """Build the zoo, or what is missing of it.

        Raises:
            DfmlError: Whatever `build_zoo` raises.
        """
        prepare_process(self.threads)
        spec = self.spec
        build_zoo(
            [self.datasets[name].open("train", size) for name, size in spec.sized_data],
            self.folder,
            members=spec.members,
            way=spec.way,
            architectures=spec.arch,
            recipe=recipe_by_name(spec.recipe).override(**spec.recipe_settings),
            disjoint=spec.disjoint,
            seed=spec.seed,
            device=select_device(self.device),
        )


@dataclass(frozen=True)
class EvaluationSettings:
    """Settings that all evaluations of a benchmark share.

    Attributes:
        protocol: `strict` or `paper` (glossary).
        query: Query images per class.
        episodes: Number of episodes per evaluation.
        seed: Seed of the episodes.
        split: Part of the data whose classes are the unseen ones.
        curve_episodes: Number of episodes per point of a learning curve; 0: no curves.
    """

    protocol: ProtocolName
    query: int
    episodes: int
    seed: int
    split: str
    curve_episodes: int


@dataclass(frozen=True)
class CellJob:
    """A cell to train and to evaluate.

    Attributes:
        cell: The training: method, settings, zoos, seed.
        folder: Its folder; may hold results of an earlier process, which are kept.
        zoo_paths: Folders of its zoos.
        measurements: The evaluations, each with the file that its result is written to.
        with_curves: The evaluations that also have a learning curve: the accuracy of every snapshot of the run.
        datasets: Located data sets by name.
        episodes: Settings that all evaluations share.
        device: Device to train on: `auto`, or a name that `torch.device` takes.
        threads: Number of CPU threads.
    """

    cell: Cell
    folder: Path
    zoo_paths: tuple[Path, ...]
    measurements: tuple[tuple[Measurement, Path], ...]
    with_curves: frozenset[Measurement]
    datasets: Mapping[str, LocatedDataset]
    episodes: EvaluationSettings
    device: str
    threads: int

    @property
    def title(self) -> str:
        """Description for messages."""
        return self.cell.title

    @property
    def images(self) -> Path:
        """File of the contact sheet of recovered images; absent if the run keeps no images."""
        return self.folder / IMAGES

    @property
    def is_finished(self) -> bool:
        """Whether all files of its results are there."""
        return (self.folder / TRAINED).exists() and all(path.exists() for _, path in self.measurements)

    def run(self) -> None:
        """Do what is missing: train, or resume the training; then evaluate, one file per evaluation.

        Raises:
            DfmlError: If the training or an evaluation fails.
            Interrupted: After SIGTERM; a checkpoint is written.
        """
        prepare_process(self.threads)
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / TRAINED).exists():
            self._train()
        missing = [(measurement, path) for measurement, path in self.measurements if not path.exists()]
        learner = MetaLearner.from_pretrained(self.folder / RUN).to(select_device(self.device)) if missing else None
        for measurement, path in missing:
            assert learner is not None
            evaluated = self._evaluate(learner, measurement)
            curve = {str(iteration): each.as_dict() for iteration, each in evaluated.curve.items()}
            write_json(path, {**evaluated.evaluation.as_dict(), "curve": curve})

    def _train(self) -> None:
        zoo = Zoo.open(self.zoo_paths if len(self.zoo_paths) > 1 else self.zoo_paths[0])
        method = find_method(self.cell.method)(self.cell.config())
        start = time.perf_counter()
        learner = method.fit(zoo, out=self.folder / RUN, resume=True, device=self.device)
        rows = RunFolder(self.folder / RUN).read_metrics()
        # The rows of a resumed run include the time before the interruption; methods of 0 iterations have no rows.
        seconds = sum(row["seconds"] for row in rows) if rows else time.perf_counter() - start
        sheets = recovered_images(method.run_, self.cell.row, zoo)
        if sheets:
            atomic_write(self.images, sheets[0].picture.png)
        write_json(
            self.folder / TRAINED,
            {
                "seconds": seconds,
                "peak_memory": peak_memory(learner.device),
                "stored_bytes": learner.stored_bytes(),
                "iterations": method.config.iterations,
                "size": learner.preprocessing.size,
                "images_caption": sheets[0].caption if sheets else "",
            },
        )

    def _evaluate(self, learner: MetaLearner, measurement: Measurement) -> LearnerEvaluation:
        size, common = learner.preprocessing.size, self.episodes
        dataset = self.datasets[measurement.dataset].open(common.split, size)
        settings: dict[str, Any] = {
            "way": measurement.way,
            "shot": measurement.shot,
            "query": common.query,
            "seed": common.seed,
            "protocol": common.protocol,
        }
        run = self.folder / RUN
        evaluated = evaluate_learner(learner, self.cell.row, run, dataset, episodes=common.episodes, **settings)
        if evaluated.curve or measurement not in self.with_curves or len(list_snapshots(run)) < 2:
            return evaluated
        curve = evaluate_snapshots(run, dataset, device=learner.device, episodes=common.curve_episodes, **settings)
        return LearnerEvaluation(evaluated.evaluation, curve)


def measurement_file(
    folder: Path, measurement: Measurement, episodes: EvaluationSettings, images: str, *, with_curve: bool
) -> Path:
    """File of an evaluation. Its name has a digest of all that the result depends on, so that no old result is reused.

    Args:
        folder: Folder of the cell.
        measurement: The evaluation.
        episodes: Settings that all evaluations share.
        images: SHA-256 of the test classes, labels and images (`dfml.pretraining.record.dataset_record`).
        with_curve: Whether the file also holds a learning curve.
    """
    common = [episodes.protocol, episodes.query, episodes.episodes, episodes.seed, episodes.split, images]
    curve = episodes.curve_episodes if with_curve else 0
    return folder / "evaluations" / f"{measurement.name}-{digest_of([*common, curve])}.json"


def read_evaluation(path: Path) -> LearnerEvaluation:
    """Read an evaluation that `CellJob.run` has written.

    Raises:
        OSError: If the file is missing or cannot be read.
    """
    values = json.loads(path.read_text(encoding="utf-8"))
    curve = {int(iteration): _evaluation(each) for iteration, each in values.pop("curve").items()}
    return LearnerEvaluation(_evaluation(values), curve)


def _evaluation(values: dict[str, Any]) -> Evaluation:
    derived = ("accuracy", "ci", "episodes")  # properties of `Evaluation`, which `as_dict` adds
    given = {name: value for name, value in values.items() if name not in derived}
    shot = tuple(given["shot"]) if isinstance(given["shot"], list) else given["shot"]
    return Evaluation(**{**given, "accuracies": tuple(given["accuracies"]), "shot": shot})


def write_json(path: Path, values: Any) -> None:
    """Write plain values as JSON, atomically; missing folders are created."""
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, json.dumps(values) + "\n")


def prepare_process(threads: int) -> None:
    """Set the number of CPU threads of torch, and let the allocator keep freed memory, in a child process."""
    keep_freed_memory()
    torch.set_num_threads(threads)


def peak_memory(device: torch.device) -> dict[str, int]:
    """Largest memory use of this process so far, in bytes: `resident`, and `gpu` if the device is one."""
    found = {"resident": _peak_resident()}
    if device.type == "cuda":
        found["gpu"] = torch.cuda.max_memory_allocated(device)
    return found


def _peak_resident() -> int:
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else 1024 * peak)

"""Run the quickstart: classifiers of Latin letters -> few-shot learners of Greek and Cyrillic letters -> evaluation.

This module computes everything; `dfml.demo.page` shows it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from dfml.data.dataset import ImageDataset
from dfml.data.glyphs import glyphs
from dfml.demo.quickstart_folder import QuickstartFolder
from dfml.demo.result import NewTask, QuickstartResult, RecoveredClass, Training
from dfml.demo.settings import QuickstartSettings
from dfml.evaluation.episodes import sample_evaluation_episode
from dfml.evaluation.protocol import Evaluation, evaluate
from dfml.evaluation.snapshots import evaluate_snapshots
from dfml.images import to_float
from dfml.learners import FewShotClassifier, MetaLearner
from dfml.methods import find_method
from dfml.methods.average import Average
from dfml.methods.best_member import BestMember
from dfml.methods.purer import PURER
from dfml.methods.random_init import RandomEmbedding, RandomInit
from dfml.methods.zoo_embedding import ZooEmbedding
from dfml.methods.zoo_student import ZooStudent
from dfml.pretraining import BuiltMember, build_zoo
from dfml.settings import override
from dfml.training.loop import TrainingRun
from dfml.training.progress import Progress, SilentProgress
from dfml.training.run_folder import RunFolder
from dfml.zoo.formats import WEIGHTS
from dfml.zoo.zoo import Zoo

BASELINES = (RandomInit, RandomEmbedding, Average, BestMember, ZooEmbedding)

Report = Callable[[str, float, str], None]
"""Called with (stage, its duration in seconds, one line about its outcome)."""

Watch = Callable[[str, int], Progress]
"""(title, number of steps) -> progress display."""


def run_quickstart(
    folder: QuickstartFolder,
    *,
    seed: int = 0,
    settings: QuickstartSettings | None = None,
    report: Report | None = None,
    watch: Watch | None = None,
) -> QuickstartResult:
    """Build a zoo, train three methods on it without data, evaluate them and their baselines, and adapt to one task.

    Args:
        folder: A new or empty folder, in which the zoo, the run of each method and the adapted classifier are created.
        seed: Seed of all random draws; default 0.
        settings: Settings; None: the defaults.
        report: Called after every stage.
        watch: Creates the progress display of a stage; None: no display.

    Raises:
        RunError: If the folder cannot be written.
        Interrupted: After SIGINT or SIGTERM while a method trains.
    """
    settings = settings or QuickstartSettings()
    watch = watch or (lambda title, total: SilentProgress())
    stages = _Stages(report)
    with stages("draw the letters") as outcome:
        train = _letters(settings, seed)
        test = glyphs("test", per_class=settings.test_images, size=settings.image_size, seed=seed)
        outcome.append(f"{len(train.classes)} Latin letters and digits, {len(test.classes)} Greek and Cyrillic letters")
    members = _build(train, folder.zoo, settings, seed, stages, watch)
    zoo = Zoo.open(folder.zoo)
    trained = {name: _train(name, zoo, folder, settings, seed, stages, watch) for name in settings.trained}
    learners = [learner for learner, _ in trained.values()]
    with stages("evaluate") as outcome:
        evaluations, seconds = _evaluate_all(learners, zoo, test, settings, seed, watch)
        outcome.append(f"{len(evaluations)} methods on the same {settings.episodes} episodes of unseen classes")
    with stages("draw the learning curves") as outcome:
        curves = {name: _curve(name, folder, test, evaluations, settings, seed) for name in settings.trained}
        outcome.append(f"{sum(map(len, curves.values()))} points")
    with stages("adapt and predict") as outcome:
        task, classifier = _new_task(learners[0], test, settings, seed)
        classifier.save_pretrained(folder.classifier)
        outcome.append(f"{task.correct} of {len(task.query_labels)} query images of a new task correct")
    return QuickstartResult(
        seed=seed,
        settings=settings,
        members=tuple(members),
        trainings={
            name: Training(
                curve=curves[name],
                metrics=tuple(RunFolder(folder.run_folder(name)).read_metrics()),
                descriptions=run.describe_metrics(),
                recovered=_recovered(run, zoo, train, settings),
            )
            for name, (_, run) in trained.items()
        },
        evaluations=evaluations,
        task=task,
        training_seconds={**{name: stages.seconds[training_stage(name)] for name in settings.trained}, **seconds},
        stored_bytes=_stored_bytes(folder, tuple(trained), evaluations),
        stages=stages.seconds,
    )


def train_quickstart_learner(
    folder: QuickstartFolder,
    *,
    seed: int = 0,
    settings: QuickstartSettings | None = None,
    report: Report | None = None,
    watch: Watch | None = None,
) -> MetaLearner:
    """Build the quickstart's zoo and train its first learner, `zoo_student`, as `run_quickstart` does, and no more.

    Args:
        folder: A new or empty folder, in which the zoo and the run are created.
        seed: Seed of all random draws; default 0.
        settings: Settings; None: the defaults.
        report: Called after every stage.
        watch: Creates the progress display of a stage; None: no display.

    Raises:
        RunError: If the folder cannot be written.
        Interrupted: After SIGINT or SIGTERM while the method trains.
    """
    settings = settings or QuickstartSettings()
    watch = watch or (lambda title, total: SilentProgress())
    stages = _Stages(report)
    _build(_letters(settings, seed), folder.zoo, settings, seed, stages, watch)
    learner, _ = _train(ZooStudent.name, Zoo.open(folder.zoo), folder, settings, seed, stages, watch)
    return learner


def training_stage(method: str) -> str:
    """Name of the stage that trains a method."""
    return f"train {method} without data"


class _Stages:
    """Measures the duration of each stage and reports it.

    Attributes:
        seconds: Stage -> duration.
    """

    def __init__(self, report: Report | None) -> None:
        self.seconds: dict[str, float] = {}
        self._report = report

    @contextmanager
    def __call__(self, name: str) -> Iterator[list[str]]:
        start = time.perf_counter()
        outcome: list[str] = []
        yield outcome
        self.seconds[name] = time.perf_counter() - start
        if self._report:
            self._report(name, self.seconds[name], " ".join(outcome))


def _letters(settings: QuickstartSettings, seed: int) -> ImageDataset:
    """The Latin letters and digits that the zoo is trained on."""
    return glyphs("train", per_class=settings.train_images, size=settings.image_size, seed=seed)


def _build(
    train: ImageDataset, out: Path, settings: QuickstartSettings, seed: int, stages: _Stages, watch: Watch
) -> list[BuiltMember]:
    way = settings.purer.way
    with stages("build a zoo") as outcome:
        with watch("zoo", settings.members) as progress:
            members = build_zoo(
                [train],
                out,
                members=settings.members,
                way=way,
                recipe=settings.recipe,
                disjoint=True,
                seed=seed,
                progress=lambda member, ready, total: progress.update(ready, {"held_out": member.held_out_accuracy}),
            )
        held_out = sum(member.held_out_accuracy for member in members) / len(members)
        outcome.append(f"{len(members)} classifiers with {way} classes each, {held_out:.0%} correct on held-out images")
    return members


def _train(
    name: str,
    zoo: Zoo,
    folder: QuickstartFolder,
    settings: QuickstartSettings,
    seed: int,
    stages: _Stages,
    watch: Watch,
) -> tuple[MetaLearner, TrainingRun]:
    config = override(settings.trained[name], {"seed": seed})
    method = find_method(name)(config)
    with stages(training_stage(name)) as outcome:
        with watch(name, config.iterations) as progress:
            learner = method.fit(zoo, out=folder.run_folder(name), device="cpu", progress=progress)
        outcome.append(f"{config.iterations} meta-iterations")
    return learner, method.run_


def _evaluate_all(
    trained: list[MetaLearner], zoo: Zoo, test: ImageDataset, settings: QuickstartSettings, seed: int, watch: Watch
) -> tuple[tuple[Evaluation, ...], dict[str, float]]:
    """Evaluate the trained learners and the baselines; also return the seconds that it took to make each baseline."""
    config = settings.purer
    common: dict[str, Any] = {"way": config.way, "shot": config.shot, "protocol": config.protocol, "seed": seed}
    learners, seconds = [*trained], {}
    for baseline in BASELINES:
        start = time.perf_counter()
        own_config = settings.best_member if baseline is BestMember else None
        learners.append(baseline(own_config, **common).fit(zoo, device="cpu"))
        seconds[baseline.name] = time.perf_counter() - start
    evaluations: list[Evaluation] = []
    with watch("evaluate", len(learners) * settings.episodes) as progress:
        for learner in learners:
            count = _count_from(progress, len(evaluations) * settings.episodes)
            evaluations.append(
                evaluate(learner, test, **common, query=settings.query, episodes=settings.episodes, on_episode=count)
            )
    return tuple(evaluations), seconds


def _count_from(progress: Progress, before: int) -> Callable[[int], None]:
    return lambda done: progress.update(before + done, {})


def _curve(
    name: str,
    folder: QuickstartFolder,
    test: ImageDataset,
    evaluations: tuple[Evaluation, ...],
    settings: QuickstartSettings,
    seed: int,
) -> dict[int, Evaluation]:
    """The learning curve of a method; its first and last point are evaluated already."""
    by_name = {evaluation.name: evaluation for evaluation in evaluations}
    config = settings.trained[name]
    snapshots = evaluate_snapshots(
        folder.run_folder(name),
        test,
        way=config.way,
        shot=config.shot,
        query=settings.query,
        episodes=settings.curve_episodes,
        seed=seed,
        protocol=config.protocol,
    )
    return {0: by_name[RandomEmbedding.name], **snapshots, config.iterations: by_name[name]}


def _new_task(
    learner: MetaLearner, test: ImageDataset, settings: QuickstartSettings, seed: int
) -> tuple[NewTask, FewShotClassifier]:
    """Adapt to a task that is none of the evaluation's episodes, and classify its query images."""
    way, shot = settings.purer.way, settings.purer.shot
    support, query = sample_evaluation_episode(test, way, shot, settings.shown, seed, settings.episodes)
    classes = tuple(test.classes[label] for label in test.labels[support[::shot]])
    support_labels = torch.arange(way).repeat_interleave(shot)
    query_labels = torch.arange(way).repeat_interleave(settings.shown)
    support_images, query_images = to_float(test.images[support]), to_float(test.images[query])
    classifier = learner.adapt(support_images, support_labels, classes)
    probabilities = classifier.predict_proba(query_images)
    return NewTask(classes, support_images, support_labels, query_images, query_labels, probabilities), classifier


def _recovered(
    run: TrainingRun, zoo: Zoo, train: ImageDataset, settings: QuickstartSettings
) -> tuple[tuple[RecoveredClass, ...], ...]:
    """The images that a run had recovered at the end, with real images of the same classes."""
    train_index = {name: index for index, name in enumerate(train.classes)}

    def recovered_class(index: int) -> RecoveredClass:
        name = zoo.classes.names[index]
        real = to_float(train.images[train.of_class(train_index[name])[: settings.shown]])
        images = run.images(index, settings.shown)
        return RecoveredClass(name, images if len(images) else real[:0], real)

    return tuple(tuple(recovered_class(index) for index in classes) for classes in zoo.classes.of_member)


def _stored_bytes(
    folder: QuickstartFolder, trained: tuple[str, ...], evaluations: tuple[Evaluation, ...]
) -> dict[str, int]:
    """Size of the weights that each method needs at test time.

    Baselines have a network of the same size as PURER's, except for those that keep one member or the whole zoo.
    """
    members = [path.stat().st_size for path in folder.zoo.glob(f"*/{WEIGHTS}")]
    learners = {name: (folder.run_folder(name) / WEIGHTS).stat().st_size for name in trained}
    stored = {each.name: learners.get(each.name, learners[PURER.name]) for each in evaluations}
    return {**stored, BestMember.name: max(members), ZooEmbedding.name: sum(members)}

"""The whole story on embedded data: classifiers of Latin letters -> learners of Greek and Cyrillic ones, judged.

Everything is drawn, trained and measured here; how it is shown is somebody else's business.
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
from dfml.demo.result import NewTask, QuickstartResult, QuickstartSettings, RecoveredClass, Training
from dfml.evaluation.protocol import Evaluation, evaluate, sample_evaluation_episode
from dfml.evaluation.recalled import recalled_images
from dfml.evaluation.snapshots import evaluate_snapshots
from dfml.images import to_float
from dfml.learners import FewShotClassifier, MetaLearner
from dfml.methods import find_method
from dfml.methods.average import Average
from dfml.methods.best_member import BestMember
from dfml.methods.free import FREE
from dfml.methods.purer import PURER
from dfml.methods.random_init import RandomEmbedding, RandomInit
from dfml.methods.zoo_embedding import ZooEmbedding
from dfml.methods.zoo_student import ZooStudent
from dfml.pretraining import BuiltMember, build_zoo
from dfml.settings import override
from dfml.training.progress import Progress, SilentProgress
from dfml.training.run_folder import RunFolder
from dfml.zoo.readers import WEIGHTS
from dfml.zoo.zoo import Zoo

ZOO, LEARNER, CLASSIFIER = "zoo", "learner", "classifier"
FOLDERS = {ZooStudent.name: LEARNER, PURER.name: "purer", FREE.name: "free"}
"""Of the methods that are trained."""
BASELINES = (RandomInit, RandomEmbedding, Average, BestMember, ZooEmbedding)

Report = Callable[[str, float, str], None]
"""Called with (stage, its seconds, what came out)."""

Watch = Callable[[str, int], Progress]
"""(what is going on, steps in all) -> who is told about every step."""


def run_quickstart(
    out: Path,
    *,
    seed: int = 0,
    settings: QuickstartSettings | None = None,
    report: Report | None = None,
    watch: Watch | None = None,
) -> QuickstartResult:
    """Build a zoo, learn from it without data in three ways, judge the learners beside their baselines, use one once.

    Args:
        out: A new or empty folder, in which `zoo/`, `learner/` (the student's), `purer/`, `free/` and `classifier/`
            appear.
        seed: Of all draws.
        settings: None: those that the quickstart is known by.
        report: Told about every stage that is done.
        watch: Makes the progress display of a stage.

    Raises:
        RunError: If the folder cannot be written.
        Interrupted: After SIGINT or SIGTERM while a method trains.
    """
    settings = settings or QuickstartSettings()
    watch = watch or (lambda title, total: SilentProgress())
    stages = _Stages(report)
    with stages("draw the letters") as outcome:
        train = glyphs("train", per_class=settings.train_images, size=settings.image_size, seed=seed)
        test = glyphs("test", per_class=settings.test_images, size=settings.image_size, seed=seed)
        outcome.append(f"{len(train.classes)} Latin letters and digits, {len(test.classes)} Greek and Cyrillic ones")
    with stages("build a zoo") as outcome:
        members = _build(train, out / ZOO, settings, seed, watch)
        right = sum(member.held_out_accuracy for member in members) / len(members)
        outcome.append(f"{len(members)} classifiers of {settings.purer.way} classes, {right:.0%} right on new images")
    zoo = Zoo.open(out / ZOO)
    learners = [_train(name, zoo, out, settings, seed, stages, watch) for name in settings.trained]
    with stages("evaluate") as outcome:
        evaluations, seconds = _judge(learners, zoo, test, settings, seed, watch)
        outcome.append(f"{len(evaluations)} methods on the same {settings.episodes} tasks of unseen classes")
    with stages("draw the learning curves") as outcome:
        curves = {name: _curve(name, out, test, evaluations, settings, seed) for name in settings.trained}
        outcome.append(f"{sum(map(len, curves.values()))} points")
    with stages("adapt and predict") as outcome:
        task, classifier = _new_task(learners[0], test, settings, seed)
        classifier.save_pretrained(out / CLASSIFIER)
        outcome.append(f"{task.right} of {len(task.query_labels)} images of a new task right")
    return QuickstartResult(
        seed=seed,
        settings=settings,
        members=tuple(members),
        trainings={
            learner.name: Training(
                curve=curves[learner.name],
                metrics=tuple(RunFolder(out / FOLDERS[learner.name]).read_metrics()),
                recovered=_recovered(out, zoo, train, learner, settings),
            )
            for learner in learners
        },
        evaluations=evaluations,
        task=task,
        training_seconds={**{name: stages.seconds[_stage(name)] for name in settings.trained}, **seconds},
        stored_bytes=_stored_bytes(out, evaluations),
        stages=stages.seconds,
    )


class _Stages:
    """Times the stages of a story, and tells of each when it is done."""

    def __init__(self, report: Report | None) -> None:
        self.seconds: dict[str, float] = {}
        self._report = report

    @contextmanager
    def __call__(self, name: str) -> Iterator[list[str]]:
        began = time.perf_counter()
        outcome: list[str] = []
        yield outcome
        self.seconds[name] = time.perf_counter() - began
        if self._report:
            self._report(name, self.seconds[name], " ".join(outcome))


def _build(train: ImageDataset, out: Path, settings: QuickstartSettings, seed: int, watch: Watch) -> list[BuiltMember]:
    with watch("zoo", settings.members) as progress:
        return build_zoo(
            [train],
            out,
            members=settings.members,
            way=settings.purer.way,
            recipe=settings.recipe,
            disjoint=True,
            seed=seed,
            progress=lambda member, ready, total: progress.update(ready, {"held_out": member.held_out_accuracy}),
        )


def _stage(method: str) -> str:
    return f"train {method} without data"


def _train(
    method: str, zoo: Zoo, out: Path, settings: QuickstartSettings, seed: int, stages: _Stages, watch: Watch
) -> MetaLearner:
    config = override(settings.trained[method], {"seed": seed})
    with stages(_stage(method)) as outcome:
        with watch(method, config.iterations) as progress:
            learner = find_method(method)(config).fit(zoo, out=out / FOLDERS[method], device="cpu", progress=progress)
        outcome.append(f"{config.iterations} meta-iterations")
    return learner


def _judge(
    trained: list[MetaLearner], zoo: Zoo, test: ImageDataset, settings: QuickstartSettings, seed: int, watch: Watch
) -> tuple[tuple[Evaluation, ...], dict[str, float]]:
    """Evaluations of the trained learners and their baselines, and the seconds it took to make the baselines."""
    config = settings.purer
    common: dict[str, Any] = {"way": config.way, "shot": config.shot, "protocol": config.protocol, "seed": seed}
    learners, seconds = [*trained], {}
    for baseline in BASELINES:
        began = time.perf_counter()
        chosen = settings.best_member if baseline is BestMember else None
        learners.append(baseline(chosen, **common).fit(zoo, device="cpu"))
        seconds[baseline.name] = time.perf_counter() - began
    found: list[Evaluation] = []
    with watch("evaluate", len(learners) * settings.episodes) as progress:
        for each in learners:
            count = _counting(progress, len(found) * settings.episodes)
            found.append(
                evaluate(each, test, **common, query=settings.query, episodes=settings.episodes, on_episode=count)
            )
    return tuple(found), seconds


def _counting(progress: Progress, before: int) -> Callable[[int], None]:
    return lambda done: progress.update(before + done, {})


def _curve(
    method: str,
    out: Path,
    test: ImageDataset,
    evaluations: tuple[Evaluation, ...],
    settings: QuickstartSettings,
    seed: int,
) -> dict[int, Evaluation]:
    """The snapshots' evaluations; the last one, and the start, are in the table already."""
    named = {each.name: each for each in evaluations}
    config = settings.trained[method]
    found = evaluate_snapshots(
        out / FOLDERS[method],
        test,
        way=config.way,
        shot=config.shot,
        query=settings.query,
        episodes=settings.curve_episodes,
        seed=seed,
        protocol=config.protocol,
    )
    return {0: named[RandomEmbedding.name], **found, config.iterations: named[method]}


def _new_task(
    learner: MetaLearner, test: ImageDataset, settings: QuickstartSettings, seed: int
) -> tuple[NewTask, FewShotClassifier]:
    """A task that no evaluation has drawn."""
    way, shot = settings.purer.way, settings.purer.shot
    support, of_query = sample_evaluation_episode(test, way, shot, settings.shown, seed, settings.episodes)
    classes = tuple(test.classes[label] for label in test.labels[support[::shot]])
    labels = torch.arange(way).repeat_interleave(shot)
    images, queries = to_float(test.images[support]), to_float(test.images[of_query])
    classifier = learner.adapt(images, labels, classes)
    truth = torch.arange(way).repeat_interleave(settings.shown)
    return NewTask(classes, images, labels, queries, truth, classifier.predict_proba(queries)), classifier


def _recovered(
    out: Path, zoo: Zoo, train: ImageDataset, learner: MetaLearner, settings: QuickstartSettings
) -> tuple[tuple[RecoveredClass, ...], ...]:
    """The images that a method had recovered at the end, beside real ones."""
    numbers = {name: number for number, name in enumerate(train.classes)}
    recovered = recalled_images(RunFolder(out / FOLDERS[learner.name]), learner.name, learner)
    assert recovered is not None  # the run has ended, which writes a checkpoint

    def of(index: int) -> RecoveredClass:
        name = zoo.classes.names[index]
        real = train.images[train.of_class(numbers[name])[: settings.shown]]
        return RecoveredClass(name, recovered(index, settings.shown), to_float(real))

    return tuple(tuple(of(index) for index in classes) for classes in zoo.classes.of_member)


def _stored_bytes(out: Path, evaluations: tuple[Evaluation, ...]) -> dict[str, int]:
    """Of the learner; baselines have a network like PURER's, but for those that keep one member or the whole zoo."""
    members = [path.stat().st_size for path in (out / ZOO).glob(f"*/{WEIGHTS}")]
    folders = {each.name: FOLDERS.get(each.name, FOLDERS[PURER.name]) for each in evaluations}
    stored = {name: (out / folder / WEIGHTS).stat().st_size for name, folder in folders.items()}
    return {**stored, BestMember.name: max(members), ZooEmbedding.name: sum(members)}

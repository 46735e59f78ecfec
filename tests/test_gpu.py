"""On a GPU: the results of the CPU up to rounding, and no tensor on the wrong device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dfml.evaluation import evaluate
from dfml.inversion.loss import InversionWeights
from dfml.inversion.pixel_gradient import InversionGradient
from dfml.inversion.views import View
from dfml.learners import LearnerConfig, MetaLearner
from dfml.methods import METHODS
from dfml.methods.free import FREE, FreeRun
from dfml.methods.purer import PURER, PurerRun
from tests.factories import PREPROCESSING, coloured_dataset, images, written_zoo, zoo

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]

CPU, GPU = torch.device("cpu"), torch.device("cuda")
TINY = {"width": 8, "latent": 8, "steps": 3, "weights": {"batch_norm": 0.1, "momentum": 0.5, "divergence": "js"}}
SMALL: dict[str, dict[str, Any]] = {
    "purer": {"warm_up": 2, "patience": 1, "episodes": 2},
    "free": {
        "warm_up": 1,
        "members_per_step": 2,
        "images_per_class": 4,
        "memory": 8,
        "replay": "fixed",
        "replay_steps": 2,
        "replay_tasks": 2,
        "inversion": {"five": TINY},
        "alignment_optimiser": "sgd",
    },
    "zoo_student": {"images_per_class": 3, "student_steps": 2, "batch": 8, "inversion": {"ei": {"steps": 2}}},
}
COMMON = {"way": 3, "shot": 1, "query": 2, "iterations": 4, "checkpoint_every": 2}


def settings(name: str, **more: Any) -> dict[str, Any]:
    learner = {} if name == "zoo_student" else {"learner": LearnerConfig(inner_steps=2)}
    return {**COMMON, **SMALL[name], **learner, **more}


def close(found: Tensor, expected: Tensor, share: float = 1e-3) -> None:
    """Compare norms: entries near zero round differently."""
    difference = torch.linalg.vector_norm(found.detach().cpu().double() - expected.detach().double())
    assert difference <= share * torch.linalg.vector_norm(expected.detach().double()) + 1e-6


def test_stacked_members_give_the_gradients_of_the_cpu_loop() -> None:
    weights = InversionWeights(batch_norm=0.1)
    on_cpu = zoo(3)
    pixels = [torch.randn(3, 4, *images(1).shape[1:], generator=torch.Generator().manual_seed(i)) for i in range(3)]
    views = [View(1, -2), View(), View(-1, 0)]
    expected = InversionGradient(on_cpu, PREPROCESSING, weights, stacked=False)([0, 1, 2], pixels, views)
    found = InversionGradient(zoo(3).to(GPU), PREPROCESSING, weights, stacked=True)(
        [0, 1, 2], [each.to(GPU) for each in pixels], views
    )
    for one, other in zip(found, expected, strict=True):
        close(one.pixels, other.pixels)


def test_a_meta_iteration_of_purer_is_that_of_the_cpu() -> None:
    runs = [PURER(**settings("purer")).start(zoo().to(place), place) for place in (CPU, GPU)]
    on_cpu, on_gpu = (run for run in runs if isinstance(run, PurerRun))
    expected, found = on_cpu.step(1), on_gpu.step(1)
    assert found["outer_loss"] == pytest.approx(expected["outer_loss"], rel=1e-3)
    assert found["inversion_loss"] == pytest.approx(expected["inversion_loss"], rel=1e-3)
    close(on_gpu.dataset.pixels, on_cpu.dataset.pixels, 1e-2)


def test_images_recovered_by_free_are_those_of_the_cpu() -> None:
    runs = [FREE(**settings("free")).start(zoo().to(place), place) for place in (CPU, GPU)]
    on_cpu, on_gpu = (run for run in runs if isinstance(run, FreeRun))
    for iteration in (1, 2):
        expected, found = on_cpu.step(iteration), on_gpu.step(iteration)
        assert found["inversion_loss"] == pytest.approx(expected["inversion_loss"], rel=2e-2)
    assert torch.equal(on_gpu.tasks.memory.written, on_cpu.tasks.memory.written)
    close(on_gpu.tasks.memory.images.float(), on_cpu.tasks.memory.images.float(), 2e-2)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_runs_and_its_learner_predicts_there_and_on_the_cpu(name: str, tmp_path: Path) -> None:
    arguments = settings(name) if name in SMALL else {key: COMMON[key] for key in ("way", "shot", "query")}
    learner = METHODS[name](**arguments).fit(written_zoo(tmp_path / "zoo"), out=tmp_path / "run", device="cuda")
    support, labels = images(3), torch.arange(3)
    on_gpu = learner.adapt(support, labels).predict_proba(images(4, seed=1)).cpu()
    on_cpu = MetaLearner.from_pretrained(tmp_path / "run").adapt(support, labels).predict_proba(images(4, seed=1))
    torch.testing.assert_close(on_gpu, on_cpu, rtol=1e-2, atol=1e-3)
    evaluation = evaluate(learner, coloured_dataset(), way=3, shot=1, query=5, episodes=4)
    assert 0.0 <= evaluation.accuracy <= 1.0


@pytest.mark.parametrize("name", sorted(SMALL))
def test_a_run_is_resumed_on_the_gpu(name: str, tmp_path: Path) -> None:
    kind = METHODS[name]
    kind(**settings(name)).fit(zoo(), out=tmp_path / "run", device="cuda")
    for path in sorted((tmp_path / "run/checkpoints/000004").iterdir()):
        path.unlink()
    kind(**settings(name)).fit(zoo(), out=tmp_path / "run", resume=True, device="cuda")
    lines = (tmp_path / "run/metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 4

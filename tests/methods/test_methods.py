"""What holds for every method: it is found by name, and its run describes metrics, gives images and its engine."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from dfml.errors import UsageError
from dfml.methods import METHODS, find_method
from dfml.training.loop import TrainingRun
from dfml.zoo import Zoo
from tests.factories import PREPROCESSING, member, zoo

CPU = torch.device("cpu")
GENERATOR = {"steps": 2, "width": 8, "latent": 8}
TASKS = {"query": 2, "images_per_class": 4, "memory": 8, "replay": "fixed", "replay_steps": 1, "replay_tasks": 1}
SMALL: dict[str, dict[str, Any]] = {
    "purer": {"query": 2, "episodes": 1, "warm_up": 1},
    "free": {**TASKS, "warm_up": 1, "members_per_step": 3, "cosine_every": 1, "inversion": {"five": GENERATOR}},
    "zoo_student": {
        "members_per_step": 3,
        "images_per_class": 4,
        "student_steps": 2,
        "batch": 16,
        "precision": "float32",
        "episodic_share": 0.9,
        "episode_way": 2,
        "episode_shot": 1,
        "episode_query": 1,
        "inversion": {"fallback": None, "ei": {"steps": 2, "search_steps": 0}, "five": GENERATOR},
    },
    "bidf_mkd": {
        **TASKS,
        "members_per_step": 2,
        "boundary_after": 1,
        "distillation_steps": 2,
        "inversion": {"engine": "zeroth_order", "zeroth_order": {**GENERATOR, "directions": 2}},
    },
    "tgr": {
        **TASKS,
        "members_per_step": 2,
        "groups": 2,
        "inversion": {"engine": "cmi", "cmi": {**GENERATOR, "contrast": 0.0}, "five": GENERATOR},
    },
    "dro": {"embedding_size": 4, "hidden": 8},
    "best_member": {"images_per_class": 3, "inversion": {"fallback": None, "ei": {"steps": 2, "search_steps": 0}}},
}


def after_steps(name: str, members: Zoo | None = None, **settings: Any) -> tuple[TrainingRun, list[str]]:
    """A run after three meta-iterations, and the names of their metrics."""
    settings = {"way": 3, "iterations": 3, **SMALL[name], **settings}
    run = METHODS[name](**settings).start(members or zoo(), CPU)
    return run, list(dict.fromkeys(metric for iteration in (1, 2, 3) for metric in run.step(iteration)))


def test_methods_are_found_by_name() -> None:
    assert find_method("purer") is METHODS["purer"]
    with pytest.raises(UsageError, match=r"unknown method 'purr'; choose one of purer"):
        find_method("purr")


@pytest.mark.parametrize("name", SMALL)
def test_every_metric_is_described_and_every_description_is_of_a_metric(name: str) -> None:
    run, metrics = after_steps(name)
    descriptions = run.describe_metrics()
    ends_of_arrows = {description.arrow_to for description in descriptions.values()}
    described = {*descriptions, *ends_of_arrows} - {None}
    assert described == {metric for metric in metrics if not metric.endswith("_seconds")}
    assert any(description.headline for description in descriptions.values())
    for description in descriptions.values():
        assert description.title
        assert description.caption.endswith(".")


@pytest.mark.parametrize("size", [None, 32])
@pytest.mark.parametrize("name", METHODS)
def test_every_method_works_at_the_size_of_its_setting(name: str, size: int | None) -> None:
    small, large = (replace(PREPROCESSING, size=side) for side in (16, 24))
    members = Zoo.of([member(0, preprocessing=small), member(1, preprocessing=large), member(2, preprocessing=large)])
    settings = {"way": 3, **({"iterations": 3, **SMALL[name]} if name in SMALL else {})}
    run = METHODS[name](img_size=size, **settings).start(members, CPU)
    for iteration in range(1, run.iterations + 1):
        run.step(iteration)
    learner = run.learner()
    assert learner.preprocessing.size == (size or 24)
    images = torch.rand(6, 3, size or 24, size or 24)
    classifier = learner.adapt(images, torch.arange(3).repeat(2), ("x", "y", "z"))
    assert classifier.predict_proba(images).shape == (6, 3)


@pytest.mark.parametrize("name", ["purer", "free", "zoo_student", "bidf_mkd", "tgr", "best_member"])
def test_a_run_gives_its_images(name: str) -> None:
    members = Zoo.of([member(0, ("ant", "bee", "cat"))])
    # Else images that the member does not recognise after these few steps would be missing.
    unchecked = {"inversion": {**SMALL[name].get("inversion", {}), "confirmed_only": False}}
    run, _ = after_steps(name, members, **(unchecked if name not in ("purer", "best_member") else {}))
    for class_index in range(3):
        images = run.images(class_index, 2)
        assert images.shape == (2, 3, 16, 16)
        assert images.dtype == torch.float32
        assert images.device == CPU
        assert 0.0 <= images.min() < images.max() <= 1.0
    assert len(run.images(0, 10**6)) > 2
    assert not torch.equal(run.images(0, 2), run.images(1, 2))
    assert run.images_caption.endswith(".")


@pytest.mark.parametrize("name", ["free", "zoo_student", "tgr"])
def test_a_meta_trained_engine_is_offered_and_no_other(name: str) -> None:
    engine = {**SMALL[name]["inversion"], "engine": "five"}
    run, _ = after_steps(name, inversion=engine)
    learned = run.learned_engine()
    assert learned is not None
    assert learned.config.engine == "five"
    assert {f"engine.{tensor}" for tensor in learned.tensors} <= set(run.state_dict().tensors)
    pixels, _ = after_steps(name, inversion={**engine, "engine": "ei", "ei": {"steps": 2, "search_steps": 0}})
    assert pixels.learned_engine() is None


@pytest.mark.parametrize("name", sorted(set(METHODS) - set(SMALL)))
def test_methods_without_training_have_nothing_to_show(name: str) -> None:
    run = METHODS[name](way=3).start(zoo(), CPU)
    assert run.iterations == 0
    assert not run.describe_metrics()
    assert len(run.images(0, 5)) == 0
    assert run.learned_engine() is None
    with pytest.raises(TypeError, match="does not train"):
        run.step(1)

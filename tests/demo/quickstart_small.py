"""A quickstart with settings that are too small to learn anything, for tests of what it computes and shows."""

from __future__ import annotations

from pathlib import Path

from dfml.demo.result import QuickstartResult
from dfml.demo.settings import QuickstartSettings
from dfml.inversion.ei import PixelInversionConfig
from dfml.inversion.registry import InversionConfig

TRAINED = ["zoo_student", "purer", "free"]
FOLDERS = ["learner", "purer", "free"]
BASELINES = ["random_init", "random_embedding", "average", "best_member", "zoo_embedding"]
METHODS = [*TRAINED, *BASELINES]

Finished = tuple[QuickstartResult, Path, list[str]]
"""A result, its folder, and the stages in the order of their reports."""


def small() -> QuickstartSettings:
    """Too little of everything, so that it takes seconds."""
    default = QuickstartSettings()
    common = {"way": 2, "shot": 2, "query": 2, "iterations": 3, "snapshot_every": 2, "checkpoint_every": 3}
    warm_up = common | {"warm_up": 1}
    student = {"members_per_step": 2, "images_per_class": 2, "mixed": 1, "memory": 32, "student_steps": 2, "batch": 8}
    quick = InversionConfig(
        engine="ei", confirmed_only=False, ei=PixelInversionConfig(start="dead_leaves", steps=2, search_steps=0)
    )
    unchecked = default.free.inversion.model_copy(update={"confirmed_only": False})
    free = {"members_per_step": 2, "images_per_class": 4, "memory": 6, "replay_steps": 1, "replay_tasks": 1}
    return default.model_copy(
        update={
            "image_size": 16,
            "train_images": 8,
            "test_images": 6,
            "members": 2,
            "recipe": default.recipe.override(epochs=1),
            "zoo_student": default.zoo_student.model_copy(update=common | student | {"inversion": quick}),
            "best_member": default.best_member.model_copy(update={"iterations": 2, "inversion": quick}),
            "purer": default.purer.model_copy(update=warm_up),
            "free": default.free.model_copy(update=warm_up | free | {"inversion": unchecked}),
            "query": 2,
            "episodes": 4,
            "curve_episodes": 2,
            "shown": 3,
        }
    )

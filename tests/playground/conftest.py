"""What the tests of the playground share: coloured images and a learner that tells colours apart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dfml.learners import MetaLearner, ProtoNet
from dfml.learners.gradient_based import LearnerConfig
from tests.factories import PREPROCESSING

COLOURS = {"red": (220, 30, 30), "blue": (30, 30, 220), "green": (30, 200, 30)}

WriteImages = Callable[..., list[str]]


@pytest.fixture
def learner() -> MetaLearner:
    return ProtoNet(LearnerConfig(kind="protonet"), PREPROCESSING)


@pytest.fixture
def images(tmp_path: Path) -> WriteImages:
    """A function that writes noisy images of one colour, and returns their paths."""
    rng = np.random.default_rng(0)

    def write(colour: str, count: int, folder: str = "images") -> list[str]:
        paths = []
        (tmp_path / folder).mkdir(exist_ok=True)
        for number in range(count):
            pixels = (np.array(COLOURS[colour]) + rng.normal(0, 25, (20, 24, 3))).clip(0, 255).astype(np.uint8)
            path = tmp_path / folder / f"{colour}-{number}.png"
            Image.fromarray(pixels).save(path)
            paths.append(str(path))
        return paths

    return write

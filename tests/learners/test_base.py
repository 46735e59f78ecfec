from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dfml.errors import LearnerError
from dfml.learners import FewShotClassifier, LearnerConfig, MetaLearner, Student, ZooEmbeddingLearner, create_learner
from tests.factories import PREPROCESSING, images, written_zoo

LEARNERS: dict[str, Callable[[Path], MetaLearner]] = {
    **{
        kind: lambda folder, kind=kind: create_learner(LearnerConfig(kind=kind), PREPROCESSING, way=3, name="mine")
        for kind in ("maml", "anil", "protonet")
    },
    "student": lambda folder: Student.untrained("conv4", {}, (3, 2), PREPROCESSING, way=3, name="mine"),
    "zoo_embedding": lambda folder: ZooEmbeddingLearner(list(written_zoo(folder)), PREPROCESSING, way=3, name="mine"),
}
every_learner = pytest.mark.parametrize("kind", LEARNERS)


def saved(kind: str, folder: Path) -> tuple[MetaLearner, FewShotClassifier]:
    """A learner and a classifier that it adapted, saved as `learner` and `classifier`."""
    learner = LEARNERS[kind](folder / "zoo")
    learner.save_pretrained(folder / "learner")
    classifier = learner.adapt(images(3), torch.arange(3))
    classifier.save_pretrained(folder / "classifier")
    return learner, classifier


def edit(config: Path, **changes: Any) -> None:
    """Change entries of a JSON file; None removes one."""
    values = json.loads(config.read_text()) | changes
    config.write_text(json.dumps({name: value for name, value in values.items() if value is not None}))


@every_learner
def test_what_is_saved_is_the_config_and_the_state_dict(kind: str, tmp_path: Path) -> None:
    learner, classifier = saved(kind, tmp_path)
    for made, folder, general in (
        (learner, tmp_path / "learner", {"name": "mine", "way": 3}),
        (classifier, tmp_path / "classifier", {"labels": ["0", "1", "2"]}),
    ):
        config = json.loads((folder / "config.json").read_text())
        assert config == json.loads(json.dumps(made.get_config()))
        assert config.items() >= {"format_version": 1, "kind": made.kind, **general}.items()
        assert (folder / "model.safetensors").exists() == bool(made.state_dict())
        again = type(made).from_config(config, made.state_dict())
        assert again.get_config() == made.get_config()
        assert again.state_dict().keys() == made.state_dict().keys()
        assert all(torch.equal(value, made.state_dict()[name]) for name, value in again.state_dict().items())


@every_learner
@pytest.mark.parametrize(
    ("version", "found"), [(None, "no format version"), (2, "2"), (0, "0"), ("1", "'1'"), (True, "True")]
)
def test_another_format_version_is_refused(kind: str, version: object, found: str, tmp_path: Path) -> None:
    saved(kind, tmp_path)
    for folder, load in (("learner", MetaLearner.from_pretrained), ("classifier", FewShotClassifier.from_pretrained)):
        load(tmp_path / folder)
        config = tmp_path / folder / "config.json"
        edit(config, format_version=version)
        with pytest.raises(LearnerError) as caught:
            load(tmp_path / folder)
        message = str(caught.value)
        assert message.startswith(f"{config}: expected format version 1, found ")
        assert f"{found};" in message
        assert message.endswith("or create it again with this release")

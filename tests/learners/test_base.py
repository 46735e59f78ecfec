from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import torch

from dfml.errors import DataError, LearnerError
from dfml.learners import (
    MAML,
    FewShotClassifier,
    LearnerConfig,
    MetaLearner,
    Student,
    ZooEmbeddingLearner,
    create_learner,
)
from tests.factories import PREPROCESSING, images, written_zoo

from .small import gradient_learner

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


@pytest.mark.parametrize(
    ("count", "labels", "message"),
    [
        (0, [], "one label per image, found 0 images and 0 labels"),
        (3, [0, 1], "one label per image, found 3 images and 2 labels"),
        (2, [0, 2], "count from 0 without gaps, found no image of class 1"),
        (2, [-1, 0], "count from 0 without gaps, found label -1"),
    ],
)
def test_an_invalid_support_set_is_refused(count: int, labels: list[int], message: str) -> None:
    with pytest.raises(LearnerError, match=message):
        gradient_learner().adapt(images(count), torch.tensor(labels, dtype=torch.int64))


def test_names_must_match_the_number_of_classes() -> None:
    with pytest.raises(LearnerError, match="one name for each of the 3 support classes, found 2 names"):
        gradient_learner().adapt(images(3), torch.arange(3), ("ant", "bee"))


@every_learner
def test_integer_images_are_refused(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # a user's calls are not type-checked
    learner = LEARNERS[kind](tmp_path)
    support, labels = images(4), torch.tensor([0, 0, 1, 1])
    integers = (255 * support).to(torch.uint8)
    with pytest.raises(DataError, match="divide bytes by 255"):
        learner.adapt(integers, labels)
    with pytest.raises(DataError, match="divide bytes by 255"):
        learner.adapt(support, labels).predict(integers)


def test_a_folder_without_a_learner_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LearnerError, match="expected a saved learner"):
        MetaLearner.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"architecture": "conv4"}')  # of a zoo member
    with pytest.raises(LearnerError, match=r"expected a saved learner.* names no `kind`"):
        MetaLearner.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"format_version": 1, "kind": "unknown"}')
    with pytest.raises(LearnerError, match="kind 'unknown', which neither dfml nor an installed package defines"):
        MetaLearner.from_pretrained(tmp_path)


def test_a_kind_of_learner_belongs_to_one_class() -> None:
    with pytest.raises(
        TypeError, match=r"Duplicate: expected a `kind` of its own, found 'maml', which is dfml\.learners\.maml\.MAML"
    ):
        type("Duplicate", (MAML,), {"kind": "maml"})
    assert MetaLearner._kinds["maml"] is MAML
    body = {"kind": "mine", "__module__": "__main__"}
    type("Mine", (MAML,), body)
    again = type("Mine", (MAML,), body)  # as if a notebook cell ran twice
    try:
        assert MetaLearner._kinds["mine"] is again
    finally:
        del MetaLearner._kinds["mine"]

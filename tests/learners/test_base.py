from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jaxtyping
import pytest
import torch
from safetensors.torch import load_file, save_file

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


LOADERS = {"learner": MetaLearner.from_pretrained, "classifier": FewShotClassifier.from_pretrained}
every_saved = pytest.mark.parametrize("what", LOADERS)


@every_saved
@pytest.mark.parametrize("kind", [kind for kind in LEARNERS if kind != "zoo_embedding"])
def test_missing_weights_are_an_error_that_names_them(kind: str, what: str, tmp_path: Path) -> None:
    saved(kind, tmp_path)
    weights = tmp_path / what / "model.safetensors"
    tensors = load_file(weights)
    lost = next(name for name in tensors if name.endswith("weight"))
    save_file({name: value for name, value in tensors.items() if name != lost}, weights)
    with pytest.raises(LearnerError, match=rf"^{tmp_path / what}: the tensor .* is missing, expected .*save it again$"):
        LOADERS[what](tmp_path / what)
    save_file({**tensors, lost: torch.zeros(1)}, weights)
    with pytest.raises(LearnerError, match=r"has shape \(1,\), expected"):
        LOADERS[what](tmp_path / what)
    weights.unlink()
    with pytest.raises(LearnerError, match=r"there is no model\.safetensors"):
        LOADERS[what](tmp_path / what)


@every_saved
@every_learner
def test_a_missing_entry_of_the_config_is_named(kind: str, what: str, tmp_path: Path) -> None:
    saved(kind, tmp_path)
    edit(tmp_path / what / "config.json", preprocessing=None)
    message = rf"^{tmp_path / what}: expected 'preprocessing' in the config\.json or model\.safetensors of the kind "
    with pytest.raises(LearnerError, match=message):
        LOADERS[what](tmp_path / what)


def test_a_wrong_value_in_the_config_is_named(tmp_path: Path) -> None:
    saved("maml", tmp_path)
    edit(tmp_path / "learner" / "config.json", learner={"kind": "maml", "inner_steps": -1})
    with pytest.raises(
        LearnerError, match=r"of the kind 'maml', found a wrong value in it \(.*inner_steps.*\); "
    ) as caught:
        MetaLearner.from_pretrained(tmp_path / "learner")
    assert "\n" not in str(caught.value)


@every_learner
def test_a_learner_and_a_classifier_are_not_taken_for_each_other(kind: str, tmp_path: Path) -> None:
    saved(kind, tmp_path)
    with pytest.raises(LearnerError, match=r"expected a learner at .*, found a classifier.*`dfml predict "):
        MetaLearner.from_pretrained(tmp_path / "classifier")
    with pytest.raises(LearnerError, match=r"expected a classifier at .*, found a learner.*`dfml adapt "):
        FewShotClassifier.from_pretrained(tmp_path / "learner")


@every_saved
def test_an_interrupted_save_leaves_the_old_files(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = dict(zip(LOADERS, saved("maml", tmp_path), strict=True))[what]
    before = {path.name: path.read_bytes() for path in (tmp_path / what).iterdir()}

    def interrupt(tensors: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("dfml.learners.saving.save_tensors", interrupt)
    with pytest.raises(KeyboardInterrupt):
        made.save_pretrained(tmp_path / what)
    assert {path.name: path.read_bytes() for path in (tmp_path / what).iterdir()} == before


def test_a_learner_without_weights_replaces_one_with_weights(tmp_path: Path) -> None:
    saved("maml", tmp_path)
    LEARNERS["zoo_embedding"](tmp_path / "zoo").save_pretrained(tmp_path / "learner")
    assert not (tmp_path / "learner" / "model.safetensors").exists()
    assert MetaLearner.from_pretrained(tmp_path / "learner").kind == "zoo_embedding"


@every_learner
def test_the_model_card_describes_the_learner(kind: str, tmp_path: Path) -> None:
    learner, _ = saved(kind, tmp_path)
    card = (tmp_path / "learner" / "README.md").read_text()
    assert "# mine\n" in card
    assert f"| kind of learner | `{learner.kind}` |" in card
    assert "library_name: dfml" in card
    assert "Mixin" not in card
    (tmp_path / "learner" / "README.md").write_text("my own")
    learner.save_pretrained(tmp_path / "learner")
    assert (tmp_path / "learner" / "README.md").read_text() == "my own"


def test_push_to_hub_uploads_what_save_pretrained_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uploads = []

    class Api:
        def __init__(self, **options: object) -> None: ...

        def create_repo(self, repo_id: str, **options: object) -> SimpleNamespace:
            return SimpleNamespace(repo_id=repo_id)

        def upload_folder(self, *, repo_id: str, folder_path: Path, **options: object) -> str:
            uploads.append((repo_id, sorted(path.name for path in folder_path.iterdir())))
            return "address"

    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", Api)
    files = ["README.md", "config.json", "model.safetensors"]
    assert gradient_learner().push_to_hub("me/mine") == "address"
    assert gradient_learner().save_pretrained(tmp_path / "mine", push_to_hub=True) == "address"
    assert uploads == [("me/mine", files), ("mine", files)]

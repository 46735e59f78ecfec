from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
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
from dfml.methods.random_init import RandomInit
from dfml.zoo.vetting import sha256
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


def test_learners_and_classifiers_show_what_they_are() -> None:
    learner = create_learner(LearnerConfig(kind="anil"), PREPROCESSING, way=3, name="mine")
    assert repr(learner) == f"ANIL(name='mine', way=3, protocol='strict', size={PREPROCESSING.size})"
    classifier = learner.adapt(images(2), torch.arange(2), ("cat", "dog"))
    assert repr(classifier).endswith(f"(labels=('cat', 'dog'), size={PREPROCESSING.size})")


@every_learner
def test_what_is_saved_is_the_config_and_the_state_dict(kind: str, tmp_path: Path) -> None:
    learner, classifier = saved(kind, tmp_path)
    for made, folder, general in (
        (learner, tmp_path / "learner", {"name": "mine", "way": 3}),
        (classifier, tmp_path / "classifier", {"labels": ["0", "1", "2"]}),
    ):
        config = json.loads((folder / "config.json").read_text())
        provenance = config.pop("provenance", {})
        assert provenance == made.provenance
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
def test_bytes_are_images_and_other_integers_are_refused(kind: str, tmp_path: Path) -> None:
    learner = LEARNERS[kind](tmp_path)
    labels = torch.tensor([0, 0, 1, 1])
    support = (255 * images(4)).to(torch.uint8)
    classifier = learner.adapt(support, labels)
    expected = learner.adapt(support / 255, labels).predict_proba(support / 255)
    assert torch.equal(classifier.predict_proba(support), expected)
    with pytest.raises(DataError, match=r"bytes \(uint8\) or floats in \[0, 1\], found torch.int64"):
        learner.adapt(support.long(), labels)
    with pytest.raises(DataError, match=r"floats in \[0, 1\], found values from 0 to 25.; divide bytes by 255"):
        classifier.predict(support.float())


def test_a_support_set_by_class_name_is_that_of_indices(tmp_path: Path) -> None:
    learner, pixels = gradient_learner(), (255 * images(3, size=20)).to(torch.uint8)
    arrays = pixels.permute(0, 2, 3, 1).numpy()
    Image.fromarray(arrays[0]).save(tmp_path / "a.png")
    expected = learner.adapt(pixels, torch.tensor([0, 0, 1]), ("dog", "cat")).predict_proba(pixels)
    by_name = learner.adapt({"dog": [tmp_path / "a.png", arrays[1]], "cat": pixels[2]})
    assert by_name.labels == ("dog", "cat")
    torch.testing.assert_close(by_name.predict_proba(pixels), expected, atol=0.02, rtol=0)  # Pillow resizes in bytes
    by_label = learner.adapt([arrays[0], Image.fromarray(arrays[1]), arrays[2]], ["dog", "dog", "cat"])
    assert by_label.labels == ("cat", "dog")
    torch.testing.assert_close(by_label.predict_proba(pixels).flip(1), expected, atol=0.02, rtol=0)
    assert by_name.provenance["support"] == {"dog": 2, "cat": 1}


@pytest.mark.parametrize(
    ("images_", "labels", "message"),
    [
        ({"a": images(1), "b": images(0)}, None, "images of every class, found none of b"),
        ({}, None, "found none of any"),
        ({"a": images(1)}, [0], "found both"),
        (images(2), None, "expected labels of the images, or images by class name"),
    ],
)
def test_a_support_set_that_is_not_whole_is_refused(images_: Any, labels: Any, message: str) -> None:
    with pytest.raises(LearnerError, match=message):
        gradient_learner().adapt(images_, labels)


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


@every_saved
@every_learner
def test_the_model_card_says_what_it_is(kind: str, what: str, tmp_path: Path) -> None:
    made = dict(zip(LOADERS, saved(kind, tmp_path), strict=True))[what]
    file = tmp_path / what / "README.md"
    card = file.read_text()
    assert "library_name: dfml" in card
    assert f"`{made.kind}`" in card or f"kind `{kind}`" in card
    assert "## Limits" in card
    assert "CITATION.cff" in card
    assert "No evaluation is recorded here" in card
    assert str(tmp_path) not in card
    assert ("`strict`" in card) or ("`any`" in card)
    file.write_text("my own")
    made.save_pretrained(tmp_path / what)
    assert file.read_text() == "my own"


def test_the_model_card_names_the_zoo_and_the_results(tmp_path: Path) -> None:
    zoo = written_zoo(tmp_path / "zoo")
    learner = RandomInit(way=3).fit(zoo)
    names = ("a|b", "<script>", "c")
    classifier = learner.adapt(images(4), torch.tensor([0, 0, 1, 2]), names)
    classifier.save_pretrained(tmp_path / "classifier", results={"letters, 3-way": "70 %"})
    card = (tmp_path / "classifier" / "README.md").read_text()
    for name in ("m0", "m1", "m2"):
        digest = sha256(tmp_path / "zoo" / name / "model.safetensors")
        assert f"| {name} | `{digest}` |" in card
    assert "The method `random_init` made it from 3 classifiers" in card
    assert "| letters, 3-way | 70 % |" in card
    assert "a\\|b (2), &lt;script> (1), c (1)" in card
    weights = sha256(tmp_path / "classifier" / "model.safetensors")
    assert f"`{weights}`" in card
    assert FewShotClassifier.from_pretrained(tmp_path / "classifier").provenance == classifier.provenance


@pytest.mark.parametrize("what", ["learner", "classifier"])
def test_push_to_hub_uploads_what_save_pretrained_writes(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = tmp_path / "hub"

    class Api:
        def __init__(self, **options: object) -> None: ...

        def create_repo(self, repo_id: str, **options: object) -> SimpleNamespace:
            return SimpleNamespace(repo_id=repo_id)

        def upload_folder(self, *, repo_id: str, folder_path: str, **options: object) -> str:
            shutil.copytree(folder_path, hub / repo_id)
            return "address"

    def download(repo_id: str, **options: object) -> str:
        if not (hub / repo_id).is_dir():
            raise OSError("404")
        return str(hub / repo_id)

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    learner = gradient_learner()
    made: Any = learner if what == "learner" else learner.adapt(images(3), torch.arange(3))
    assert made.push_to_hub("me/mine") == "address"
    assert sorted(path.name for path in (hub / "me/mine").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    again = LOADERS[what]("me/mine")
    assert again.get_config() == made.get_config()
    with pytest.raises(LearnerError, match=r"no folder me/other, and it cannot be downloaded .* \(404\); check"):
        LOADERS[what]("me/other")


def test_a_zoo_embedding_is_not_uploaded(tmp_path: Path) -> None:
    learner, classifier = saved("zoo_embedding", tmp_path)
    for made in (learner, classifier):
        with pytest.raises(LearnerError, match="refers to files of its members on this machine"):
            made.push_to_hub("me/mine")

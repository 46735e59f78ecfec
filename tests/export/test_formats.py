"""Exported files give the probabilities of `predict_proba`, for every kind of learner."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from dfml.errors import LearnerError, UsageError
from dfml.export.exported import open_exported
from dfml.export.formats import ExportFormat
from dfml.images import to_float
from dfml.learners import ICFIL, FewShotClassifier
from dfml.learners.student import Student
from dfml.learners.zoo_embedding import ZooEmbeddingLearner
from dfml.zoo.black_box import BlackBoxClassifier
from tests.factories import PREPROCESSING, SIZE, images, member
from tests.learners.small import gradient_learner

LABELS, NAMES = torch.tensor([0, 1, 0, 2, 1]), ("ant", "bee", "cat <b>")


def adapted(learner: object, **settings: object) -> FewShotClassifier:
    return learner.adapt(images(5, 1), LABELS, NAMES, **settings)  # type: ignore[attr-defined, no-any-return]


def _student(embedding: str, fit: str) -> FewShotClassifier:
    return adapted(Student.untrained("conv4", {}, (3, 2, 3), PREPROCESSING, embedding=embedding, fit=fit))


def _zoo_embedding(representation: str, **settings: object) -> FewShotClassifier:
    members = [member(0), member(1, preprocessing=PREPROCESSING.__class__(20, (0.1, 0.2, 0.3), (0.3, 0.2, 0.1)))]
    return adapted(ZooEmbeddingLearner(members, PREPROCESSING, representation=representation, **settings))  # type: ignore[arg-type]


CLASSIFIERS: dict[str, Callable[[], FewShotClassifier]] = {
    "maml": lambda: adapted(gradient_learner(kind="maml")),
    "anil, resnet": lambda: adapted(gradient_learner(kind="anil", backbone="fewshot_resnet10")),
    "protonet": lambda: adapted(gradient_learner(kind="protonet", statistics_shrinkage=0.5)),
    "calibrated": lambda: adapted(gradient_learner(kind="protonet"), calibration=ICFIL(steps=1, inversion_steps=1)),
    "network of timm": lambda: adapted(gradient_learner(kind="maml", backbone="test_resnet")),
    "student, centred, ridge": lambda: _student("centred", "ridge"),
    "student, probabilities, mean": lambda: _student("probabilities", "mean"),
    "student, features, ridge": lambda: _student("features", "ridge"),
    "zoo_embedding": lambda: _zoo_embedding("probabilities"),
    "zoo_embedding, logits": lambda: _zoo_embedding("logits", fit="ridge"),
    "frozen_backbone": lambda: _zoo_embedding("features", fit="ridge"),
}
FAST = ("protonet",)  # each export takes seconds


def check(classifier: FewShotClassifier, path: Path, to: ExportFormat) -> None:
    """One file takes images of any size and any number, and agrees with the classifier."""
    classifier.export(path, to=to)
    run = open_exported(path, to)
    for shape in ((1, SIZE, SIZE), (3, 40, 23), (2, 9, 9)):
        pixels = torch.randint(0, 256, (*shape, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        expected = classifier.predict_proba(to_float(pixels.permute(0, 3, 1, 2)))
        np.testing.assert_allclose(run(pixels.numpy()), expected.numpy(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in FAST else pytest.mark.slow) for n in CLASSIFIERS])
def test_onnx_gives_the_same_probabilities(name: str, tmp_path: Path) -> None:
    check(CLASSIFIERS[name](), tmp_path / "classifier.onnx", "onnx")


@pytest.mark.parametrize("name", ["maml", pytest.param("zoo_embedding", marks=pytest.mark.slow)])
def test_pt2_gives_the_same_probabilities(name: str, tmp_path: Path) -> None:
    check(CLASSIFIERS[name](), tmp_path / "classifier.pt2", "pt2")


def test_labels_and_origin_are_metadata_and_no_path_of_this_machine_is(tmp_path: Path) -> None:
    classifier, file = CLASSIFIERS["maml"](), tmp_path / "classifier.onnx"
    classifier.export(file)
    model = onnx.load(file)
    metadata = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    assert metadata["labels"] == list(NAMES)
    about = metadata["dfml"]
    assert (about["kind"], about["learner"]["kind"], about["image_size"]) == ("network", "maml", SIZE)
    classifier.save_pretrained(tmp_path / "saved")
    from dfml.zoo.vetting import sha256

    assert about["weights_sha256"] == sha256(tmp_path / "saved" / "model.safetensors")
    axes = [axis.dim_param or axis.dim_value for axis in model.graph.input[0].type.tensor_type.shape.dim]
    assert axes == ["batch", "height", "width", 3]
    assert str(Path(torch.__file__).parent).encode() not in file.read_bytes()
    assert b".py" not in file.read_bytes()


def test_what_cannot_be_exported_says_so_in_one_line(tmp_path: Path) -> None:
    black_box = BlackBoxClassifier(lambda x: x.mean((2, 3)), ("r", "g", "b"), PREPROCESSING, "a service")
    with pytest.raises(LearnerError, match=r"cannot be exported: the zoo member a service only predicts"):
        adapted(ZooEmbeddingLearner([black_box], PREPROCESSING)).export(tmp_path / "a.onnx")
    transductive = adapted(gradient_learner("paper", kind="maml"))
    with pytest.raises(LearnerError, match=r"protocol `paper` cannot be exported: its prediction"):
        transductive.export(tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


def test_a_classifier_that_cannot_be_traced_says_so(tmp_path: Path) -> None:
    classifier = CLASSIFIERS["protonet"]()
    classifier.inference_module = lambda: _Untraceable()  # type: ignore[method-assign]
    with pytest.raises(LearnerError, match=r"cannot be exported: PyTorch cannot trace it \(") as caught:
        classifier.export(tmp_path / "a.pt2", to="pt2")
    assert "\n" not in str(caught.value)


class _Untraceable(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(images.numpy().sum((2, 3)))


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dfml.export.formats.find_spec", lambda name: None if name == "onnxscript" else object())
    with pytest.raises(UsageError, match=r"need onnxscript, which cannot be imported: install dfml\[onnx\]"):
        CLASSIFIERS["protonet"]().export(tmp_path / "a.onnx")

"""ONNX: differentiable where the graph converts, a member that predicts otherwise, with the runtime's outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

from dfml.errors import ZooError, ZooMemberError
from dfml.learners.base import MetaLearner
from dfml.methods.purer import PURER
from dfml.methods.zoo_embedding import ZooEmbedding
from dfml.methods.zoo_student import ZooStudent
from dfml.zoo import Differentiable, Predicts, PretrainedClassifier, Zoo
from dfml.zoo.black_box import BlackBoxClassifier
from dfml.zoo.inspection import inspect_zoo
from dfml.zoo.vetting import load_member, read_member_config

pytest.importorskip("onnx", reason="needs the extra onnx")
pytest.importorskip("onnx2torch", reason="needs the extra onnx")
ort = pytest.importorskip("onnxruntime", reason="needs the extra onnx")
from onnx import TensorProto  # noqa: E402

from tests.factories import member, write  # noqa: E402
from tests.zoo.onnx_models import BYTES, LABELS, METADATA, SIZE, floor, save  # noqa: E402

MEAN, STD = np.array([0.4, 0.5, 0.6]), np.array([0.2, 0.25, 0.3])


def open_member(path: Path) -> Predicts:
    return load_member(read_member_config(path))


def noise(size: int = SIZE, images: int = 3) -> Tensor:
    return torch.randint(0, 256, (images, 3, size, size), generator=torch.Generator().manual_seed(0)) / 255


def runtime(path: Path, values: np.ndarray, *, batch: int = 3) -> Tensor:
    """What ONNX Runtime makes of the graph's own input, in its own words."""
    session = ort.InferenceSession(str(path))
    name = session.get_inputs()[0].name
    parts = [session.run(None, {name: values[at : at + batch]})[0] for at in range(0, len(values), batch)]
    return torch.from_numpy(np.concatenate(parts))


def normalised(images: Tensor) -> np.ndarray:
    return ((images.numpy() - MEAN[:, None, None]) / STD[:, None, None]).astype(np.float32)


def test_a_plain_graph_is_a_differentiable_member(tmp_path: Path) -> None:
    path = save(tmp_path / "zoo" / "a.onnx")
    save(tmp_path / "zoo" / "b.onnx", ending="Softmax", batch=1)
    zoo = Zoo.open(tmp_path / "zoo")
    member = zoo.classifier(0)
    assert member.labels == LABELS
    assert (member.preprocessing.size, member.preprocessing.mean) == (SIZE, (0.4, 0.5, 0.6))
    torch.testing.assert_close(member.logits(noise()), runtime(path, normalised(noise())), rtol=1e-4, atol=1e-4)
    assert member.features(noise()).shape == (3, 6)
    images = noise().requires_grad_(True)
    member.logits(images)[:, 1].sum().backward()
    assert images.grad is not None
    assert bool(images.grad.any())
    # The same weights in both: a softmax at the end and a batch of one change nothing.
    torch.testing.assert_close(zoo.classifier(1).logits(noise()), member.logits(noise()), rtol=1e-4, atol=1e-4)
    assert len(zoo.groups()) == 2
    report = inspect_zoo(tmp_path / "zoo")
    assert [(row.name, row.format, row.problem) for row in report.members] == [
        ("a.onnx", "onnx", None),
        ("b.onnx", "onnx", None),
    ]


@pytest.mark.parametrize("opset", [13, 18, 20, 21])
def test_earlier_and_later_versions_of_the_operators_convert(tmp_path: Path, opset: int) -> None:
    member = open_member(save(tmp_path / "a.onnx", opset=opset, ending="Softmax"))
    assert isinstance(member, Differentiable)


@pytest.mark.parametrize(
    "settings",
    [
        {"channels_last": True},
        {"ending": "LogSoftmax", "size": "side", "metadata": {**METADATA, "size": str(SIZE)}},
        {"dtype": TensorProto.FLOAT16},
        {"dtype": TensorProto.DOUBLE},
    ],
    ids=["channels last", "open size", "half precision", "double precision"],
)
def test_other_inputs_have_the_same_logits(tmp_path: Path, settings: dict[str, Any]) -> None:
    plain, other = open_member(save(tmp_path / "a.onnx")), open_member(save(tmp_path / "b.onnx", **settings))
    tolerance = 2e-3 if settings.get("dtype") == TensorProto.FLOAT16 else 1e-4
    torch.testing.assert_close(other.predict_proba(noise()), plain.predict_proba(noise()), rtol=0, atol=tolerance)


def test_bytes_and_what_has_no_gradient_only_predict(tmp_path: Path) -> None:
    path = save(tmp_path / "bytes.onnx", dtype=TensorProto.UINT8, metadata=BYTES, batch=1, ending="Softmax")
    member = open_member(path)
    assert isinstance(member, BlackBoxClassifier)
    assert not isinstance(member, Differentiable)
    values = (noise().numpy() * 255).round().astype(np.uint8)
    torch.testing.assert_close(member.predict_proba(noise()), runtime(path, values, batch=1), rtol=1e-4, atol=1e-5)
    path = save(tmp_path / "floor.onnx", extra=floor())
    member = open_member(path)
    assert isinstance(member, BlackBoxClassifier)
    assert "no usable gradient" in member.reason
    expected = runtime(path, normalised(noise())).softmax(dim=1)
    torch.testing.assert_close(member.predict_proba(noise()), expected, rtol=1e-4, atol=1e-5)


def test_quantised_weights_only_predict(tmp_path: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    save(tmp_path / "a.onnx")
    path = tmp_path / "int8.onnx"
    quantize_dynamic(tmp_path / "a.onnx", path, weight_type=QuantType.QUInt8)
    import onnx

    model = onnx.load(path)
    onnx.helper.set_model_props(model, METADATA)
    onnx.save(model, path)
    member = open_member(path)
    assert isinstance(member, BlackBoxClassifier)
    expected = runtime(path, normalised(noise())).softmax(dim=1)
    torch.testing.assert_close(member.predict_proba(noise()), expected, rtol=1e-4, atol=1e-5)
    plain = open_member(tmp_path / "a.onnx").predict_proba(noise())
    assert float((member.predict_proba(noise()) - plain).abs().max()) < 0.1


def test_one_channel_and_one_output(tmp_path: Path) -> None:
    grey = {**METADATA, "mean": "[0.5]", "std": "[0.25]"}
    path = save(tmp_path / "grey.onnx", channels=1, metadata=grey)
    images = noise()
    luminance = (images * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)
    expected = runtime(path, ((luminance - 0.5) / 0.25).numpy()).softmax(dim=1)
    member = open_member(path)
    assert isinstance(member, PretrainedClassifier)
    torch.testing.assert_close(member.predict_proba(images), expected, rtol=1e-4, atol=1e-4)
    two = {**METADATA, "labels": '["cat", "dog"]'}
    path = save(tmp_path / "one.onnx", outputs=1, ending="Sigmoid", metadata=two)
    second = runtime(path, normalised(images))
    torch.testing.assert_close(
        open_member(path).predict_proba(images), torch.cat([1 - second, second], dim=1), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"outputs": 4}, "4 outputs, expected 3 for 3 labels"),
        ({"dtype": TensorProto.UINT8}, "takes bytes"),
        ({"dtype": TensorProto.INT64}, "expected images of 1 or 3 channels"),
        ({"channels": 4}, "expected images of 1 or 3 channels"),
        ({"batch": 5}, "expected images of 1 or 3 channels"),
        ({"metadata": {**METADATA, "std": "[0, 1, 1]"}}, "positive std"),
        ({"metadata": {**METADATA, "mean": '["x"]'}}, "as JSON in its metadata"),
        ({"size": "side"}, "as JSON in its metadata"),
        ({"metadata": {**METADATA, "labels": '["ant", "ant", "bee"]'}}, "distinct labels"),
        ({"ending": "Sigmoid"}, "3 outputs, expected 1"),
    ],
)
def test_contradictions_are_refused(tmp_path: Path, settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(ZooMemberError, match=reason):
        open_member(save(tmp_path / "a.onnx", **settings))


@pytest.mark.parametrize("metadata", [{}, {"labels": "[1]"}, {**METADATA, "mean": "x"}, {**METADATA, "std": "0.5"}])
def test_a_file_that_does_not_describe_itself_is_no_member(tmp_path: Path, metadata: dict[str, str]) -> None:
    save(tmp_path / "zoo" / "a.onnx", metadata=metadata)
    with pytest.raises(ZooError, match="is empty"):
        Zoo.open(tmp_path / "zoo")


def test_a_zoo_with_a_member_that_only_predicts_trains(tmp_path: Path) -> None:
    write_zoo = tmp_path / "zoo"
    for seed in (1, 2, 3):
        write(write_zoo / f"m{seed}", member(seed, LABELS))
    save(write_zoo / "box.onnx", dtype=TensorProto.UINT8, metadata=BYTES, ending="Softmax", batch=1)
    zoo = Zoo.open(write_zoo)
    assert [zoo.has_network(index) for index in range(4)] == [False, True, True, True]
    assert zoo.classes.merges() == {label: [0, 1, 2, 3] for label in LABELS}
    student = ZooStudent(
        iterations=1, student_steps=2, images_per_class=2, backbone_arguments={"channels": [8, 8, 8, 8]}
    ).fit(zoo, device="cpu")
    assert student.embed(torch.rand(2, 3, SIZE, SIZE)).shape[1] == 12  # the outputs of all four members
    embedding = ZooEmbedding().fit(zoo, out=tmp_path / "embedding", device="cpu")
    again: Any = MetaLearner.from_pretrained(tmp_path / "embedding")
    images = torch.rand(2, 3, SIZE, SIZE)
    assert torch.equal(again.embed(images), embedding.embed(images))  # type: ignore[attr-defined]
    run = PURER(iterations=1, way=2, shot=1).start(zoo, torch.device("cpu"))
    messages = run.pop_messages()
    assert ["box.onnx is not inverted" in message for message in messages] == [True]
    assert "it only predicts" in messages[0]
    run.step(1)
    digest = zoo.digest()
    save(write_zoo / "box.onnx", dtype=TensorProto.UINT8, metadata=BYTES, batch=1)
    assert Zoo.open(write_zoo).digest() != digest


def test_an_entry_of_the_manifest_says_what_the_file_does_not(tmp_path: Path) -> None:
    path = save(tmp_path / "zoo" / "net.onnx", metadata={}, ending="Softmax")
    (tmp_path / "zoo" / "names.txt").write_text("ant\nbee\ncat\n")
    entry = {"path": "net.onnx", "format": "onnx", "labels": "names.txt", "size": SIZE, "mean": MEAN.tolist()}

    def write_entry(**changes: Any) -> None:
        content = {"members": [{**entry, "std": STD.tolist(), **changes}]}
        (tmp_path / "zoo" / "zoo.yaml").write_text(yaml.safe_dump(content))

    write_entry()
    zoo = Zoo.open(tmp_path / "zoo")
    assert (zoo.name(0), zoo[0].labels) == ("net", LABELS)
    expected = runtime(path, normalised(noise()))
    torch.testing.assert_close(zoo[0].predict_proba(noise()), expected, rtol=1e-4, atol=1e-5)
    for changes, reason in (
        ({"size": 32}, "takes images of 16 x 16 pixels, not 32"),
        ({"labels": 2}, "3 outputs, expected 2 for 2 labels"),
        ({"sha256": "0" * 64}, "another SHA-256"),
    ):
        write_entry(**changes)
        with pytest.raises(ZooMemberError, match=reason):
            Zoo.open(tmp_path / "zoo")[0]

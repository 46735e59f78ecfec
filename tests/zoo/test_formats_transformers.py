"""transformers' format: the same logits as transformers, and nothing of a member's is run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dfml.errors import ZooMemberError
from dfml.zoo import PretrainedClassifier, Zoo, bounds
from dfml.zoo.formats import WEIGHTS
from dfml.zoo.formats.transformers import FORMAT, INDEX
from dfml.zoo.image_processor import PROCESSOR
from dfml.zoo.inspection import inspect_zoo
from dfml.zoo.vetting import load_member, read_member_config, weight_digest
from tests.factories import edit_config, edit_weights

transformers = pytest.importorskip("transformers", reason="needs the extra hf")
from transformers.utils import logging  # noqa: E402

logging.disable_progress_bar()

SIZE = 32
LABELS = {0: "ant", 1: "bee", 2: "cat"}
COMMON: dict[str, Any] = {"id2label": LABELS, "label2id": {name: index for index, name in LABELS.items()}}
VIT = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "image_size": SIZE,
    "patch_size": 8,
}
KINDS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "vit": ("ViT", VIT, {"size": {"height": SIZE, "width": SIZE}, "image_mean": [0.5] * 3, "image_std": [0.4] * 3}),
    "an early vit": (
        "ViT",
        VIT,
        {"size": SIZE, "feature_extractor_type": "ViTFeatureExtractor", "do_normalize": False},
    ),
    "resnet": (
        "ResNet",
        {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
        {"size": {"shortest_edge": SIZE}, "crop_pct": 0.875, "image_processor_type": "ConvNextImageProcessor"},
    ),
    "mobilevit, which takes blue first": (
        "MobileViT",
        {
            "hidden_sizes": [8, 8, 8],
            "neck_hidden_sizes": [8, 8, 8, 8, 8, 8, 8],
            "num_attention_heads": 2,
            "image_size": SIZE,
            "patch_size": 2,
        },
        {"size": {"shortest_edge": 36}, "crop_size": {"height": SIZE, "width": SIZE}, "do_flip_channel_order": True},
    ),
}


def write(folder: Path, kind: str = "vit", **processor: Any) -> Path:
    """Save a small model with random weights as transformers does, and its preprocessor_config.json."""
    name, settings, preparation = KINDS[kind]
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**settings, **COMMON)
    model = getattr(transformers, f"{name}ForImageClassification")(config).eval()
    for tensor_name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape) * 0.2 + (0.5 if "var" in tensor_name else -0.1))
    model.save_pretrained(folder)
    (folder / PROCESSOR).write_text(json.dumps({**preparation, **processor}))
    return folder


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("saved") / "vit")


@pytest.fixture
def vit(saved: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "vit"
    shutil.copytree(saved, folder)
    return folder


def edit_processor(folder: Path, **changes: Any) -> None:
    path = folder / PROCESSOR
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def noise(size: int = SIZE) -> Tensor:
    return torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_transformers_with_its_own_image_processor(tmp_path: Path, kind: str) -> None:
    folder = write(tmp_path / "member", kind)
    member = load_member(read_member_config(folder))
    assert isinstance(member, PretrainedClassifier)
    edge = KINDS[kind][2]["size"]
    edge = edge.get("shortest_edge", SIZE) if isinstance(edge, dict) and "crop_size" in KINDS[kind][2] else SIZE
    images = noise(edge)
    margin = (edge - SIZE) // 2
    own = images[:, :, margin : margin + SIZE, margin : margin + SIZE]
    # Images of the size that is cropped, so that no resizing has a part in the comparison.
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    switches = {"do_resize": False} if "crop_pct" in KINDS[kind][2] else {}
    inputs = processor(images=list(images), return_tensors="pt", **switches)
    model = transformers.AutoModelForImageClassification.from_pretrained(folder)
    with torch.no_grad():
        torch.testing.assert_close(member.logits(own / 255), model(**inputs).logits, rtol=1e-5, atol=1e-5)
    assert member.labels == ("ant", "bee", "cat")
    assert member.preprocessing.size == SIZE


def test_it_is_a_member_like_any_other(tmp_path: Path) -> None:
    write(tmp_path / "zoo" / "a", "resnet")
    write(tmp_path / "zoo" / "b")
    report = inspect_zoo(tmp_path / "zoo")
    assert [(member.format, member.architecture, member.problem) for member in report.members] == [
        ("transformers", "ResNetForImageClassification", None),
        ("transformers", "ViTForImageClassification", None),
    ]
    assert report.members[0].batch_norms
    assert report.merges == {label: ["a", "b"] for label in ("ant", "bee", "cat")}
    zoo = Zoo.open(tmp_path / "zoo")
    for index, width in ((0, 16), (1, 16)):
        member = zoo.classifier(index)
        features = member.features(torch.rand(2, 3, SIZE, SIZE))
        assert features.shape == (2, width)
        images = torch.rand(2, 3, SIZE, SIZE, requires_grad=True)
        member.logits(images)[:, 0].sum().backward()
        assert images.grad is not None
        assert bool(images.grad.any())


def test_weights_in_shards_are_one_network(tmp_path: Path, vit: Path) -> None:
    whole = load_member(read_member_config(vit))
    weights = load_file(vit / WEIGHTS)
    names = sorted(weights)
    parts = {"model-00001-of-00002.safetensors": names[:9], "model-00002-of-00002.safetensors": names[9:]}
    for file, part in parts.items():
        save_file({name: weights[name] for name in part}, vit / file)
    (vit / WEIGHTS).unlink()
    index = {"weight_map": {name: file for file, part in parts.items() for name in part}}
    (vit / INDEX).write_text(json.dumps(index))
    member = load_member(read_member_config(vit))
    images = noise() / 255
    assert torch.equal(member.predict_proba(images), whole.predict_proba(images))
    digest = weight_digest(vit)
    save_file({name: weights[name] + 1 for name in names[9:]}, vit / "model-00002-of-00002.safetensors")
    assert weight_digest(vit) != digest  # a change of any shard shows
    for bad in ("../other.safetensors", "/etc/passwd", "weights.bin"):
        (vit / INDEX).write_text(json.dumps({"weight_map": {"a": bad}}))
        with pytest.raises(ZooMemberError, match=r"of the same folder in model.safetensors.index.json"):
            read_member_config(vit)


def test_half_precision_becomes_single(vit: Path) -> None:
    edit_weights(vit, lambda weights: {name: tensor.half() for name, tensor in weights.items()})
    edit_config(vit, torch_dtype="float16", dtype="float16")
    network = load_member(read_member_config(vit)).network  # type: ignore[union-attr]
    assert {tensor.dtype for tensor in network.state_dict().values()} == {torch.float32}


def test_placeholder_names_are_kept_and_never_merge(tmp_path: Path, vit: Path) -> None:
    zoo = tmp_path / "zoo"
    for name in ("a", "b"):
        shutil.copytree(vit, zoo / name)
        edit_config(zoo / name, id2label={str(index): f"LABEL_{index}" for index in range(3)})
    assert len(Zoo.open(zoo).classes) == 6
    edit_config(zoo / "a", id2label=None, num_labels=3)
    assert read_member_config(zoo / "a").labels == ("LABEL_0", "LABEL_1", "LABEL_2")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"architectures": ["ViTModel"]}, "expected ViTForImageClassification in `architectures`, found 'ViTModel'"),
        ({"architectures": None}, "found None"),
        ({"architectures": ["EuroSATTransformerClassifier"]}, "found 'EuroSATTransformerClassifier'"),
        ({"architectures": ["Evil"], "auto_map": {"AutoConfig": "evil.Evil"}}, "its own code .* is not run"),
        ({"model_type": "bert"}, "'bert' is no type of image classifier"),
        ({"model_type": ["vit"]}, "is no type of image classifier"),
        ({"model_type": "perceiver"}, "'perceiver' is no type"),
        ({"problem_type": "multi_label_classification"}, "expected one class per image"),
        ({"quantization_config": {"bits": 4}}, "`quantization_config` in config.json is not supported"),
        ({"id2label": {"0": "ant"}}, "regression"),
        ({"id2label": {"0": "ant", "2": "bee"}}, "a name for each number from 0"),
        ({"id2label": ["ant", "bee"]}, "must map numbers to names"),
        ({"id2label": {"0": "ant", "1": "ant", "2": "bee"}}, "distinct labels"),
        ({"num_labels": 7}, "`num_labels` 7"),
        ({"hidden_size": 10**9}, "integers of at most"),
        ({"num_hidden_layers": 3}, "needs .* values, model.safetensors has"),
        ({"num_hidden_layers": 1}, "is not part of ViTForImageClassification"),
        ({"hidden_act": "evil"}, "cannot read it .*evil"),
        ({"id2label": {"0": "ant", "1": "bee"}}, "has shape .* is expected|is expected"),
        ({"image_size": 64}, "needs .* values"),
    ],
)
def test_what_cannot_be_a_member_is_refused_with_the_reason(vit: Path, changes: dict[str, Any], reason: str) -> None:
    edit_config(vit, **changes)
    assert FORMAT.recognises(vit)
    with pytest.raises(ZooMemberError, match=reason):
        load_member(read_member_config(vit))


def test_code_of_a_member_is_not_run(vit: Path) -> None:
    (vit / "evil.py").write_text("raise SystemExit('run')")
    edit_config(vit, auto_map={"AutoModelForImageClassification": "evil.Evil"}, _attn_implementation="evil/kernel")
    edit_processor(vit, auto_map={"AutoImageProcessor": "evil.Evil"})
    assert load_member(read_member_config(vit)).labels == ("ant", "bee", "cat")


def test_a_weight_that_is_missing_is_never_random(vit: Path) -> None:
    # Another weight of the same number of values in its place: the sum of all values does not show it.
    edit_weights(vit, lambda weights: {name.replace("classifier", "head"): value for name, value in weights.items()})
    with pytest.raises(ZooMemberError, match=r"classifier.bias is missing and 3 more differences"):
        load_member(read_member_config(vit))


def test_modules_are_counted_while_the_network_is_built(vit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "MAX_MODULES", 200)
    load_member(read_member_config(vit))
    edit_config(vit, num_hidden_layers=10**5)
    with pytest.raises(ZooMemberError, match=r"ViTForImageClassification cannot be built: .* more than 200 modules"):
        load_member(read_member_config(vit))

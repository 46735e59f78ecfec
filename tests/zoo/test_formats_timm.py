"""timm's format: a member read back is the network that was written, and every defect is one line."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import timm
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from dfml.backbones import create_backbone
from dfml.errors import ZooError, ZooMemberError
from dfml.zoo import Preprocessing, PretrainedClassifier, Zoo
from dfml.zoo.formats import CONFIG, WEIGHTS
from dfml.zoo.vetting import load_member, read_member_config
from dfml.zoo.writer import write_member
from tests.factories import PREPROCESSING, SIZE, ZooMaker, edit_config, edit_weights


def load(folder: Path) -> PretrainedClassifier:
    return load_member(read_member_config(folder))


def refusal(folder: Path) -> str:
    """The one line that a user sees."""
    with pytest.raises(ZooMemberError) as caught:
        load(folder)
    line = str(caught.value)
    assert str(folder) in line
    assert "\n" not in line
    return line


@pytest.mark.parametrize(
    ("architecture", "arguments"),
    [
        ("conv4", {"img_size": 2 * SIZE}),
        ("conv4_64", {"global_pool": "max"}),
        ("fewshot_resnet10", {}),
        ("test_resnet", {}),
        ("test_efficientnet", {}),
        ("test_vit", {"img_size": 2 * SIZE}),
    ],
)
def test_a_member_read_back_is_the_network_that_was_written(
    zoo_maker: ZooMaker, architecture: str, arguments: dict[str, object]
) -> None:
    size = 2 * SIZE
    folder, network = zoo_maker.member(architecture=architecture, arguments=arguments, size=size)
    classifier = load(folder)
    assert classifier.labels == ("ant", "bee", "cat")
    assert list(classifier.network.state_dict()) == list(network.state_dict())
    for name, tensor in network.state_dict().items():
        assert torch.equal(classifier.network.state_dict()[name], tensor), name
    assert not any(parameter.requires_grad for parameter in classifier.parameters())
    images = torch.rand(2, 3, size, size)
    expected = network(classifier.preprocessing.normalise(images))
    torch.testing.assert_close(classifier.logits(images), expected, rtol=1e-4, atol=1e-5)


def test_timm_reads_what_is_written(zoo_maker: ZooMaker) -> None:
    folder, network = zoo_maker.member(architecture="test_resnet", arguments={})
    theirs = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    images = torch.rand(2, 3, SIZE, SIZE)
    torch.testing.assert_close(theirs(images), network(images))
    assert theirs.pretrained_cfg["label_names"] == ["ant", "bee", "cat"]
    assert tuple(theirs.pretrained_cfg["mean"]) == PREPROCESSING.mean


def test_a_classifier_stays_in_evaluation_mode(zoo_maker: ZooMaker) -> None:
    classifier = load(zoo_maker.member()[0])
    outer = nn.ModuleList([classifier]).train()
    before = {name: tensor.clone() for name, tensor in classifier.state_dict().items()}
    classifier.logits(torch.rand(4, 3, SIZE, SIZE))
    assert outer.training
    assert not any(module.training for module in classifier.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in classifier.state_dict().items())


@given(st.tuples(*[st.floats(0, 1)] * 3), st.tuples(*[st.floats(0.01, 2)] * 3))
def test_denormalising_undoes_normalising(mean: tuple[float, float, float], std: tuple[float, float, float]) -> None:
    preprocessing = Preprocessing(SIZE, mean, std)
    images = torch.rand(2, 4, 3, 5, 5, dtype=torch.double)
    normalised = preprocessing.normalise(images)
    torch.testing.assert_close(preprocessing.denormalise(normalised), images)
    expected = (images[:, :, 1] - mean[1]) / std[1]
    torch.testing.assert_close(normalised[:, :, 1], expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.half, torch.bfloat16, torch.double])
def test_weights_of_another_precision_are_used_as_float32(zoo_maker: ZooMaker, dtype: torch.dtype) -> None:
    folder, network = zoo_maker.member()
    edit_weights(folder, lambda w: {k: v.to(dtype) if v.is_floating_point() else v for k, v in w.items()})
    images = torch.rand(2, 3, SIZE, SIZE)
    classifier = load(folder)
    expected = network(classifier.preprocessing.normalise(images))
    torch.testing.assert_close(classifier.logits(images), expected, rtol=0.05, atol=0.05)


def test_without_label_names_outputs_are_numbered(zoo_maker: ZooMaker) -> None:
    folder, _ = zoo_maker.member()
    edit_config(folder, label_names=None)
    assert load(folder).labels == ("0", "1", "2")


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_weight_file_is_refused(zoo_maker: ZooMaker, kept: float) -> None:
    folder, _ = zoo_maker.member()
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: int(len(content) * kept)])
    assert "damaged or cut short" in refusal(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(zoo_maker: ZooMaker, value: float) -> None:
    folder, _ = zoo_maker.member()

    def spoil(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        weights["blocks.2.norm.running_var"][3] = value
        return weights

    edit_weights(folder, spoil)
    assert "NaN or infinite values in blocks.2.norm.running_var" in refusal(folder)


def test_a_negative_stored_variance_is_refused(zoo_maker: ZooMaker) -> None:
    folder, _ = zoo_maker.member()

    def spoil(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        weights["blocks.0.norm.running_var"] -= 10
        return weights

    edit_weights(folder, spoil)
    assert "expected finite logits of shape (1, 3)" in refusal(folder)


def test_a_git_lfs_pointer_has_an_error_of_its_own(zoo_maker: ZooMaker) -> None:
    folder, _ = zoo_maker.member()
    (folder / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    assert "git lfs pull" in refusal(folder)


def test_a_pickle_is_never_opened(zoo_maker: ZooMaker, tmp_path: Path) -> None:
    folder, _ = zoo_maker.member()
    opened = tmp_path / "opened"

    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (opened,))

    (folder / WEIGHTS).write_bytes(pickle.dumps(Trap()))
    assert "damaged or cut short" in refusal(folder)
    assert not opened.exists()


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG])
def test_a_missing_file_is_named(zoo_maker: ZooMaker, name: str) -> None:
    folder, _ = zoo_maker.member()
    (folder / name).unlink()
    line = refusal(folder)
    assert name in line
    assert "No such file" in line


@pytest.mark.parametrize(
    "architecture", ["no_such_network", "", "hf-hub:timm/resnet18", "hf_hub:x", "local-dir:/etc", "/etc/passwd", "a/b"]
)
def test_an_architecture_outside_the_registry_is_refused(zoo_maker: ZooMaker, architecture: str) -> None:
    folder, _ = zoo_maker.member()
    edit_config(folder, architecture=architecture)
    assert "unknown architecture" in refusal(folder)


@pytest.mark.parametrize(
    "name",
    [
        "checkpoint_path",
        "pretrained",
        "pretrained_cfg",
        "pretrained_cfg_overlay",
        "cache_dir",
        "architecture",
        "model_name",
        "num_classes",
        "seed",
        "features_only",
        "no_such_argument",
    ],
)
def test_arguments_that_are_not_the_architectures_own_are_refused(
    zoo_maker: ZooMaker, tmp_path: Path, name: str
) -> None:
    folder, _ = zoo_maker.member()
    trap = tmp_path / "trap.pth"
    torch.save(create_backbone("conv4", 3, img_size=SIZE).state_dict(), trap)
    edit_config(folder, model_args={"img_size": SIZE, name: str(trap)})
    assert name in refusal(folder)


@pytest.mark.parametrize(
    "arguments",
    [
        {"img_size": "16"},
        {"img_size": -1},
        {"img_size": 32},
        {"channels": 8},
        {"in_chans": 1},
        {"global_pool": "nonsense"},
    ],
)
def test_arguments_that_do_not_fit_are_refused(zoo_maker: ZooMaker, arguments: dict[str, object]) -> None:
    folder, _ = zoo_maker.member()
    edit_config(folder, model_args={"img_size": SIZE, **arguments})
    assert "model_args" in refusal(folder)


@pytest.mark.parametrize("arguments", [{"act_layer": "os.system"}, {"block": "x"}, {"layers": "abc"}, {"layers": [9]}])
def test_whatever_a_third_party_constructor_raises_is_one_line(
    zoo_maker: ZooMaker, arguments: dict[str, object]
) -> None:
    folder, _ = zoo_maker.member(architecture="test_resnet", arguments={})
    edit_config(folder, model_args=arguments)
    assert "test_resnet" in refusal(folder)


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("named", [True, False])
def test_a_number_of_classes_other_than_the_heads_is_refused(zoo_maker: ZooMaker, count: int, named: bool) -> None:
    folder, _ = zoo_maker.member()
    edit_config(folder, num_classes=count, label_names=list("abcd")[:count] if named else None)
    line = refusal(folder)
    assert "head.weight has shape (3, 32)" in line
    assert f"with {count} classes" in line


def test_weights_of_another_network_are_refused(zoo_maker: ZooMaker) -> None:
    folder, _ = zoo_maker.member()
    edit_config(folder, architecture="fewshot_resnet10")
    assert "does not fit fewshot_resnet10" in refusal(folder)


def test_integer_weights_are_refused(zoo_maker: ZooMaker) -> None:
    folder, _ = zoo_maker.member()
    edit_weights(folder, lambda weights: {name: tensor.int() for name, tensor in weights.items()})
    assert "holds torch.int32" in refusal(folder)


def test_an_input_size_that_the_network_cannot_take_is_refused(zoo_maker: ZooMaker) -> None:
    folder, _ = zoo_maker.member()
    edit_config(folder, pretrained_cfg={"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.2] * 3})
    assert "cannot classify an image of 32 x 32 pixels" in refusal(folder)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", '"conv4"', "{}", '{"architecture": 3}', "[" * 100_000, "\ud83d"]
)
def test_a_configuration_that_is_not_one_is_refused(zoo_maker: ZooMaker, content: str) -> None:
    folder, _ = zoo_maker.member()
    (folder / CONFIG).write_bytes(content.encode("utf-8", "surrogatepass"))
    assert CONFIG in refusal(folder)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_classes", 0),
        ("num_classes", True),
        ("num_classes", "3"),
        ("num_classes", 10**12),
        ("label_names", ["ant", "bee"]),
        ("label_names", ["ant", "ant", "bee"]),
        ("label_names", [1, 2, 3]),
        ("model_args", [1]),
        ("dfml", "notes"),
        ("pretrained_cfg", []),
        ("pretrained_cfg", {}),
        ("pretrained_cfg", {"input_size": [1, 16, 16], "mean": [0.5] * 3, "std": [0.2] * 3}),
        ("pretrained_cfg", {"input_size": [3, 16, 24], "mean": [0.5] * 3, "std": [0.2] * 3}),
        ("pretrained_cfg", {"input_size": [3, 16.5, 16.5], "mean": [0.5] * 3, "std": [0.2] * 3}),
        ("pretrained_cfg", {"input_size": [3, 10**9, 10**9], "mean": [0.5] * 3, "std": [0.2] * 3}),
        ("pretrained_cfg", {"input_size": [3, 16, 16], "mean": [0.5], "std": [0.2]}),
        ("pretrained_cfg", {"input_size": [3, 16, 16], "mean": [float("nan")] * 3, "std": [0.2] * 3}),
        ("pretrained_cfg", {"input_size": [3, 16, 16], "mean": [0.5] * 3, "std": [0.2, 0.2, 0]}),
    ],
)
def test_a_configuration_that_contradicts_itself_is_refused(zoo_maker: ZooMaker, field: str, value: object) -> None:
    folder, _ = zoo_maker.member()
    edit_config(folder, **{field: value})
    assert field in refusal(folder) or "input_size" in refusal(folder)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    field=st.sampled_from(["architecture", "num_classes", "label_names", "model_args", "pretrained_cfg", "dfml"]),
    value=JSON,
)
def test_no_configuration_escapes_with_a_traceback(tmp_path: Path, field: str, value: object) -> None:
    config = {
        "architecture": "conv4",
        "num_classes": 3,
        "pretrained_cfg": {"input_size": [3, 16, 16], "mean": [0.5] * 3, "std": [0.2] * 3},
        field: value,
    }
    (tmp_path / CONFIG).write_text(json.dumps(config))
    with pytest.raises(ZooMemberError):  # there is no weight file, so even a sound configuration ends here
        load(tmp_path)


@pytest.mark.parametrize("kind", ["missing", "empty", "file", "stray files"])
def test_the_error_of_an_empty_zoo_explains_how_to_fill_it(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "zoo"
    if kind == "file":
        path.write_text("")
    elif kind != "missing":
        path.mkdir()
    if kind == "stray files":
        (path / "notes").mkdir()
        (path / ".member-000.17.unfinished").mkdir()
        (path / ".member-000.17.unfinished" / CONFIG).write_text("{}")
    with pytest.raises(ZooError, match="expected") as caught:
        Zoo.open(path)
    assert str(path) in str(caught.value)
    assert not isinstance(caught.value, ZooMemberError)


def test_a_failed_write_leaves_no_files(tmp_path: Path) -> None:
    network = create_backbone("conv4", 2, img_size=SIZE)
    preprocessing = Preprocessing(SIZE, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))

    def write() -> None:
        write_member(tmp_path / "m", network, architecture="conv4", labels=("a", "b"), preprocessing=preprocessing)

    write()
    before = (tmp_path / "m" / WEIGHTS).stat().st_mtime_ns
    with pytest.raises(OSError, match="m"):
        write()
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
    assert (tmp_path / "m" / WEIGHTS).stat().st_mtime_ns == before

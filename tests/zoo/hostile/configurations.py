"""Configurations in the manner of timm that ask for too much, or carry what is no text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.factories import PREPROCESSING, edit_config, edit_weights, member, write
from tests.zoo.hostile.cases import Cases

CASES = Cases()

_PRETRAINED = {"input_size": [3, 16, 16], "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3]}


def edited(zoo: Path, **changes: Any) -> Path:
    folder = write(zoo / "bad", member())
    edit_config(folder, **changes)
    return folder


def pretrained(zoo: Path, **changes: Any) -> None:
    edited(zoo, pretrained_cfg={**_PRETRAINED, **changes})


def raw(zoo: Path, content: bytes) -> None:
    (write(zoo / "bad", member()) / "config.json").write_bytes(content)


@CASES("integers of at most 300000")
def a_million_layers(zoo: Path) -> None:
    edited(zoo, architecture="vit_tiny_patch16_224", model_args={"img_size": 16, "depth": 1_000_000})


@CASES("more than 20000 modules", slow=True)
def a_hundred_thousand_layers(zoo: Path) -> None:
    edited(zoo, architecture="vit_tiny_patch16_224", model_args={"img_size": 16, "depth": 100_000})


@CASES("does not fit")
def a_huge_width(zoo: Path) -> None:
    edited(zoo, architecture="vit_tiny_patch16_224", model_args={"img_size": 16, "embed_dim": 300_000})


@CASES("4096|too much")
def a_huge_input(zoo: Path) -> None:
    pretrained(zoo, input_size=[3, 4096, 4096])


@CASES("expected `input_size`")
def an_input_beyond_the_bound(zoo: Path) -> None:
    pretrained(zoo, input_size=[3, 10**6, 10**6])


@CASES("expected `input_size`")
def a_negative_input(zoo: Path) -> None:
    pretrained(zoo, input_size=[3, -16, -16])


@CASES("positive|std|standard deviation")
def a_tiny_std(zoo: Path) -> None:
    pretrained(zoo, std=[1e-38] * 3)


@CASES("std|mean")
def a_huge_mean(zoo: Path) -> None:
    pretrained(zoo, mean=[1e38] * 3)


@CASES("expected `input_size`")
def a_std_that_is_no_number(zoo: Path) -> None:
    pretrained(zoo, std=[float("nan")] * 3)


@CASES("`num_classes` from 1")
def too_many_classes(zoo: Path) -> None:
    edited(zoo, num_classes=10**12, label_names=None)


@CASES("does not fit", slow=True)
def a_million_placeholder_classes(zoo: Path) -> None:
    edited(zoo, num_classes=10**6, label_names=None)


@CASES("does not fit", slow=True)
def a_million_labels(zoo: Path) -> None:
    edited(zoo, num_classes=10**6, label_names=[f"label {index}" for index in range(10**6)])


@CASES("may not hold|not accepted")
def weights_from_elsewhere(zoo: Path) -> None:
    edited(zoo, model_args={"img_size": 16, "checkpoint_path": "/etc/passwd"})


@CASES("not accepted")
def pretrained_weights(zoo: Path) -> None:
    edited(zoo, model_args={"img_size": 16, "pretrained": True})


@CASES("unknown architecture")
def an_architecture_on_the_hub(zoo: Path) -> None:
    edited(zoo, architecture="hf-hub:owner/name")


@CASES("unknown architecture")
def an_architecture_that_is_a_path(zoo: Path) -> None:
    edited(zoo, architecture="local-dir:../../../etc")


@CASES("cannot be built|does not")
def an_activation_that_is_a_function(zoo: Path) -> None:
    edited(zoo, architecture="resnet18", model_args={"act_layer": "os.system"})


@CASES("memory|bytes")
def buffers_that_no_file_holds(zoo: Path) -> None:
    # Relative positions of a window: a table of (2 w - 1)^2 values is stored, an index of w^4 values is computed.
    folder = write(zoo / "bad", member(labels=("a", "b")))
    arguments = {"img_size": 1024, "patch_size": 4, "window_size": 256, "depths": [1], "embed_dim": 8, "num_heads": [1]}
    (folder / "config.json").write_text(
        json.dumps(
            {
                "architecture": "swin_tiny_patch4_window7_224",
                "num_classes": 2,
                "model_args": arguments,
                "pretrained_cfg": {**_PRETRAINED, "input_size": [3, 1024, 1024]},
            }
        )
    )
    from safetensors.torch import save_file

    from dfml.backbones import create_backbone

    with torch.device("meta"):
        network = create_backbone("swin_tiny_patch4_window7_224", 2, **arguments)
    weights = {name: torch.zeros(value.shape, dtype=value.dtype) for name, value in network.state_dict().items()}
    save_file(weights, folder / "model.safetensors")


@CASES("NaN or infinite")
def weights_that_are_no_numbers(zoo: Path) -> None:
    folder = write(zoo / "bad", member())
    edit_weights(folder, lambda found: {name: _filled(value, float("nan")) for name, value in found.items()})


@CASES("NaN or infinite")
def infinite_weights(zoo: Path) -> None:
    folder = write(zoo / "bad", member())
    edit_weights(folder, lambda found: {name: _filled(value, float("inf")) for name, value in found.items()})


def _filled(value: Tensor, number: float) -> Tensor:
    return torch.full_like(value, number) if value.is_floating_point() else value


@CASES("running varianc|finite")
def variances_that_are_all_zero(zoo: Path) -> None:
    folder = write(zoo / "bad", member())
    edit_weights(folder, lambda found: {n: v * 0 if n.endswith("running_var") else v for n, v in found.items()})


@CASES("negative|finite|varianc")
def negative_variances(zoo: Path) -> None:
    folder = write(zoo / "bad", member())
    edit_weights(folder, lambda found: {n: -v if n.endswith("running_var") else v for n, v in found.items()})


@CASES("not valid JSON|names no architecture|no known format")
def deep_json(zoo: Path) -> None:
    raw(zoo, b'{"architecture": "conv4", "x": ' + b"[" * 200_000 + b"]" * 200_000 + b"}")


@CASES("JSON|architecture")
def json_that_is_no_text(zoo: Path) -> None:
    raw(zoo, b'{"architecture": "conv4\xff\xfe"}')


@CASES("JSON|architecture", slow=True)
def json_of_many_lists(zoo: Path) -> None:
    raw(zoo, b'{"architecture": "conv4", "x": [' + b"[]," * (20 * 2**20) + b"[]]}")


@CASES("JSON|architecture")
def json_beyond_the_bound(zoo: Path) -> None:
    raw(zoo, b'{"architecture": "' + b"x" * (65 * 2**20) + b'"}')


@CASES("JSON|architecture")
def a_number_of_a_million_digits(zoo: Path) -> None:
    raw(zoo, b'{"architecture": "conv4", "num_classes": ' + b"9" * 10**6 + b"}")


@CASES("")
def a_key_twice(zoo: Path) -> None:
    folder = write(zoo / "bad", member())
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text('{"architecture": "os.system", ' + text.lstrip()[1:])


@CASES("git-lfs pointer")
def a_pointer_as_weights(zoo: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    (write(zoo / "bad", member()) / "model.safetensors").write_text(pointer)


@CASES("")
def labels_that_are_no_plain_text(zoo: Path) -> None:
    labels = ("\x1b[2J\x1b[31mred\x07", "<script>alert(1)</script>", "../../../etc/passwd")
    write(zoo / "bad", member(labels=labels, preprocessing=PREPROCESSING))


@CASES("")
def labels_that_turn_or_fill_a_line(zoo: Path) -> None:
    write(zoo / "bad", member(labels=("right\u202eleft", "two\nlines\r\x00", "x" * 2**20)))

"""Folders of transformers that would run code, or ask for too much."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from tests.zoo.hostile.cases import Cases, canary

CASES = Cases(needs="transformers")

_VIT: dict[str, Any] = {
    "architectures": ["ViTForImageClassification"],
    "model_type": "vit",
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "image_size": 32,
    "patch_size": 8,
    "id2label": {"0": "ant", "1": "bee"},
}
_PROCESSOR = {"size": {"height": 32, "width": 32}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}


def folder(zoo: Path, config: dict[str, Any], processor: dict[str, Any] | None = None) -> Path:
    """A member with all of its files; its weights are those of the configuration `_VIT`."""
    import transformers

    made = zoo / "bad"
    made.mkdir()
    network = transformers.ViTForImageClassification(transformers.ViTConfig(**_VIT))
    from safetensors.torch import save_file

    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, made / "model.safetensors")
    (made / "config.json").write_text(json.dumps({**_VIT, **config}))
    (made / "preprocessor_config.json").write_text(json.dumps({**_PROCESSOR, **(processor or {})}))
    return made


@CASES("")
def code_of_its_own(zoo: Path) -> None:
    made = folder(zoo, {"auto_map": {"AutoModelForImageClassification": "modeling.Net"}})
    (made / "modeling.py").write_text(f"open({canary(zoo)!r}, 'w')")


@CASES("its own code|no type of image classifier")
def a_type_that_only_its_code_knows(zoo: Path) -> None:
    made = folder(zoo, {"model_type": "evil", "auto_map": {"AutoModelForImageClassification": "modeling.Net"}})
    (made / "modeling.py").write_text(f"open({canary(zoo)!r}, 'w')")


@CASES("no image processor of transformers")
def a_processor_of_its_own(zoo: Path) -> None:
    folder(zoo, {}, {"image_processor_type": "EvilImageProcessor", "auto_map": {"AutoImageProcessor": "evil.Evil"}})


@CASES("pixels|preprocessor_config.json")
def a_processor_that_pads_without_end(zoo: Path) -> None:
    processor = {"image_processor_type": "DetrImageProcessor", "pad_size": {"height": 200_000, "width": 200_000}}
    folder(zoo, {}, {**processor, "do_pad": True})


@CASES("pixels|preprocessor_config.json")
def a_processor_that_pads_to_a_multiple(zoo: Path) -> None:
    folder(zoo, {}, {"image_processor_type": "Swin2SRImageProcessor", "pad_size": 200_000, "size_divisor": 200_000})


@CASES("at most")
def a_processor_of_a_huge_size(zoo: Path) -> None:
    folder(zoo, {}, {"size": {"height": 10**6, "width": 10**6}})


@CASES("more than 20000 modules|does not fit|needs", slow=True)
def many_layers(zoo: Path) -> None:
    folder(zoo, {"num_hidden_layers": 200_000})


@CASES("integers of at most|needs")
def more_layers_than_any_network(zoo: Path) -> None:
    folder(zoo, {"num_hidden_layers": 10**9})


@CASES("needs")
def a_huge_width(zoo: Path) -> None:
    folder(zoo, {"hidden_size": 200_000, "num_attention_heads": 2})


@CASES("memory|bytes")
def buffers_that_no_file_holds(zoo: Path) -> None:
    import transformers
    from safetensors.torch import save_file

    made = folder(zoo, {})
    config = {
        "architectures": ["SwinForImageClassification"],
        "model_type": "swin",
        "image_size": 1024,
        "patch_size": 4,
        "embed_dim": 8,
        "depths": [1],
        "num_heads": [1],
        "window_size": 256,
        "id2label": {"0": "a", "1": "b"},
    }
    (made / "config.json").write_text(json.dumps(config))
    with torch.device("meta"):
        network = transformers.SwinForImageClassification(transformers.SwinConfig(**config))
    weights = {name: torch.zeros(value.shape, dtype=value.dtype) for name, value in network.state_dict().items()}
    save_file(weights, made / "model.safetensors")
    (made / "preprocessor_config.json").write_text(json.dumps({**_PROCESSOR, "size": {"height": 1024, "width": 1024}}))


def shards(zoo: Path, name: str) -> None:
    made = folder(zoo, {})
    (made / "model.safetensors").rename(zoo.parent / "outside.safetensors")
    index = {"weight_map": {"vit.embeddings.cls_token": name}}
    (made / "model.safetensors.index.json").write_text(json.dumps(index))


@CASES("files of the same folder")
def a_shard_in_the_folder_above(zoo: Path) -> None:
    shards(zoo, "../../outside.safetensors")


@CASES("files of the same folder")
def a_shard_by_an_absolute_path(zoo: Path) -> None:
    shards(zoo, str(zoo.parent / "outside.safetensors"))


@CASES("not supported")
def a_backbone_from_elsewhere(zoo: Path) -> None:
    folder(zoo, {"use_timm_backbone": True, "backbone": "resnet18"})


@CASES("")
def labels_with_escapes(zoo: Path) -> None:
    folder(zoo, {"id2label": {"0": "\x1b[2J\u202e", "1": "<script>alert(1)</script>"}})

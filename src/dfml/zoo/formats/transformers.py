"""transformers' format: `config.json`, `model.safetensors` (or its shards) and `preprocessor_config.json`.

Image classifiers that `transformers` has itself (extra `hf`). Code of a member is never run: `auto_map` is ignored, and
the class comes from transformers' own list of image classifiers. Only values that the class's configuration declares
reach it. Loading leaves no weight out and none untouched; names of earlier versions of transformers are converted by
transformers.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dfml.errors import ZooMemberError
from dfml.zoo.bounds import TooCostlyError, TooManyModulesError, bounded_modules, check_arguments, check_buffers
from dfml.zoo.formats import CONFIG, WEIGHTS, MemberConfig
from dfml.zoo.image_processor import read_image_processor
from dfml.zoo.member_files import RESTORE, parse_json, read_json, read_safetensors
from dfml.zoo.vetting import MAX_CLASSES

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

INDEX = "model.safetensors.index.json"
"""File that says which shard holds which weight, where there is more than one."""

_MAX_SHARDS = 1000
_LEAVE_OUT = "leave the member out"
# They take other inputs than normalised pixels, or run timm's code with names from the configuration.
_NO_PIXELS = frozenset({"donut-swin", "imagegpt", "perceiver", "shieldgemma2", "siglip2", "timm_wrapper"})
# Values that would fetch code or weights from elsewhere, change the type of the weights, or the type of the output.
_IGNORED = frozenset(
    {
        *("architectures", "auto_map", "custom_pipelines", "model_type", "transformers_version", "name_or_path"),
        *("dtype", "torch_dtype", "attn_implementation", "experts_implementation", "use_kernels", "torchscript"),
        *("output_attentions", "output_hidden_states", "return_dict", "use_return_dict", "problem_type"),
        *("id2label", "label2id", "num_labels"),
    }
)
_REFUSED = ("quantization_config", "use_timm_backbone", "use_pretrained_backbone", "backbone", "backbone_config")


class TransformersFormat:
    """Image classifiers of transformers, saved by `save_pretrained`."""

    name = "transformers"

    def recognises(self, path: Path) -> bool:
        """Whether a folder's `config.json` names a `model_type` or `architectures`, and is not timm's."""
        try:
            config = parse_json(path / CONFIG)
        except (OSError, ValueError, RecursionError):
            return False
        if not isinstance(config, dict) or isinstance(config.get("architecture"), str):
            return False
        return isinstance(config.get("model_type"), str) or isinstance(config.get("architectures"), list)

    def read_config(self, path: Path) -> MemberConfig:
        """Read and check `config.json` and `preprocessor_config.json`.

        Raises:
            ZooMemberError: If it is no image classifier of transformers with one class per image, if the files are
                damaged or out of bounds, or if transformers is not installed.
        """
        config = read_json(path, CONFIG)
        if not isinstance(config, dict):
            raise ZooMemberError(path, f"{CONFIG} must hold an object", RESTORE)
        model_type, architecture = _architecture(path, config)
        labels = _labels(path, config)
        arguments = {key: value for key, value in _clean(config).items() if key not in _IGNORED}
        check_arguments(path, arguments, CONFIG)
        image_size = config.get("image_size")
        processing = read_image_processor(path, model_type, image_size if isinstance(image_size, int) else None)
        shards = _shards(path)
        return MemberConfig(
            path=path,
            format=self.name,
            architecture=architecture,
            labels=labels,
            preprocessing=processing.preprocessing,
            arguments={"model_type": model_type, "channel_order": processing.order, **arguments},
            weights=shards[0] if len(shards) == 1 else path / INDEX,
            shards=() if len(shards) == 1 else shards,
        )

    def load(self, config: MemberConfig) -> nn.Module:
        """Build the network with transformers' class and load all of its weights.

        Raises:
            ZooMemberError: If the weights are damaged, or not exactly those of the network.
        """
        order = config.arguments["channel_order"]
        return TransformersNetwork(_load_model(config), (order[0], order[1], order[2]))


FORMAT = TransformersFormat()


class TransformersNetwork(nn.Module):
    """A model of transformers as a plain network: normalised images -> logits.

    Args:
        model: An image classifier of transformers.
        order: Which of red, green and blue (0, 1, 2) each channel of the model's input is.
    """

    def __init__(self, model: nn.Module, order: tuple[int, int, int] = (0, 1, 2)) -> None:
        super().__init__()
        self.model = model
        self.order = order

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits of normalised images."""
        if self.order != (0, 1, 2):
            inputs = inputs[:, list(self.order)]
        logits: Tensor = self.model(pixel_values=inputs).logits
        return logits


def _architecture(path: Path, config: dict[str, Any]) -> tuple[str, str]:
    """Model type and class name of an image classifier that transformers has itself."""
    try:
        from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES as CLASSIFIERS
    except ImportError as error:
        fix = "install it with `pip install 'dfml[hf]'`"
        raise ZooMemberError(path, f"members in transformers' format need transformers ({error})", fix) from error
    architectures, model_type = config.get("architectures"), config.get("model_type")
    stated = architectures[0] if isinstance(architectures, list) and architectures else None
    known = isinstance(model_type, str) and model_type not in _NO_PIXELS
    of_type = CLASSIFIERS.get(str(model_type), ()) if known else ()
    names = (of_type,) if isinstance(of_type, str) else tuple(of_type)
    if not names:
        reason = f"{model_type!r} is no type of image classifier that transformers and dfml know (`model_type`)"
    elif stated not in names:
        reason = f"expected {' or '.join(names)} in `architectures`, found {stated!r}"
    elif config.get("problem_type") not in (None, "single_label_classification"):
        reason = f"expected one class per image, found `problem_type` {config['problem_type']!r}"
    elif refused := [key for key in _REFUSED if config.get(key)]:
        reason = f"`{refused[0]}` in {CONFIG} is not supported"
    else:
        return str(model_type), str(stated)
    if config.get("auto_map"):
        reason += "; its own code (`auto_map`) is not run"
    raise ZooMemberError(path, reason, _LEAVE_OUT)


def _labels(path: Path, config: dict[str, Any]) -> tuple[str, ...]:
    names, count = config.get("id2label"), config.get("num_labels")
    if names is None:
        count = 2 if count is None else count  # transformers' default
        if not isinstance(count, int) or not 1 <= count <= MAX_CLASSES:
            raise ZooMemberError(
                path, f"expected `num_labels` from 1 to {MAX_CLASSES} in {CONFIG}, found {count!r}", "correct it"
            )
        names = {str(index): f"LABEL_{index}" for index in range(count)}
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise ZooMemberError(path, f"`id2label` in {CONFIG} must map numbers to names", "correct it")
    if set(names) != {str(index) for index in range(len(names))} or count not in (None, len(names)):
        found = f"{len(names)} names from {min(names, default='none')!r} to {max(names, default='none')!r}"
        reason = f"expected a name for each number from 0 in `id2label`, found {found} and `num_labels` {count}"
        raise ZooMemberError(path, reason, "correct it")
    if len(names) == 1:
        raise ZooMemberError(path, "one output is a regression for transformers, not a class", _LEAVE_OUT)
    return tuple(names[str(index)] for index in range(len(names)))


def _clean(values: dict[str, Any]) -> dict[str, Any]:
    """The values of a configuration, nested ones included, without private ones (`_attn_implementation`, ...)."""
    return {
        key: _clean(value) if isinstance(value, dict) else value
        for key, value in values.items()
        if isinstance(key, str) and not key.startswith("_") and (key == "model_type" or key not in _IGNORED)
    }


def _shards(path: Path) -> tuple[Path, ...]:
    """The weight files: `model.safetensors`, or those that the index names, which lie in the same folder."""
    if (path / WEIGHTS).exists() or not (path / INDEX).exists():
        return (path / WEIGHTS,)
    index = read_json(path, INDEX)
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    names = sorted({str(name) for name in weight_map.values()}) if isinstance(weight_map, dict) else []
    outside = [name for name in names if Path(name).name != name or not name.endswith(".safetensors")]
    if not 1 <= len(names) <= _MAX_SHARDS or outside:
        found = f"{outside[0]!r}" if outside else f"{len(names)} files"
        reason = f"expected 1 to {_MAX_SHARDS} safetensors files of the same folder in {INDEX}, found {found}"
        raise ZooMemberError(path, reason, RESTORE)
    return tuple(path / name for name in names)


def _load_model(config: MemberConfig) -> PreTrainedModel:
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    model_class = getattr(transformers, config.architecture)
    stated = _configuration(CONFIG_MAPPING[config.arguments["model_type"]], config)
    fix = f"correct {CONFIG}, or restore the weights that belong to it"
    try:
        with bounded_modules(), torch.device("meta"):
            untrained = model_class(stated)
        check_buffers(untrained)
        expected = untrained.state_dict()
    except (TooManyModulesError, TooCostlyError) as error:
        raise ZooMemberError(config.path, f"{config.architecture} cannot be built: {error}", fix) from error
    weights: dict[str, Tensor] = {}
    for shard in config.shards or (config.weight_file,):
        for name, tensor in read_safetensors(config.path, shard).items():
            if name in weights:
                raise ZooMemberError(config.path, f"{name} is in more than one shard", RESTORE)
            weights[name] = tensor.float() if tensor.is_floating_point() else tensor
    # Names differ between versions of transformers, numbers do not: this bounds the memory before it is allocated.
    needed, found = (sum(tensor.numel() for tensor in tensors.values()) for tensors in (expected, weights))
    if needed > found:
        reason = f"{config.architecture} needs {needed} values, {config.weight_file.name} has {found}"
        raise ZooMemberError(config.path, reason, fix)
    with _quiet():
        model, report = model_class.from_pretrained(
            None,
            config=stated,
            state_dict=weights,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,  # they are reported, and refused below
            output_loading_info=True,
        )
    problems = [f"{key} is missing" for key in sorted(report["missing_keys"])]
    problems += [f"{key} is not part of {config.architecture}" for key in sorted(report["unexpected_keys"])]
    problems += [
        f"{key} has shape {tuple(found)} where {tuple(wanted)} is expected"
        for key, found, wanted in sorted(report["mismatched_keys"])
    ]
    if problems:
        more = f" and {len(problems) - 1} more differences" if len(problems) > 1 else ""
        name, labels = config.weight_file.name, len(config.labels)
        reason = f"{name} does not fit {config.architecture} with {labels} classes: {problems[0]}{more}"
        raise ZooMemberError(config.path, reason, fix)
    loaded: PreTrainedModel = model
    return loaded


def _configuration(configuration_class: type[PretrainedConfig], config: MemberConfig) -> PretrainedConfig:
    """The configuration of a model: the values that its class declares, and the checked labels."""
    declared = inspect.signature(configuration_class.__init__).parameters
    values = {key: value for key, value in config.arguments.items() if key in declared and key not in _IGNORED}
    names = dict(enumerate(config.labels))
    return configuration_class(**values, id2label=names, label2id={name: index for index, name in names.items()})


@contextmanager
def _quiet() -> Iterator[None]:
    """Context in which transformers prints neither progress nor reports: what is wrong becomes an error."""
    from transformers.utils import logging as transformers_logging

    logging: Any = transformers_logging
    verbosity, progress = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.FATAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if progress:
            logging.enable_progress_bar()

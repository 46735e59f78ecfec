"""Preprocessing of transformers models: what an image processor does to an image, measured with the processor itself.

`preprocessor_config.json` states it in many ways (`size` as an integer, as height and width, or as the shortest edge;
a crop; a rescale factor and an offset; means that are left out because the class has them). The processor's class, one
of transformers' own, is built from the checked values and applied to images of one colour each: what it does to colours
is then known, whichever settings lead to it. Only `transformers` is asked; no code of the member is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dfml.errors import ZooMemberError
from dfml.seeds import generator
from dfml.zoo.bounds import check_arguments
from dfml.zoo.member_files import read_json
from dfml.zoo.pickle_contents import printable
from dfml.zoo.pretrained import Preprocessing

PROCESSOR = "preprocessor_config.json"
"""File in which transformers stores the settings of an image processor."""

_STATE = "state what the classifier was trained with; wrong values would silently spoil its predictions"
_MAX_SIDE = 4096
_TOLERANCE = 1e-4  # of a normalised value: processors work in float32
_PROBE = 64  # side length of the images that are processed, in pixels
_NO_CODE = frozenset({"auto_map", "processor_class", "image_processor_type", "feature_extractor_type"})


@dataclass(frozen=True)
class ImageProcessing:
    """What an image processor does to a square image.

    Attributes:
        preprocessing: The size of its result, and the normalisation of red, green and blue values in [0, 1].
        order: Which of red, green and blue (0, 1, 2) each channel of the result is.
    """

    preprocessing: Preprocessing
    order: tuple[int, int, int] = (0, 1, 2)


def read_image_processor(member: Path, model_type: str, image_size: int | None) -> ImageProcessing:
    """Read and measure a member's image processor. Needs transformers.

    Args:
        member: The member's folder.
        model_type: The model type of transformers; decides on the class where the file does not name one.
        image_size: Input size of the network, in pixels, for processors that leave the size of an image as it is.

    Raises:
        ZooMemberError: If the file is missing or damaged, or does to an image what no size, mean and standard
            deviation describe.
    """
    if not (member / PROCESSOR).exists():
        raise ZooMemberError(member, f"no {PROCESSOR} states its size, mean and std", _STATE)
    values = read_json(member, PROCESSOR)
    if not isinstance(values, dict):
        raise ZooMemberError(member, f"{PROCESSOR} must hold an object", _STATE)
    check_arguments(member, values, PROCESSOR)
    for key, stated in values.items():  # sizes, crops, paddings and what they are multiples of: all of them are pixels
        least = 1 if key in ("size", "crop_size") else -_MAX_SIDE
        for side in stated.values() if isinstance(stated, dict) else [stated]:
            if isinstance(side, int) and not least <= side <= _MAX_SIDE:
                reason = f"expected a `{printable(key)}` of {least} to {_MAX_SIDE} pixels in {PROCESSOR}, found {side}"
                raise ZooMemberError(member, reason, _STATE)
    settings = {key: value for key, value in values.items() if key not in _NO_CODE and not key.startswith("_")}
    try:
        processor = _processor_class(member, values, model_type).from_dict(settings)
        order, mean, std = _measure_colours(lambda image: _process(processor, image, resize=False))
        size = _measure_size(processor) or image_size
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ZooMemberError(
            member, f"{PROCESSOR} does not describe how an image is prepared ({reason})", _STATE
        ) from (error)
    if size is None:
        raise ZooMemberError(member, f"neither {PROCESSOR} nor `image_size` states the size of its input", _STATE)
    mean, std = _stated(mean, values.get("image_mean")), _stated(std, values.get("image_std"))
    return ImageProcessing(Preprocessing(size, mean, std), order)


def _processor_class(member: Path, values: dict[str, Any], model_type: str) -> Any:
    """The class of an image processor: one of transformers' own, by its name or else by the model type."""
    from transformers.models.auto import image_processing_auto

    auto: Any = image_processing_auto  # its list of classes is not among the names that it exports
    known = {name for classes in auto.IMAGE_PROCESSOR_MAPPING_NAMES.values() for name in classes.values()}
    stated = values.get("image_processor_type") or values.get("feature_extractor_type")
    default = auto.IMAGE_PROCESSOR_MAPPING_NAMES.get(model_type, {}).get("torchvision")
    name = str(stated or default).replace("FeatureExtractor", "ImageProcessor").removesuffix("Fast")
    if name not in known:
        reason = f"{PROCESSOR} names {name!r}, which is no image processor of transformers"
        raise ZooMemberError(member, reason, "state the preprocessing otherwise; dfml runs no code of a member")
    return auto.get_image_processor_class_from_name(name)


def _process(processor: Any, image: Tensor, *, resize: bool) -> Tensor:
    """Apply the processor to one image of bytes; without `resize`, to its colours only."""
    switches = {} if resize else {"do_resize": False, "do_center_crop": False}
    values: Tensor = processor(images=[image], return_tensors="pt", **switches)["pixel_values"]
    if values.ndim != 4 or values.shape[:2] != (1, 3):
        raise ValueError(f"one image becomes values of shape {tuple(values.shape)}")
    return values[0].double()


def _measure_size(processor: Any) -> int | None:
    """Side length of the result; None if it is that of the image."""
    sizes = []
    for side in (_PROBE, _PROBE + 8):
        height, width = _process(processor, torch.zeros(3, side, side, dtype=torch.uint8), resize=True).shape[1:]
        if height != width:
            raise ValueError(f"a square image becomes one of {height} x {width} pixels")
        sizes.append(int(height))
    return sizes[0] if sizes[0] == sizes[1] else None


def _measure_colours(
    process: Callable[[Tensor], Tensor],
) -> tuple[tuple[int, int, int], tuple[float, float, float], tuple[float, float, float]]:
    """Order, mean and standard deviation of the channels, from images of one colour each.

    Raises:
        ValueError: If what happens to an image's values is something else than a shift and a scale of each channel.
    """
    images = torch.zeros(4, 3, _PROBE, _PROBE, dtype=torch.uint8)
    for channel in range(3):
        images[channel + 1, channel] = 255
    black, *primary = (process(image).mean(dim=(1, 2)) for image in images)
    response = torch.stack(primary, dim=1) - black[:, None]  # channels of the result x red, green and blue
    first, second, third = response.argmax(dim=1).tolist()
    order = (first, second, third)
    mean, std = [0.0] * 3, [0.0] * 3
    for channel, colour in enumerate(order):
        std[colour] = 1 / max(float(response[channel, colour]), 1e-12)
        mean[colour] = -float(black[channel]) * std[colour]
    noise = torch.randint(0, 256, images.shape[1:], generator=generator(0, "image processor"), dtype=torch.uint8)
    columns = torch.tensor([mean, std], dtype=torch.float64)[:, :, None, None]
    expected = (noise.double() / 255 - columns[0]) / columns[1]
    if sorted(order) != [0, 1, 2] or not torch.allclose(
        process(noise), expected[list(order)], rtol=_TOLERANCE, atol=_TOLERANCE
    ):
        raise ValueError("it changes the colours in a way that no mean and std describe")
    return order, (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])


def _stated(measured: tuple[float, float, float], stated: object) -> tuple[float, float, float]:
    """The values as the file states them where it does, free of the rounding of a measurement; else six digits."""
    values: Sequence[Any] = stated if isinstance(stated, list) and len(stated) == 3 else (None,) * 3
    red, green, blue = (
        float(value)
        if isinstance(value, int | float) and abs(value - found) < _TOLERANCE / 10
        else round(found, 6) + 0.0  # no negative zero
        for value, found in zip(values, measured, strict=True)
    )
    return red, green, blue

"""What an image processor of transformers does is measured, whichever way its file states it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dfml.errors import ZooMemberError
from dfml.zoo.image_processor import PROCESSOR, ImageProcessing, read_image_processor

pytest.importorskip("transformers", reason="needs the extra hf")

HALF, CLIP = (0.5, 0.5, 0.5), ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


def read(folder: Path, model_type: str = "vit", image_size: int | None = None, **values: Any) -> ImageProcessing:
    (folder / PROCESSOR).write_text(json.dumps(values))
    return read_image_processor(folder, model_type, image_size)


@pytest.mark.parametrize(
    ("values", "size"),
    [
        ({"size": 48}, 48),
        ({"size": {"height": 40, "width": 40}}, 40),
        ({"size": {"shortest_edge": 40}, "image_processor_type": "ViTImageProcessor"}, 40),
        ({"size": {"shortest_edge": 40}, "image_processor_type": "LevitImageProcessor"}, 224),
        ({"size": {"shortest_edge": 40}, "crop_size": 32, "image_processor_type": "CLIPImageProcessor"}, 32),
        ({"size": {"shortest_edge": 40}, "image_processor_type": "ConvNextImageProcessor"}, 40),
        ({"do_resize": False}, 17),
    ],
)
def test_the_size_is_that_of_the_result(tmp_path: Path, values: dict[str, Any], size: int) -> None:
    assert read(tmp_path, image_size=17, **values).preprocessing.size == size


@pytest.mark.parametrize(
    ("values", "mean", "std"),
    [
        ({"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)),
        ({}, HALF, HALF),
        ({"do_normalize": False}, (0, 0, 0), (1, 1, 1)),
        ({"do_normalize": False, "rescale_factor": 1 / 127.5}, (0, 0, 0), HALF),
        ({"do_normalize": False, "do_rescale": False}, (0, 0, 0), (0.003922,) * 3),
        ({"image_processor_type": "CLIPImageProcessor"}, *CLIP),
        (
            {
                "image_processor_type": "EfficientNetImageProcessor",
                "do_normalize": False,
                "rescale_factor": 1 / 127.5,
                "rescale_offset": True,
                "include_top": False,
            },
            HALF,
            HALF,
        ),
    ],
)
def test_normalisation_is_that_of_values_from_0_to_1(tmp_path: Path, values: Any, mean: Any, std: Any) -> None:
    found = read(tmp_path, size=32, **values)
    assert found.preprocessing.mean == pytest.approx(mean, abs=2e-6)
    assert found.preprocessing.std == pytest.approx(std, abs=2e-6)
    assert found.order == (0, 1, 2)


def test_values_are_kept_as_stated(tmp_path: Path) -> None:
    found = read(tmp_path, size=32, image_mean=[0.48145466, 0.4578275, 0.40821073], image_std=[0.2, 0.3, 0.4])
    assert found.preprocessing.mean == CLIP[0]
    assert found.preprocessing.std == (0.2, 0.3, 0.4)


def test_blue_first_is_noticed(tmp_path: Path) -> None:
    assert read(tmp_path, "mobilevit").order == (2, 1, 0)


@pytest.mark.parametrize(
    ("model_type", "values", "reason"),
    [
        ("vit", {"size": {"height": 32, "width": 48}}, "a square image becomes one of 32 x 48 pixels"),
        ("vit", {"size": 10**5}, "`size` of 1 to 4096"),
        ("vit", {"crop_size": {"height": 0, "width": 3}}, "`crop_size` of 1 to 4096"),
        ("vit", {"size": 10**9}, "integers of at most"),
        ("vit", {"image_std": [0, 1, 1]}, "no mean and std describe"),
        ("vit", {"image_std": [-1, 1, 1]}, "no mean and std describe"),
        ("vit", {"image_mean": [0.5, float("nan"), 0.5]}, "finite numbers"),
        ("vit", {"image_mean": "x"}, "does not describe"),
        ("vit", {"rescale_factor": 0}, "does not describe"),
        ("vit", {"image_processor_type": "AutoModel"}, "no image processor of transformers"),
        ("imagegpt", {}, "does not describe"),
        ("timm_wrapper", {}, "no image processor of transformers"),
        ("vit", {"do_resize": False}, "states the size"),
    ],
)
def test_what_no_size_mean_and_std_describe_is_refused(
    tmp_path: Path, model_type: str, values: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ZooMemberError, match=reason):
        read(tmp_path, model_type, **values)


def test_without_a_processor_nothing_is_guessed(tmp_path: Path) -> None:
    with pytest.raises(ZooMemberError, match=r"no preprocessor_config.json states its size, mean and std"):
        read_image_processor(tmp_path, "vit", 224)
    (tmp_path / PROCESSOR).write_text("[]")
    with pytest.raises(ZooMemberError, match="must hold an object"):
        read_image_processor(tmp_path, "vit", 224)

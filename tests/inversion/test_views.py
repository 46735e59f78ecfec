"""Views that every image has on its own."""

from __future__ import annotations

import pytest
import torch

from dfml.errors import ConfigError
from dfml.inversion.loss import InversionWeights
from dfml.inversion.views import ImageViews, sample_view
from dfml.settings import build_config


def image_views(count: int = 200, size: int = 16, **settings: float | bool) -> ImageViews:
    weights = InversionWeights.model_validate({"views": "image", "jitter": 0, **settings})
    views = sample_view(weights, torch.Generator().manual_seed(1), count, size)
    assert isinstance(views, ImageViews)
    return views


def test_without_jitter_zoom_and_colour_the_images_stay_as_they_are() -> None:
    images = torch.rand(5, 3, 16, 16)
    torch.testing.assert_close(image_views(5).apply(images), images, rtol=0, atol=1e-5)


def test_about_half_of_the_images_are_mirrored() -> None:
    images = torch.rand(1, 3, 16, 16).expand(200, -1, -1, -1)
    seen = image_views(flip=True).apply(images)
    mirrored = torch.isclose(seen, images.flip(-1), atol=1e-4).flatten(1).all(dim=1)
    kept = torch.isclose(seen, images, atol=1e-4).flatten(1).all(dim=1)
    assert bool((mirrored | kept).all())
    assert 60 < int(mirrored.sum()) < 140


def test_a_crop_lies_within_the_image_and_shifts_stay_below_the_jitter() -> None:
    ramp = torch.arange(16.0).expand(200, 3, 16, 16)  # the value of a pixel is its column
    cropped = image_views(zoom=0.5).apply(ramp)
    step = (
        cropped[:, 0, 8, 9] - cropped[:, 0, 8, 8]
    )  # columns of the image per column of the view: the side of the crop
    assert float(step.min()) >= 0.5**0.5 - 1e-3
    assert float(step.max()) <= 1.0 + 1e-3
    assert float(step.max() - step.min()) > 0.2
    shifted = image_views(jitter=3).apply(ramp)[:, 0, 8, 8] - 8.0
    assert float(shifted.abs().max()) <= 3.0 + 1e-3
    assert float(shifted.min()) < -2.0
    assert float(shifted.max()) > 2.0


def test_colours_change_by_their_standard_deviation() -> None:
    grey = torch.ones(2000, 3, 4, 4)
    seen = image_views(2000, colour=0.2).apply(grey)[:, :, 0, 0]
    # Contrast and offset both change a pixel of value 1.
    assert float(seen.std()) == pytest.approx(0.2 * 2**0.5, rel=0.1)


def test_the_image_of_a_smaller_batch_has_the_same_view() -> None:
    views, images = image_views(6, zoom=0.4, colour=0.1), torch.rand(6, 3, 16, 16)
    torch.testing.assert_close(views.apply(images[:2]), views.apply(images)[:2])


def test_zoom_and_colour_need_views_of_every_image() -> None:
    with pytest.raises(ConfigError, match="set views to image"):
        build_config(InversionWeights, {"zoom": 0.5})


def test_views_of_every_image_need_their_number_and_size() -> None:
    weights = InversionWeights(views="image")
    with pytest.raises(ValueError, match="number of images and their size"):
        sample_view(weights, torch.Generator())

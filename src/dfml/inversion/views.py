"""Random views (augmentations) of images during an inversion: shifts, mirroring, crops and changes of colour.

Pixels that only one member recognises lose their class when they are moved a little. An image that keeps its class in
many views is recognised by other members too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from dfml.inversion.loss import InversionWeights


@runtime_checkable
class AnyView(Protocol):
    """A transformation of a batch of images in normalised space (glossary: Tensors)."""

    def apply(self, pixels: Float[Tensor, "*batch height width"]) -> Float[Tensor, "*batch height width"]:
        """Return the view; differentiable, and affine in the pixels."""


@dataclass(frozen=True)
class View:
    """The same shift and mirroring for a whole batch.

    Attributes:
        rows: Shift downwards in pixels.
        columns: Shift to the right in pixels.
        flip: Whether to mirror horizontally, after the shift.
        wrap: Whether pixels that are shifted out come in on the other side; else zeros (the mean colour) come in.
    """

    rows: int = 0
    columns: int = 0
    flip: bool = False
    wrap: bool = True

    def apply(self, pixels: Float[Tensor, "*batch height width"]) -> Float[Tensor, "*batch height width"]:
        """See `AnyView.apply`."""
        if self.rows or self.columns:
            pixels = torch.roll(pixels, (self.rows, self.columns), dims=(-2, -1)) if self.wrap else self._shift(pixels)
        return pixels.flip(-1) if self.flip else pixels

    def _shift(self, pixels: Tensor) -> Tensor:
        height, width = pixels.shape[-2:]
        top, left = max(self.rows, 0), max(self.columns, 0)
        padded = functional.pad(pixels, (left, max(-self.columns, 0), top, max(-self.rows, 0)))
        return padded[..., top - self.rows :, left - self.columns :][..., :height, :width]


@dataclass(frozen=True, eq=False)
class ImageViews:
    """A view of its own for every image: a crop enlarged to the whole image, shifted, mirrored, with changed colours.

    Attributes:
        crop_maps: Affine maps from positions in the view to positions in the image, both in [-1, 1] along either axis.
        contrast: Factor of the pixels of an image.
        offset: Number that is added to a channel of an image after that.
    """

    crop_maps: Float[Tensor, "images 2 3"]
    contrast: Float[Tensor, "images 1 1 1"]
    offset: Float[Tensor, "images 3 1 1"]

    def apply(self, pixels: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 3 height width"]:
        """See `AnyView.apply`; a batch of fewer images takes the first views."""
        crop_maps, contrast, offset = (
            part[: len(pixels)].to(pixels.device, pixels.dtype) for part in (self.crop_maps, self.contrast, self.offset)
        )
        grid = functional.affine_grid(crop_maps, list(pixels.shape), align_corners=False)
        seen = functional.grid_sample(pixels, grid, padding_mode="reflection", align_corners=False)
        return torch.addcmul(offset, seen, contrast)


def sample_view(
    weights: InversionWeights, generator: torch.Generator, images: int = 0, size: int = 0, strength: float = 1.0
) -> AnyView:
    """Draw a random view of a batch, or of every image on its own (`InversionWeights.views`).

    Args:
        weights: Settings of the views: `views`, `jitter`, `wrap`, `flip`, `zoom`, `colour`.
        generator: Generator of the draws, on the CPU.
        images: Number of images; only needed for `views="image"`.
        size: Height and width of the images in pixels; only needed for `views="image"`.
        strength: Factor of `zoom` and `colour`, in [0, 1].

    Returns:
        A `View` with whole shifts in [-jitter, jitter] pixels along both axes; or `ImageViews` with fractional shifts,
        uniform in the same range extended by the margin of the crop.

    Raises:
        ValueError: If `images` or `size` is missing for `views="image"`.
    """
    if weights.views == "image":
        if images < 1 or size < 1:
            raise ValueError("expected the number of images and their size for views of every image; pass both")
        return _sample_image_views(weights, images, size, generator, strength)
    rows, columns = torch.randint(-weights.jitter, weights.jitter + 1, (2,), generator=generator).tolist()
    flip = weights.flip and bool(torch.randint(2, (1,), generator=generator))
    return View(rows, columns, flip, weights.wrap)


def _sample_image_views(
    weights: InversionWeights, images: int, size: int, generator: torch.Generator, strength: float
) -> ImageViews:
    draws = torch.rand(4, images, generator=generator)
    side = (1.0 - strength * weights.zoom * draws[0]).sqrt()
    sign = torch.where(draws[3] < 0.5, -1.0, 1.0) if weights.flip else torch.ones(images)
    crop_maps = torch.zeros(images, 2, 3)
    crop_maps[:, 0, 0], crop_maps[:, 1, 1] = side * sign, side
    # One pixel is 2 / size of the interval [-1, 1].
    crop_maps[:, :, 2] = ((1.0 - side + 2.0 * weights.jitter / size) * (2.0 * draws[1:3] - 1.0)).T
    colour = strength * weights.colour
    contrast = 1.0 + colour * torch.randn(images, 1, 1, 1, generator=generator)
    offset = colour * torch.randn(images, 3, 1, 1, generator=generator)
    return ImageViews(crop_maps, contrast, offset)

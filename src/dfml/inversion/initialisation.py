"""Images of nothing: dead leaves, with the statistics of photographs but no content; strokes, with those of writing.

Photographs are full of edges, occlusions, smooth patches and texture at every scale; white noise has none of it. Dead
leaves (shapes that fall on each other; Lee, Mumford and Huang 2001) have all, and are known to train networks that see
real images well (Baradad et al., "Learning to See by Looking at Noise", NeurIPS 2021). Writing and drawings are lines,
in two tones. No image is involved.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

_LEAVES = 30
_SPREAD = 0.9  # of leaf colours, in standard deviations of a photograph's pixels
_TEXTURE = 0.3
# Columns: brightness, blue against yellow, green against magenta. Photographs vary along them in this order.
_COLOURS = ((0.88, 0.4, 0.1), (0.9, 0.0, -0.15), (0.88, -0.4, 0.1))
_STROKES = 4  # at most
_PIECES = 12  # straight ones, that a stroke is drawn of
_INK = 0.113  # share of an image that strokes cover, on average
_CONTRAST = 0.27  # standard deviation of an image of 0 where there is no ink and 1 where there is


def dead_leaves(count: int, size: int, generator: torch.Generator) -> Float[Tensor, "count 3 size size"]:
    """Overlapping ellipses and rounded boxes of all sizes and colours, with a texture of coloured noise.

    Args:
        count: Of images.
        size: Pixels a side.
        generator: On the CPU.

    Returns:
        In normalised space: mean about 0 and standard deviation about 1 over many images.
    """
    images = _colours(count, generator)[..., None, None].expand(count, 3, size, size)
    rows, columns = torch.meshgrid(torch.arange(size) + 0.5, torch.arange(size) + 0.5, indexing="ij")
    for _ in range(_LEAVES):
        place, turn, area, shape, round_ = torch.rand(5, count, 2, 1, 1, generator=generator).unbind()
        angle = torch.pi * turn[:, 0]
        # Areas fall off as in photographs: few large leaves, many small ones.
        radius = (0.1 * size * (0.03 + 0.97 * area[:, 0]).rsqrt()).clamp(max=0.6 * size)
        width = radius * (0.4 + 0.6 * shape[:, 0])
        x, y = columns - size * place[:, 0], rows - size * place[:, 1]
        along, across = x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()
        power = torch.where(round_[:, 0] < 0.5, 2.0, 8.0)
        inside = torch.sigmoid(6.0 * (1.0 - (along / radius).abs() ** power - (across / width).abs() ** power))
        colour = _colours(count, generator)[..., None, None]
        images = torch.lerp(images, colour, inside[:, None])
    strength = _TEXTURE * torch.exp(0.4 * torch.randn(count, 1, 1, 1, generator=generator))
    return images + strength * coloured_noise(count, size, generator)


def pen_strokes(count: int, size: int, generator: torch.Generator) -> Float[Tensor, "count 3 size size"]:
    """Light lines on dark ground, as a pen draws them: one to four curves, some of which go on where the last ended.

    Args:
        count: Of images.
        size: Pixels a side.
        generator: On the CPU.

    Returns:
        In normalised space, like `dead_leaves`; see `dark_strokes` for the opposite.
    """
    rows, columns = torch.meshgrid(torch.arange(size) + 0.5, torch.arange(size) + 0.5, indexing="ij")
    pixels = torch.stack([columns, rows], dim=-1) / size
    strokes = torch.randint(1, _STROKES + 1, (count, 1, 1), generator=generator)
    nearest = torch.full((count, size, size), math.inf)
    end = torch.zeros(count, 2)
    for number in range(_STROKES):
        anew = torch.rand(count, 1, generator=generator) < 0.5
        start, bend, stop = 0.1 + 0.8 * torch.rand(3, count, 2, generator=generator)
        start, end = torch.where(anew, start, end) if number else start, stop
        for piece in range(_PIECES):
            ends = [_on_curve(start, bend, stop, (piece + step) / _PIECES)[:, None, None] for step in (0, 1)]
            nearer = torch.minimum(nearest, _distance(pixels, *ends))
            nearest = torch.where(number < strokes, nearer, nearest)
    width = 0.02 + 0.04 * torch.rand(count, 1, 1, generator=generator)
    ink = torch.sigmoid(2.0 * size * (width - nearest))
    return ((ink - _INK) / _CONTRAST)[:, None].repeat(1, 3, 1, 1)


def dark_strokes(count: int, size: int, generator: torch.Generator) -> Float[Tensor, "count 3 size size"]:
    """`pen_strokes`, dark on light."""
    return -pen_strokes(count, size, generator)


def _on_curve(start: Tensor, bend: Tensor, stop: Tensor, at: float) -> Tensor:
    return (1.0 - at) ** 2 * start + 2.0 * at * (1.0 - at) * bend + at**2 * stop


def _distance(points: Tensor, start: Tensor, stop: Tensor) -> Tensor:
    """Of points from straight pieces of line."""
    way = stop - start
    along = ((points - start) * way).sum(dim=-1) / way.square().sum(dim=-1).clamp_min(1e-12)
    distance: Tensor = torch.linalg.vector_norm(points - start - along.clamp(0.0, 1.0)[..., None] * way, dim=-1)
    return distance


def coloured_noise(count: int, size: int, generator: torch.Generator) -> Float[Tensor, "count 3 size size"]:
    """Noise whose amplitude falls with frequency as that of photographs does, about as f^-1.2; mean 0, deviation 1."""
    frequency = torch.hypot(torch.fft.fftfreq(size)[:, None], torch.fft.rfftfreq(size)[None, :])
    frequency[0, 0] = 1.0
    steepness = 1.2 + 0.3 * torch.randn(count, 1, 1, 1, generator=generator)
    spectrum = torch.fft.rfft2(torch.randn(count, 3, size, size, generator=generator)) * frequency**-steepness
    spectrum[..., 0, 0] = 0.0
    noise = torch.fft.irfft2(spectrum, s=(size, size))
    noise = noise / noise.std(dim=(2, 3), keepdim=True)
    return torch.einsum("rc,nchw->nrhw", torch.tensor(_COLOURS), noise)


def _colours(count: int, generator: torch.Generator) -> Float[Tensor, "count 3"]:
    return _SPREAD * torch.randn(count, 3, generator=generator) @ torch.tensor(_COLOURS).T

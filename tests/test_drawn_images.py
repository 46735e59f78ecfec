from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from dfml import seeds
from dfml.drawn_images import coloured_noise, dead_leaves, pen_strokes

Maker = Callable[[int, int, torch.Generator], Tensor]

both = pytest.mark.parametrize("make", [dead_leaves, coloured_noise])
every = pytest.mark.parametrize("make", [dead_leaves, coloured_noise, pen_strokes])


def correlation(images: Tensor, distance: int) -> float:
    """Correlation of pixels `distance` columns apart or `distance` rows apart, whichever is smaller."""
    pairs = [(images[..., distance:], images[..., :-distance]), (images[..., distance:, :], images[..., :-distance, :])]
    return min(float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]) for a, b in pairs)


def white(count: int, size: int) -> Tensor:
    return torch.randn(count, 3, size, size, generator=seeds.generator(0, "white"))


@every
@pytest.mark.parametrize("size", [9, 32, 84])
def test_images_of_any_size_are_repeatable_finite_and_all_different(make: Maker, size: int) -> None:
    before = torch.random.get_rng_state()
    made, again = (make(4, size, seeds.generator(3, "leaves")) for _ in range(2))
    assert made.shape == (4, 3, size, size)
    assert made.dtype == torch.float32
    assert torch.equal(made, again)
    assert made.isfinite().all()
    assert not torch.allclose(made, make(4, size, seeds.generator(4, "leaves")))
    assert torch.pdist(made.flatten(1)).min() > (1 if make is pen_strokes else size)  # 0 for equal images
    assert torch.equal(torch.random.get_rng_state(), before)


@every
@pytest.mark.parametrize("size", [16, 33])
def test_means_are_about_zero_and_deviations_about_one(make: Maker, size: int) -> None:
    made = make(128, size, seeds.generator(0, "leaves"))
    assert torch.all(made.mean(dim=(0, 2, 3)).abs() < 0.15)
    deviations = made.std(dim=(0, 2, 3))
    assert 0.75 < deviations.min() <= deviations.max() < 1.15
    assert (deviations.min() < deviations.max()) == (make is not pen_strokes)  # strokes are grey


@both
def test_images_of_one_batch_are_independent(make: Maker) -> None:
    average = make(1024, 8, seeds.generator(0, "leaves")).mean(dim=0)
    assert average.square().mean().sqrt() < 0.05  # 0.03 for independent images


@both
def test_the_correlation_of_pixels_falls_with_their_distance(make: Maker) -> None:
    made = make(64, 32, seeds.generator(0, "leaves"))
    near, further, far = (correlation(made, distance) for distance in (1, 3, 9))
    assert near > further + 0.1 > far + 0.2
    assert near > (0.8 if make is dead_leaves else 0.65)
    assert abs(correlation(white(64, 32), 1)) < 0.05


def test_dead_leaves_have_edges_and_noise_has_none() -> None:
    def kurtosis(images: Tensor) -> float:
        """Mean kurtosis of differences of adjacent pixels: 3 if they are normal, larger for flat regions with edges."""
        steps = images.diff(dim=-1).flatten(1)
        moments = [(steps - steps.mean(dim=1, keepdim=True)).pow(power).mean(dim=1) for power in (4, 2)]
        return float((moments[0] / moments[1].square()).mean())

    assert kurtosis(dead_leaves(64, 32, seeds.generator(0, "leaves"))) > 6
    assert kurtosis(coloured_noise(64, 32, seeds.generator(0, "leaves"))) < 3.3
    assert kurtosis(white(64, 32)) < 3.3


def test_the_amplitude_of_noise_falls_with_frequency_as_in_photographs() -> None:
    made = coloured_noise(128, 32, seeds.generator(0, "noise"))
    assert made.mean(dim=(2, 3)).abs().max() < 1e-5
    frequency = torch.hypot(torch.fft.fftfreq(32)[:, None], torch.fft.rfftfreq(32)[None, :])
    amplitude = torch.fft.rfft2(made).abs().square().mean(dim=1).log() / 2
    inside = (frequency > 0) & (frequency < 0.5)
    x = frequency[inside].log() - frequency[inside].log().mean()
    slopes = (amplitude[:, inside] * x).sum(dim=1) / x.square().sum()
    assert slopes.mean() == pytest.approx(-1.2, abs=0.1)
    assert slopes.std() == pytest.approx(0.3, abs=0.1)  # some images are smooth, others rough


@both
def test_images_differ_more_in_brightness_than_in_colour(make: Maker) -> None:
    pixels = make(128, 16, seeds.generator(0, "leaves")).transpose(0, 1).flatten(1)
    variances, directions = torch.linalg.eigh(torch.cov(pixels))
    assert torch.all(directions[:, -1].abs() > 0.4)  # all three channels together
    assert variances[-1] > 3 * variances[1] > 9 * variances[0] > 0


def test_strokes_are_thin_lines_on_an_empty_background() -> None:
    drawn = pen_strokes(64, 48, seeds.generator(0, "strokes"))
    assert torch.equal(drawn[:, 0], drawn[:, 1])
    assert torch.equal(drawn[:, 0], drawn[:, 2])
    background, foreground = drawn.min(), drawn.max()
    ink = (drawn[:, 0] - background) / (foreground - background)
    assert ((ink < 0.05) | (ink > 0.9)).float().mean() > 0.85  # two tones, and the edges between
    covered = (ink > 0.5).float().mean(dim=(1, 2))
    assert 0.005 < covered.min() < covered.max() < 0.4
    edge = torch.cat([ink[:, :2].flatten(), ink[:, -2:].flatten(), ink[:, :, :2].flatten(), ink[:, :, -2:].flatten()])
    assert edge.max() < 0.5  # no stroke is cut off by the border
    # Lines are thin everywhere: eroding them by one pixel leaves less than half of their area.
    solid = (ink > 0.5).float()
    inner = -nn.functional.max_pool2d(-solid, 3, stride=1, padding=1)
    assert inner.sum() < 0.5 * solid.sum()

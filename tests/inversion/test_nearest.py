"""The nearest training image of a recovered image, and whether it is nearer than real images are."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dfml.errors import DataError
from dfml.inversion.nearest import compare_with_training, find_nearest


def _photos(count: int, seed: int, size: int = 8) -> Tensor:
    """Smooth random images."""
    noise = torch.rand(count, 3, 3, 3, generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.interpolate(noise, size=size, mode="bilinear", align_corners=True)
    return (255 * smooth).round().to(torch.uint8)


def test_a_copy_is_found_whatever_its_contrast_and_direction() -> None:
    training = _photos(50, seed=0)
    copies = torch.stack([training[7], training[30].flip(-1), (training[11].float() * 0.4 + 60).to(torch.uint8)])
    nearest = find_nearest(copies, training)
    assert nearest.index.tolist() == [7, 30, 11]
    assert nearest.distance[:2].max() < 1e-5
    assert nearest.distance[2] < 0.01


def test_the_nearest_is_the_same_as_by_numpy_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dfml.inversion.nearest._ROWS", 7)
    images, candidates = _photos(20, seed=1), _photos(30, seed=2)
    own = torch.arange(20)
    found = find_nearest(images, candidates, own=own)
    for index, image in enumerate(images):
        correlations = [
            -2.0
            if number == index
            else max(
                torch.corrcoef(torch.stack([image.flatten().double(), view.flatten().double()]))[0, 1].item()
                for view in (candidate, candidate.flip(-1))
            )
            for number, candidate in enumerate(candidates)
        ]
        assert found.distance[index].item() == pytest.approx(1 - max(correlations), abs=1e-5)
        assert correlations[int(found.index[index])] == pytest.approx(max(correlations), abs=1e-5)


def test_an_image_of_one_colour_resembles_nothing() -> None:
    flat = torch.full((1, 3, 8, 8), 90, dtype=torch.uint8)
    assert find_nearest(flat, _photos(5, seed=3)).distance.item() == pytest.approx(1.0)


@pytest.mark.parametrize("with_held_out", [False, True])
def test_copies_are_near_and_other_images_are_not(with_held_out: bool) -> None:
    training, unrelated = _photos(300, seed=4), _photos(100, seed=5)
    recovered = torch.cat([training[:3], unrelated[:20]])
    labels = torch.arange(300) % 3
    held_out = _photos(200, seed=6) if with_held_out else None
    found = compare_with_training(recovered, torch.zeros(23, dtype=torch.int64), training, labels, held_out)
    assert found.is_near[:3].all()
    assert found.is_near[3:].sum() <= 2
    assert found.as_small[3:].median() > 0.1
    assert found.same_class_by_chance == pytest.approx(1 / 3)
    summary = found.as_dict()
    assert summary["images"] == 23
    assert summary["near"] == int(found.is_near.sum())


def test_the_share_of_the_same_class_counts_labels_that_have_images_only() -> None:
    training = _photos(40, seed=7)
    labels = torch.arange(40) // 20
    found = compare_with_training(training[[0, 20, 39]], torch.tensor([0, 1, -1]), training, labels)
    assert (found.same_class, found.same_class_by_chance) == (1.0, 0.5)
    nameless = compare_with_training(training[:2], torch.tensor([-1, -1]), training, labels)
    assert nameless.same_class is None


def test_too_few_images_are_an_error() -> None:
    one = _photos(1, seed=8)
    with pytest.raises(DataError, match="at least two training images"):
        compare_with_training(one, torch.zeros(1, dtype=torch.int64), one, torch.zeros(1, dtype=torch.int64))

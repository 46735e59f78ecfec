from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dfml import seeds
from dfml.errors import UsageError
from dfml.learners.episode import sample_episode_indices
from dfml.methods.purer.dynamic_dataset import DynamicDataset
from tests.factories import PREPROCESSING

CPU = torch.device("cpu")


@given(st.data())
def test_an_episode_has_distinct_classes_and_disjoint_support_and_query(data: st.DataObject) -> None:
    way, shot, query = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))
    sizes = torch.tensor(data.draw(st.lists(st.integers(shot + query, 12), min_size=way, max_size=9)))
    draw = torch.Generator().manual_seed(data.draw(st.integers(0, 2**32)))
    classes, support, of_query = sample_episode_indices(sizes, way, shot, query, draw)
    assert len(set(classes.tolist())) == way
    for row, chosen in enumerate(torch.cat([support, of_query], dim=1).tolist()):
        assert len(set(chosen)) == shot + query
        assert max(chosen) < sizes[classes[row]]


def test_every_class_and_image_is_drawn_equally_often() -> None:
    sizes = torch.full((6,), 4)
    counts = torch.zeros(6, 4)
    for index in range(3000):
        classes, support, _ = sample_episode_indices(sizes, 2, 1, 1, seeds.generator(0, "test", index))
        counts[classes, support[:, 0]] += 1
    assert torch.all((counts / counts.mean() - 1).abs() < 0.25)  # 5 standard deviations


def test_too_few_classes_or_images_are_refused_with_the_numbers() -> None:
    with pytest.raises(UsageError, match=r"at least 4 classes \(--way\), found 3"):
        sample_episode_indices(torch.tensor([9, 9, 9]), 4, 1, 1, torch.Generator())
    with pytest.raises(UsageError, match=r"5 shot \+ 15 query = 20 images per class, found a class of 7"):
        sample_episode_indices(torch.tensor([9, 7, 30]), 2, 5, 15, torch.Generator())


def test_dynamic_dataset_hands_out_the_images_of_the_right_classes_with_gradients_to_both_sets() -> None:
    dataset = DynamicDataset(6, 5, PREPROCESSING, seed=0, device=CPU)
    with torch.no_grad():  # every image of class c is the constant c
        dataset.pixels.copy_(torch.arange(6.0)[:, None, None, None, None].expand_as(dataset.pixels))
    episode = dataset.episode(3, 2, 3, torch.Generator().manual_seed(0))
    shown = PREPROCESSING.normalise(episode.support_images)[:, 0, 0, 0].round().long()
    asked = PREPROCESSING.normalise(episode.query_images)[:, 0, 0, 0].round().long()
    for label in range(3):
        assert len(set(shown[episode.support_labels == label].tolist())) == 1
        assert set(asked[episode.query_labels == label].tolist()) == set(
            shown[episode.support_labels == label].tolist()
        )
    (gradient,) = torch.autograd.grad(episode.support_images.sum() + episode.query_images.sum(), dataset.pixels)
    touched = gradient.abs().sum(dim=(2, 3, 4)) > 0
    assert touched.sum() == 3 * (2 + 3)


def test_pixels_are_addressed_by_class() -> None:
    small = DynamicDataset(2, 4, PREPROCESSING, seed=3, device=CPU)
    large = DynamicDataset(5, 4, PREPROCESSING, seed=3, device=CPU)
    assert torch.equal(small.pixels, large.pixels[:2])
    assert not torch.equal(small.pixels[0], small.pixels[1])

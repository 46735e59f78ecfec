from __future__ import annotations

import torch

from dfml.methods.purer.dynamic_dataset import DynamicDataset
from tests.factories import PREPROCESSING

CPU = torch.device("cpu")


def test_an_episode_has_images_of_the_right_classes_with_gradients_to_both_sets() -> None:
    dataset = DynamicDataset(6, 5, PREPROCESSING, seed=0, device=CPU)
    with torch.no_grad():  # every image of class c is the constant c
        dataset.pixels.copy_(torch.arange(6.0)[:, None, None, None, None].expand_as(dataset.pixels))
    episode = dataset.episode(3, 2, 3, torch.Generator().manual_seed(0))
    support = PREPROCESSING.normalise(episode.support_images)[:, 0, 0, 0].round().long()
    query = PREPROCESSING.normalise(episode.query_images)[:, 0, 0, 0].round().long()
    for label in range(3):
        assert len(set(support[episode.support_labels == label].tolist())) == 1
        assert set(query[episode.query_labels == label].tolist()) == set(
            support[episode.support_labels == label].tolist()
        )
    (gradient,) = torch.autograd.grad(episode.support_images.sum() + episode.query_images.sum(), dataset.pixels)
    touched = gradient.abs().sum(dim=(2, 3, 4)) > 0
    assert touched.sum() == 3 * (2 + 3)


def test_pixels_are_addressed_by_class() -> None:
    small = DynamicDataset(2, 4, PREPROCESSING, seed=3, device=CPU)
    large = DynamicDataset(5, 4, PREPROCESSING, seed=3, device=CPU)
    assert torch.equal(small.pixels, large.pixels[:2])
    assert not torch.equal(small.pixels[0], small.pixels[1])

from __future__ import annotations

import pytest
import torch

from dfml import seeds
from dfml.errors import UsageError
from dfml.methods.purer.dynamic_dataset import DynamicDataset
from dfml.zoo import Preprocessing

CPU = torch.device("cpu")
PREPROCESSING = Preprocessing(4, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))


def dataset(classes: int = 5, per_class: int = 4, seed: int = 0, active: list[int] | None = None) -> DynamicDataset:
    return DynamicDataset(classes, per_class, PREPROCESSING, seed, CPU, active)


def numbered(active: list[int] | None = None) -> DynamicDataset:
    """Data set of 5 classes of 4 images, in which all normalised pixels of image i of class c are 10 c + i.

    `read_numbers` reads these numbers back.
    """
    made = dataset(active=active)
    with torch.no_grad():
        values = 10.0 * torch.arange(5)[:, None] + torch.arange(4)
        made.pixels.copy_(values[:, :, None, None, None].expand_as(made.pixels))
    return made


def read_numbers(images: torch.Tensor) -> list[int]:
    """The number 10 c + i of every image of a `numbered` data set, read from its first pixel."""
    return PREPROCESSING.normalise(images)[:, 0, 0, 0].round().int().tolist()


def test_initial_pixels_are_standard_normal_and_do_not_depend_on_the_number_of_classes() -> None:
    pixels = dataset(20, 10).pixels
    assert pixels.shape == (20, 10, 3, 4, 4)
    assert pixels.is_leaf
    assert pixels.requires_grad
    assert abs(float(pixels.detach().mean())) < 0.05
    assert abs(float(pixels.detach().std()) - 1.0) < 0.05
    assert torch.equal(dataset(3).pixels, dataset(5).pixels[:3])
    assert not torch.equal(dataset(seed=1).pixels, dataset().pixels)


def test_an_image_is_the_mean_plus_the_standard_deviation_times_the_pixels() -> None:
    made = dataset()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (PREPROCESSING.mean, PREPROCESSING.std))
    torch.testing.assert_close(made.images(2), mean + std * made.pixels[2])


def test_an_episode_has_distinct_images_of_distinct_classes_with_their_labels() -> None:
    episode = numbered().episode(way=3, shot=1, query=2, generator=seeds.generator(0, "episode"))
    support, queries = read_numbers(episode.support_images), read_numbers(episode.query_images)
    assert len({*support, *queries}) == 9
    classes = [number // 10 for number in support]
    assert len(set(classes)) == 3
    assert episode.support_labels.tolist() == [0, 1, 2]
    assert [number // 10 for number in queries] == [classes[label] for label in episode.query_labels.tolist()]


def test_gradients_reach_the_pixels_of_the_episode_only() -> None:
    made = numbered()
    episode = made.episode(way=2, shot=1, query=1, generator=seeds.generator(1, "episode"))
    (episode.support_images.sum() + episode.query_images.sum()).backward()
    assert made.pixels.grad is not None
    has_gradient = made.pixels.grad.abs().sum(dim=(2, 3, 4)) > 0
    used = {*read_numbers(episode.support_images), *read_numbers(episode.query_images)}
    assert {10 * label + image for label, image in has_gradient.nonzero().tolist()} == used


def test_episodes_have_active_classes_only() -> None:
    made = numbered(active=[1, 4])
    for index in range(10):
        episode = made.episode(way=2, shot=1, query=1, generator=seeds.generator(index, "episode"))
        for images in (episode.support_images, episode.query_images):
            assert {number // 10 for number in read_numbers(images)} == {1, 4}
    with pytest.raises(UsageError, match=r"expected at least 3 classes .*found 2"):
        made.episode(way=3, shot=1, query=1, generator=seeds.generator(0))


def test_too_few_images_are_an_error() -> None:
    with pytest.raises(UsageError, match=r"3 shot \+ 2 query = 5 images per class, found a class of 4"):
        dataset().episode(way=2, shot=3, query=2, generator=seeds.generator(0))

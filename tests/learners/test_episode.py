from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dfml import seeds
from dfml.errors import UsageError
from dfml.learners.episode import sample_episode_indices


@given(st.data())
def test_an_episode_has_distinct_classes_and_disjoint_support_and_query(data: st.DataObject) -> None:
    way, shot, query = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))
    sizes = torch.tensor(data.draw(st.lists(st.integers(shot + query, 12), min_size=way, max_size=9)))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**32)))
    classes, support, queries = sample_episode_indices(sizes, way, shot, query, generator)
    assert len(set(classes.tolist())) == way
    for row, indices in enumerate(torch.cat([support, queries], dim=1).tolist()):
        assert len(set(indices)) == shot + query
        assert max(indices) < sizes[classes[row]]


def test_every_class_and_image_is_sampled_equally_often() -> None:
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

"""Uneven support: its episodes are parts of the even ones, and learners adapt to them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from dfml.errors import DataError, UsageError
from dfml.evaluation import evaluate
from dfml.evaluation.episodes import check_enough_images, describe_task, sample_evaluation_episode
from dfml.learners import MetaLearner
from dfml.methods import METHODS
from tests.factories import zoo

from .small import DATA, QUICK, untrained_protonet


def test_uneven_support_is_a_part_of_the_even_episode_with_the_most_images() -> None:
    seen = set()
    for index in range(60):
        support, query = sample_evaluation_episode(DATA, 3, (1, 4), 5, 0, index)
        most, even_query = sample_evaluation_episode(DATA, 3, 4, 5, 0, index)
        assert torch.equal(query, even_query)
        assert set(support.tolist()) <= set(most.tolist())
        classes, counts = torch.unique_consecutive(DATA.labels[support], return_counts=True)
        assert torch.equal(classes, DATA.labels[most].view(3, 4)[:, 0])
        seen |= set(counts.tolist())
    assert seen == {1, 2, 3, 4}


def test_a_range_of_one_number_is_that_number() -> None:
    for index in range(5):
        pair = sample_evaluation_episode(DATA, 3, (2, 2), 5, 0, index)
        single = sample_evaluation_episode(DATA, 3, 2, 5, 0, index)
        assert all(torch.equal(one, other) for one, other in zip(pair, single, strict=True))


def _zoo_embedding() -> MetaLearner:
    return METHODS["zoo_embedding"]().fit(zoo(2), device="cpu")


@pytest.mark.parametrize("make", [untrained_protonet, _zoo_embedding])
def test_learners_adapt_to_uneven_support(make: Callable[[], MetaLearner]) -> None:
    settings = {**QUICK, "shot": (1, 4)}
    uneven = evaluate(make(), DATA, **settings)
    expected = []
    for index in range(12):
        support, query = sample_evaluation_episode(DATA, 3, (1, 4), 5, 0, index)
        classes = torch.unique_consecutive(DATA.labels[support]).tolist()
        labels = [torch.tensor([classes.index(int(each)) for each in DATA.labels[part]]) for part in (support, query)]
        images = [DATA.images[part].float() / 255 for part in (support, query)]
        predicted = make().adapt(images[0], labels[0]).predict_proba(images[1]).argmax(dim=1)
        expected.append((predicted == labels[1]).double().mean().item())
    assert uneven.accuracies == pytest.approx(expected)
    assert uneven.task == "3-way 1-to-4-shot"
    assert uneven.as_dict()["shot"] == (1, 4)


def test_what_has_no_room_is_named() -> None:
    images = {"ant": 20, "bee": 8}
    check_enough_images("insects", images, 2, (1, 5), 3)
    with pytest.raises(DataError, match=r"class bee of insects has 8 images, but shot \+ query need 9"):
        check_enough_images("insects", images, 2, (1, 5), 4)
    with pytest.raises(DataError, match="insects has 2 classes, but --way asks for 3"):
        check_enough_images("insects", images, 3, 1, 1)
    for wrong in (0, (0, 3), (4, 3)):
        with pytest.raises(UsageError, match="range that ascends"):
            check_enough_images("insects", images, 2, wrong, 1)


def test_tasks_are_described() -> None:
    assert describe_task(5, 1) == "5-way 1-shot"
    assert describe_task(20, (1, 5)) == "20-way 1-to-5-shot"

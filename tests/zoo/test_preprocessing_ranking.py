"""Which candidate of preprocessing is first, on networks whose true preprocessing is known."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dfml import seeds
from dfml.drawn_images import dead_leaves, pen_strokes
from dfml.zoo import Preprocessing, PretrainedClassifier
from dfml.zoo.preprocessing_ranking import (
    CANDIDATES,
    Candidate,
    alike,
    candidates_for,
    match_classes,
    rank_by_accuracy,
    rank_by_statistics,
)

SIZE = 16


def photographs(seed: int = 7, count: int = 96) -> Tensor:
    """Images as a network may have been trained on: darker and of less contrast than those of the ranking."""
    return (0.42 + 0.22 * dead_leaves(count, SIZE, seeds.generator(seed, "training"))).clamp(0.0, 1.0)


def network(truth: Candidate, images: Tensor, *, outputs: int = 3) -> nn.Module:
    """A random network with the running statistics of images that are preprocessed by `truth`."""
    torch.manual_seed(1)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8, momentum=None), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8, momentum=None), nn.ReLU()]
    made = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, outputs))
    with torch.no_grad():
        made.train()(truth.at(SIZE).normalise(images))
    return made.eval()


@pytest.mark.parametrize("truth", candidates_for(), ids=lambda candidate: candidate.name)
def test_the_range_of_a_network_of_photographs_is_first(truth: Candidate) -> None:
    ranking = rank_by_statistics(network(truth, photographs()), SIZE, candidates_for())
    assert ranking.best is not None
    assert alike(ranking.best.candidate, truth)
    assert ranking.clear
    assert ranking.by == "batch-norm statistics"
    assert truth.name in ranking.describe()
    assert {each.candidate for each in ranking.ranked} == set(candidates_for())


@pytest.mark.parametrize("name", ["0 to 255", "MNIST", "0 to 1"])
def test_the_range_of_a_network_of_writing_is_first(name: str) -> None:
    truth = next(each for each in CANDIDATES if each.name == name)
    writing = (0.113 + 0.27 * pen_strokes(96, SIZE, seeds.generator(9, "training"))).clamp(0.0, 1.0)
    ranking = rank_by_statistics(network(truth, writing), SIZE, candidates_for(grey=True))
    assert ranking.best is not None
    assert ranking.best.candidate == truth
    assert all(each.candidate.is_grey for each in ranking.ranked)


def test_without_batch_norm_there_is_no_ranking_and_a_statement_says_so() -> None:
    ranking = rank_by_statistics(nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE**2, 2)), SIZE, candidates_for())
    assert ranking.best is None
    assert not ranking.clear
    assert ranking.describe() == "it has no batch-norm layers, so nothing in it tells how its input was scaled"


def test_statistics_between_two_ranges_are_not_clear() -> None:
    between = Candidate("between", (0.3, 0.3, 0.3), (0.55, 0.55, 0.55))
    ranking = rank_by_statistics(network(between, photographs()), SIZE, candidates_for())
    assert not ranking.clear
    assert "too close to tell" in ranking.describe()


def test_the_ranking_leaves_the_network_as_it_was() -> None:
    made = network(CANDIDATES[0], photographs())
    before = {name: value.clone() for name, value in made.state_dict().items()}
    rank_by_statistics(made, SIZE, candidates_for())
    assert all(torch.equal(value, before[name]) for name, value in made.state_dict().items())
    assert not any(module._forward_pre_hooks for module in made.modules())


def test_only_the_layers_that_count_are_run() -> None:
    made = network(CANDIDATES[0], photographs())
    blocks = [part for _ in range(2) for part in (nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8))]

    class Refuses(nn.Module):
        def forward(self, _: Tensor) -> Tensor:
            raise AssertionError("a layer behind the first batch-norm layers was run")

    deep = nn.Sequential(*list(made)[:7], *blocks, nn.BatchNorm2d(8), Refuses())
    assert rank_by_statistics(deep, SIZE, candidates_for()).best is not None


class ByBrightness(nn.Module):
    """Output 1 for inputs above a threshold, whose accuracy depends on the preprocessing."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.stack([-images.mean(dim=(1, 2, 3)), images.mean(dim=(1, 2, 3))], dim=1)


def by_brightness(preprocessing: Preprocessing) -> PretrainedClassifier:
    return PretrainedClassifier(ByBrightness(), ("dark", "light"), preprocessing)


def test_labelled_images_rank_by_accuracy() -> None:
    images = torch.linspace(0.0, 1.0, 200)[:, None, None, None].expand(200, 3, SIZE, SIZE)
    targets = (images[:, 0, 0, 0] > 0.5).long()
    ranking = rank_by_accuracy(by_brightness, images, targets, candidates_for())
    assert ranking.best is not None
    assert ranking.best.candidate.name == "-1 to 1"
    assert ranking.best.accuracy == 1.0
    assert ranking.by == "accuracy"
    assert not ranking.clear  # ImageNet's mean differs by 0.1 only: 3 images decide
    raw = next(each for each in ranking.ranked if each.candidate.name == "0 to 1")
    assert raw.accuracy == pytest.approx(0.5, abs=0.01)
    half, zero = ranking.best.candidate, raw.candidate
    assert rank_by_accuracy(by_brightness, images, targets, (zero, half)).clear


def test_images_that_no_candidate_recognises_make_nothing_clear() -> None:
    images = torch.rand(64, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    targets = torch.randint(2, (64,), generator=torch.Generator().manual_seed(1))
    assert not rank_by_accuracy(by_brightness, images, targets, candidates_for()).clear


def test_class_folders_are_matched_by_name_or_by_a_given_index() -> None:
    labels = ("T-shirt/top", "Ankle boot", "Bag")
    assert match_classes(["ankle_boot", "T shirt TOP", "car"], labels) == [1, 0, -1]
    assert match_classes(["car", "Bag"], labels, {"car": 0}) == [0, 2]


@settings(max_examples=50)
@given(st.lists(st.sampled_from(CANDIDATES), min_size=2, max_size=2))
def test_likeness_is_symmetric(pair: list[Candidate]) -> None:
    assert alike(*pair) == alike(*reversed(pair))
    assert all(alike(each, each) for each in pair)

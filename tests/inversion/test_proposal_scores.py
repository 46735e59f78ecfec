"""Batch-norm statistics and labelled images tell apart networks that strict loading cannot."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dfml.backbones.cifar_resnet import SHORTCUTS, CifarResNet
from dfml.drawn_images import dead_leaves
from dfml.inversion.proposal_scores import rank_networks, statistics_distance
from dfml.zoo import Preprocessing, PretrainedClassifier
from tests.factories import images

PREPROCESSING = Preprocessing(16, (0.5,) * 3, (0.25,) * 3)
CANDIDATES = SHORTCUTS[:3]


def networks(true: str) -> list[PretrainedClassifier]:
    """One member per form of shortcut, with the weights and statistics of the network with the `true` one."""
    torch.manual_seed(1)
    trained = CifarResNet(14, 4, shortcut=true)
    for layer in trained.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None
    with torch.no_grad():
        trained.train()(dead_leaves(64, 16, torch.Generator().manual_seed(5)))
    made = []
    for shortcut in CANDIDATES:
        network = CifarResNet(14, 4, shortcut=shortcut)
        network.load_state_dict(trained.state_dict())
        made.append(PretrainedClassifier(network, tuple("abcd"), PREPROCESSING))
    return made


@pytest.mark.parametrize("true", CANDIDATES)
def test_the_shortcut_that_the_statistics_came_from_is_closest(true: str) -> None:
    ranked = rank_networks(networks(true))
    assert CANDIDATES[ranked[0].index] == true
    distances = [score.distance for score in ranked]
    assert distances == sorted(distances)
    assert ranked[1].distance > 1.03 * ranked[0].distance
    assert ranked[0].accuracy is None


def test_labelled_images_count_more_than_statistics() -> None:
    members = networks("A")
    given = images(40, size=16)
    labels = members[2].predict_logits(given).argmax(dim=1)
    ranked = rank_networks(members, given, labels)
    assert (ranked[0].index, ranked[0].accuracy) == (2, 1.0)


def test_without_batch_norm_the_order_stays() -> None:
    plain = [
        PretrainedClassifier(nn.Sequential(nn.Flatten(), nn.Linear(768, 2)), ("a", "b"), PREPROCESSING)
        for _ in range(3)
    ]
    assert statistics_distance(plain[0]) is None
    assert [score.index for score in rank_networks(plain)] == [0, 1, 2]

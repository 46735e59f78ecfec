"""ResNets for CIFAR have the paper's sizes, and their shortcuts differ where strict loading cannot see it."""

from __future__ import annotations

import pytest
import torch

from dfml.backbones.cifar_resnet import SHORTCUTS, CifarResNet
from dfml.errors import UsageError
from tests.factories import images


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)])
def test_the_number_of_parameters_is_that_of_the_paper(depth: int, millions: float) -> None:
    with torch.device("meta"):
        network = CifarResNet(depth, 10)
    assert sum(parameter.numel() for parameter in network.parameters()) == pytest.approx(millions * 1e6, rel=0.03)


def test_forms_of_option_a_have_the_same_parameters_and_other_outputs() -> None:
    first = CifarResNet(8, 5, shortcut="A").eval()
    outputs = []
    for shortcut in SHORTCUTS[:3]:
        network = CifarResNet(8, 5, shortcut=shortcut).eval()
        network.load_state_dict(first.state_dict(), strict=True)
        outputs.append(network(images(2)))
    assert not torch.allclose(outputs[0], outputs[1])
    assert not torch.allclose(outputs[1], outputs[2])
    assert set(CifarResNet(8, 5, shortcut="B").state_dict()) > set(first.state_dict())


@pytest.mark.parametrize("depth", [0, 2, 10, 21, 10**6])
def test_other_depths_are_refused(depth: int) -> None:
    with pytest.raises(UsageError, match="6n"):
        CifarResNet(depth, 10)


def test_another_shortcut_is_refused() -> None:
    with pytest.raises(UsageError, match="shortcut"):
        CifarResNet(20, 10, shortcut="C")

"""What networks of other people's programs need before they can be members."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dfml.zoo.foreign_networks import ForeignNetworkError, OneByOne, WithoutModes, require_gradient, rows


class OneOnly(nn.Module):
    """As a graph that was exported for a batch of one."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.reshape(1, -1)[:, :5] * 2


class Stubborn(nn.Module):
    """As a program of `torch.export`."""

    def train(self, mode: bool = True) -> Stubborn:
        raise NotImplementedError("it has no modes")

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.flatten(1)


def test_a_network_of_one_image_takes_many() -> None:
    images = torch.rand(3, 3, 4, 4)
    torch.testing.assert_close(OneByOne(OneOnly())(images), images.flatten(1)[:, :5] * 2)


def test_a_network_without_modes_is_part_of_one_with_modes() -> None:
    wrapped = nn.Sequential(WithoutModes(Stubborn())).eval().train()
    assert wrapped(torch.rand(2, 3, 2, 2)).shape == (2, 12)


def test_gradients_are_checked_and_outputs_returned() -> None:
    images = torch.rand(2, 3, 4, 4)
    torch.testing.assert_close(require_gradient(nn.Flatten(), images), images.flatten(1))
    assert not images.requires_grad


class Function(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, inputs: Tensor) -> Tensor:
        flat = inputs.flatten(1)
        kinds = {
            "constant": torch.ones(len(inputs), 3),
            "detached": flat.detach(),
            "floor": flat.floor(),
            "infinite": flat.sub(flat.detach()).sqrt(),
        }
        return kinds[self.kind]


@pytest.mark.parametrize("kind", ["constant", "detached", "floor", "infinite"])
def test_a_network_without_usable_gradients_is_found(kind: str) -> None:
    with pytest.raises(ForeignNetworkError, match="gradient reaches the images"):
        require_gradient(Function(kind), torch.rand(2, 3, 4, 4))


@pytest.mark.parametrize("output", [None, [1.0], torch.tensor(1.0), torch.zeros(3, 2)])
def test_an_output_has_one_row_per_image(output: object) -> None:
    with pytest.raises(ForeignNetworkError, match="expected one row per image"):
        rows(output, 2)

"""Grey, non-square and channels-last inputs and all kinds of outputs become the one interface of zoo members."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dfml.errors import ConfigError
from dfml.zoo import Preprocessing, PretrainedClassifier
from dfml.zoo.adapters import LUMINANCE, InputAdapter, OutputAdapter, RowMajor, adapt_network
from tests.factories import images


class Fixed(nn.Module):
    """Returns the same thing for every batch."""

    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor) -> Any:
        return self.value


def test_a_grey_network_sees_the_normalised_luminance() -> None:
    mean, std = 0.1307, 0.3081
    seen = InputAdapter(nn.Identity(), channels=1)(
        Preprocessing(8, (mean,) * 3, (std,) * 3).normalise(images(2, size=8))
    )
    red, green, blue = images(2, size=8).unbind(1)
    grey = LUMINANCE[0] * red + LUMINANCE[1] * green + LUMINANCE[2] * blue
    assert torch.allclose(seen[:, 0], (grey - mean) / std, atol=1e-6)


def test_a_picture_that_is_grey_already_stays_as_it_is() -> None:
    grey = images(2)[:, :1]
    assert torch.allclose(InputAdapter(nn.Identity(), channels=1)(grey.repeat(1, 3, 1, 1)), grey, atol=1e-6)


def test_an_input_that_is_not_square_and_has_its_channels_last() -> None:
    seen = InputAdapter(nn.Identity(), size=(6, 10), channels_last=True)(images(2, size=10))
    assert seen.shape == (2, 6, 10, 3)
    assert seen.is_contiguous()


def test_two_or_four_channels_are_refused() -> None:
    with pytest.raises(ConfigError, match="1 or 3 input channels, found 4"):
        InputAdapter(nn.Identity(), channels=4)


LOGITS = torch.tensor([[1.0, -2.0], [0.5, 3.0]])


@pytest.mark.parametrize(
    ("output", "returned"),
    [
        ("logits", LOGITS),
        ("softmax", LOGITS.softmax(1)),
        ("log_softmax", LOGITS.log_softmax(1)),
        ("logit", LOGITS[:, 1:] - LOGITS[:, :1]),
        ("logit", LOGITS[:, 1] - LOGITS[:, 0]),
        ("sigmoid", (LOGITS[:, 1:] - LOGITS[:, :1]).sigmoid()),
        ("logits", LOGITS[:, :, None, None]),
    ],
)
def test_every_kind_of_output_has_the_same_probabilities(output: str, returned: Tensor) -> None:
    found = OutputAdapter(Fixed(returned), output)(images(2))
    assert torch.allclose(found.softmax(1), LOGITS.softmax(1), atol=1e-6)


def test_certain_probabilities_stay_finite() -> None:
    assert torch.isfinite(OutputAdapter(Fixed(torch.tensor([[0.0, 1.0]])), "softmax")(images(1))).all()
    assert torch.isfinite(OutputAdapter(Fixed(torch.tensor([[1.0]])), "sigmoid")(images(1))).all()


@pytest.mark.parametrize(
    ("output", "returned"),
    [
        ("logits", torch.zeros(2, 3, 4, 4)),
        ("logits", torch.zeros(3)),
        ("logits", torch.zeros(4, 3)),
        ("sigmoid", torch.zeros(2, 2)),
        ("logits", (torch.zeros(2, 3),)),
        ("logits", {"logits": torch.zeros(2, 3)}),
    ],
)
def test_other_outputs_are_refused(output: str, returned: Any) -> None:
    with pytest.raises(ValueError, match="the network returns a"):
        OutputAdapter(Fixed(returned), output)(images(2))


def test_an_unknown_output_is_refused() -> None:
    with pytest.raises(ConfigError, match="found 'scores'"):
        OutputAdapter(nn.Identity(), "scores")


class Viewing(nn.Module):
    """Flattens with `view`, as much code of other people does."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.fc = nn.Linear(4 * 6 * 6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.fc(x.view(len(x), -1))


def test_a_network_that_flattens_with_view_works_as_a_member() -> None:
    network = Viewing()
    expected = network(images(2, size=8))
    member = PretrainedClassifier(RowMajor(network), ("a", "b"), Preprocessing(8, (0.0,) * 3, (1.0,) * 3))
    assert torch.allclose(member.logits(images(2, size=8)), expected, atol=1e-5)


def test_a_usual_network_is_not_wrapped() -> None:
    network = nn.Identity()
    assert adapt_network(network) is network
    assert isinstance(adapt_network(network, channels=1, outputs="softmax"), OutputAdapter)

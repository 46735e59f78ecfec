from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dfml.errors import RunError
from dfml.optimisers import MuonAndAdam, load_optimiser_state_dict, optimiser_state_dict


def test_a_loaded_optimiser_continues_with_the_same_bits() -> None:
    def make() -> tuple[torch.Tensor, torch.optim.Optimizer]:
        weights = torch.arange(4.0).requires_grad_()
        return weights, torch.optim.Adam([weights], lr=0.1)

    def step(weights: torch.Tensor, optimiser: torch.optim.Optimizer) -> None:
        weights.grad = weights.detach() ** 2 + 1
        optimiser.step()

    first, optimiser = make()
    step(first, optimiser)
    second, resumed = make()
    with torch.no_grad():
        second.copy_(first)
    stored = {name: value.clone() for name, value in optimiser_state_dict("adam", optimiser).items()}
    load_optimiser_state_dict("adam", resumed, {"other.0.step": torch.tensor(9.0), **stored})
    for _ in range(3):
        step(first, optimiser)
        step(second, resumed)
    assert torch.equal(first, second)


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1), nn.Flatten(), nn.Linear(64, 5))
    return layers.to(memory_format=torch.channels_last)


def loss_of(layers: nn.Module) -> Tensor:
    images = torch.rand(16, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    return nn.functional.cross_entropy(layers(images), torch.arange(16) % 5)


def values(layers: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in layers.named_parameters()}


@pytest.mark.numeric
def test_muon_updates_the_kernels_and_adam_all_other_weights() -> None:
    layers, reference = network(), network()
    before = values(layers)
    MuonAndAdam(list(layers.parameters()), lr=0.01, kernel_lr=0.1).descend(loss_of(layers), 0.5)
    for weight, gradient in zip(
        reference.parameters(), torch.autograd.grad(loss_of(reference), list(reference.parameters())), strict=True
    ):
        weight.grad = gradient
    torch.optim.Adam(reference.parameters(), lr=0.005).step()
    after, by_adam = values(layers), values(reference)
    for name, value in after.items():
        if value.ndim != 4:
            torch.testing.assert_close(value, by_adam[name])
            continue
        moved = ((1 - 0.05 * 0.1) * before[name] - value).flatten(1)  # Muon's decay of weights is 0.1
        lengths = torch.linalg.svdvals(moved) / (0.05 * max(1.0, moved.shape[0] / moved.shape[1]) ** 0.5)
        assert bool(((lengths > 0.4) & (lengths < 1.3)).all()), lengths  # nearly the same in all directions


@pytest.mark.numeric
def test_without_a_rate_for_kernels_adam_updates_them() -> None:
    layers, reference = network(), network()
    MuonAndAdam(list(layers.parameters()), lr=0.01, kernel_lr=0.0).descend(loss_of(layers), 1.0)
    optimiser = torch.optim.Adam(reference.parameters(), lr=0.01)
    loss_of(reference).backward()
    optimiser.step()
    by_adam = values(reference)
    for name, value in values(layers).items():
        torch.testing.assert_close(value, by_adam[name])


@pytest.mark.parametrize("kernel_lr", [0.1, 0.0])
def test_loaded_muon_and_adam_continue_with_the_same_bits(kernel_lr: float) -> None:
    first, second = network(), network()
    one, other = (MuonAndAdam(list(each.parameters()), lr=0.01, kernel_lr=kernel_lr) for each in (first, second))
    for _ in range(2):
        one.descend(loss_of(first), 1.0)
    second.load_state_dict(first.state_dict())
    other.load_state_dict("optimiser", {name: value.clone() for name, value in one.state_dict("optimiser").items()})
    for _ in range(2):
        one.descend(loss_of(first), 1.0)
        other.descend(loss_of(second), 1.0)
    mine = values(second)
    assert all(torch.equal(value, mine[name]) for name, value in values(first).items())


@pytest.mark.parametrize("rates", [(0.1, 0.0), (0.0, 0.1)])
def test_a_state_of_other_weights_is_refused(rates: tuple[float, float]) -> None:
    layers = network()
    one, other = (MuonAndAdam(list(layers.parameters()), lr=0.01, kernel_lr=rate) for rate in rates)
    one.descend(loss_of(layers), 1.0)
    with pytest.raises(RunError, match="was used for other weights"):
        other.load_state_dict("optimiser", one.state_dict("optimiser"))


def test_a_kernel_of_another_memory_format_is_refused() -> None:
    with pytest.raises(RuntimeError, match="view"):
        MuonAndAdam([torch.rand(4, 3, 3, 3)], lr=0.01, kernel_lr=0.1)

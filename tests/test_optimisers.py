from __future__ import annotations

import torch

from dfml.optimisers import optimiser_tensors, restore_optimiser


def test_an_optimiser_goes_on_as_if_nothing_had_happened() -> None:
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
    stored = {name: value.clone() for name, value in optimiser_tensors("adam", optimiser).items()}
    restore_optimiser("adam", resumed, {"other.0.step": torch.tensor(9.0), **stored})
    for _ in range(3):
        step(first, optimiser)
        step(second, resumed)
    assert torch.equal(first, second)

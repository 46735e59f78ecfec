"""Implicit gradient alignment: learn from members one after the other, so that their gradients agree (papers 2.4).

Let g_i be the gradient of member i's loss L_i. m plain SGD steps of size b, one a member, lead from theta to theta~
with, averaged over all orders of the members,

    theta - theta~ = b * sum_i g_i - (b^2 / 2) * grad sum_{i<j} <g_i, g_j> + O(b^3)

A later member's gradient is taken where the earlier ones have led: at first order it changes by -b * H_j g_i, and in
half of all orders i comes before j; H_j g_i + H_i g_j is the gradient of <g_i, g_j>. Descending theta - theta~ hence
descends `sum_i L_i - (b / 2) * sum_{i<j} <g_i, g_j>`: it also raises the inner products of the members' gradients,
without a second derivative. The expansion holds for SGD; with Adam inside, as released, it is a heuristic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from dfml.learners.network import Parameters

MemberLoss = Callable[[Parameters], Tensor]
"""A member's loss as a function of the learner's parameters: a differentiable scalar."""

InnerOptimiser = Literal["sgd", "adam"]
"""`sgd` as the theory has it, `adam` as released."""


@dataclass(frozen=True)
class MemberUpdate:
    """What a round over the members teaches.

    Attributes:
        pseudo_gradient: For the outer optimiser to descend; named and shaped like the parameters, detached.
        losses: Of each member in the order of the round, where its gradient was taken; detached.
    """

    pseudo_gradient: Parameters
    losses: Float[Tensor, "members"]


def sequential(
    parameters: Parameters, losses: Sequence[MemberLoss], *, lr: float, optimiser: InnerOptimiser = "adam"
) -> MemberUpdate:
    """One inner update a member, each from where the one before ended (papers 2.4, step 1).

    Args:
        parameters: theta; neither changed nor given gradients.
        losses: One a member, in the order of the updates; to be drawn anew for every round.
        lr: Size of an inner update.
        optimiser: Of the inner updates. Members share its state, which begins fresh with every round.

    Returns:
        theta - theta~, first order: no graph outlives an update.
    """
    point = _leaves(parameters)
    leaves = list(point.values())
    inner = torch.optim.SGD(leaves, lr=lr) if optimiser == "sgd" else torch.optim.Adam(leaves, lr=lr)
    seen = []
    for loss in losses:
        inner.zero_grad()
        with torch.enable_grad():
            value = loss(point)
        # Only into these leaves: a loss may close over other tensors that take gradients, such as images.
        value.backward(inputs=leaves)  # type: ignore[no-untyped-call]
        inner.step()
        seen.append(value.detach())
    travelled = {name: (value - point[name]).detach() for name, value in parameters.items()}
    return MemberUpdate(travelled, torch.stack(seen))


def joint(parameters: Parameters, losses: Sequence[MemberLoss], *, lr: float) -> MemberUpdate:
    """The counterpart without alignment: every member's gradient is taken at the same parameters, and averaged.

    The mean gradient is multiplied by `lr` and the number of members: what `sequential` with SGD gives at first order,
    so that both are descended with the same outer learning rate.

    Args:
        parameters: theta; neither changed nor given gradients.
        losses: One a member; their order has no meaning.
        lr: Of the inner update that it stands for.
    """
    gradients, values = member_gradients(parameters, losses)
    scaled = {name: lr * torch.stack([each[name] for each in gradients]).sum(dim=0) for name in parameters}
    return MemberUpdate(scaled, values)


def member_gradients(
    parameters: Parameters, losses: Sequence[MemberLoss]
) -> tuple[list[Parameters], Float[Tensor, "members"]]:
    """Every member's gradient at the same parameters, zero where its loss does not depend on one, and its loss."""
    point = _leaves(parameters)
    gradients, values = [], []
    for loss in losses:
        with torch.enable_grad():
            value = loss(point)
        found = torch.autograd.grad(value, list(point.values()), allow_unused=True, materialize_grads=True)
        gradients.append(dict(zip(point, found, strict=True)))
        values.append(value.detach())
    return gradients, torch.stack(values)


def mean_cosine(gradients: Sequence[Parameters]) -> float:
    """Mean cosine of all pairs of members' gradients (papers 2.8, claim 8): whether members pull the same way.

    Args:
        gradients: Of at least two members, of the same parameters. A gradient of zero counts as at right angles to all.

    Returns:
        In [-1, 1]; NaN for fewer than two members.
    """
    if len(gradients) < 2:
        return float("nan")
    flat = torch.stack([torch.cat([value.flatten() for value in each.values()]) for each in gradients])
    directions = functional.normalize(flat, dim=1)
    first, second = torch.triu_indices(len(flat), len(flat), offset=1)
    return float((directions @ directions.T)[first, second].mean())


def _leaves(parameters: Parameters) -> Parameters:
    return {name: value.detach().clone().requires_grad_() for name, value in parameters.items()}

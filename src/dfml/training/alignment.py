"""Updates on several members whose gradients may conflict: aligned implicitly (FREE, BELL), or regularised (TGR).

Implicit alignment updates on one member after the other, so that their gradients agree.

Let g_i and H_i be the gradient and the Hessian of member i's loss L_i. Plain SGD steps of size b, one per member, lead
from theta to theta~. Averaged over all orders of the members,

    theta - theta~ = b * sum_i g_i - (b^2 / 2) * grad sum_{i<j} <g_i, g_j> + O(b^3)

The gradient of a later member j is taken after the step on an earlier member i, which changes it by -b * H_j g_i to
first order. In half of all orders i comes before j, and H_j g_i + H_i g_j is the gradient of <g_i, g_j>. A descent
along theta - theta~ hence decreases `sum_i L_i - (b / 2) * sum_{i<j} <g_i, g_j>`: it also increases the inner products
of the members' gradients, without second derivatives. The expansion holds for SGD; with Adam, as in the released code,
it is a heuristic.
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
"""A member's loss as a function of the learner's parameters; returns a differentiable scalar."""

InnerOptimiser = Literal["sgd", "adam"]
"""Optimiser of the sequential updates: `sgd` as in the theory, `adam` as in the released code."""


@dataclass(frozen=True)
class MemberUpdate:
    """The result of one pass over the members.

    Attributes:
        pseudo_gradient: Gradient for the outer optimiser, with the names and shapes of the parameters; detached.
        losses: Loss of each member in the order of the pass, at the point where its gradient was taken; detached.
    """

    pseudo_gradient: Parameters
    losses: Float[Tensor, "members"]


def sequential(
    parameters: Parameters, losses: Sequence[MemberLoss], *, lr: float, optimiser: InnerOptimiser = "adam"
) -> MemberUpdate:
    """One inner update per member, each starting where the previous one ended.

    Args:
        parameters: theta; they are not changed and get no gradients.
        losses: One loss per member, in the order of the updates; the order should be random in every pass.
        lr: Learning rate of the inner updates.
        optimiser: Optimiser of the inner updates. All members share its state, which is new in every pass.

    Returns:
        theta - theta~, detached: no graph is kept beyond an update.
    """
    point = _leaves(parameters)
    leaves = list(point.values())
    inner = _inner_optimiser(optimiser, point, lr)
    values = []
    for loss in losses:
        inner.zero_grad()
        with torch.enable_grad():
            value = loss(point)
        # Only to these leaves: a loss may refer to other tensors that require gradients, such as images.
        value.backward(inputs=leaves)  # type: ignore[no-untyped-call]
        inner.step()
        values.append(value.detach())
    return MemberUpdate(_pseudo_gradient(parameters, point), torch.stack(values))


def joint(
    parameters: Parameters, losses: Sequence[MemberLoss], *, lr: float, optimiser: InnerOptimiser = "adam"
) -> MemberUpdate:
    """The updates of `sequential` without alignment: all members' gradients are taken at the same parameters.

    It differs from `sequential` in nothing else, so that a comparison of both measures the alignment alone: the inner
    optimiser is the same, and takes one step per member. With SGD the result is `lr` times the sum of the gradients.

    Args:
        parameters: theta; they are not changed and get no gradients.
        losses: One loss per member; with Adam their order matters.
        lr: Learning rate of the inner updates.
        optimiser: See `sequential`.
    """
    gradients, values = member_gradients(parameters, losses)
    point = _leaves(parameters)
    inner = _inner_optimiser(optimiser, point, lr)
    for gradient in gradients:
        for name, leaf in point.items():
            leaf.grad = gradient[name]
        inner.step()
    return MemberUpdate(_pseudo_gradient(parameters, point), values)


def regularised(parameters: Parameters, losses: Sequence[MemberLoss], *, weight: float) -> MemberUpdate:
    """Gradient of the mean loss and the variance of the members' gradients, without second derivatives (TGR).

    With the mean g of the members' gradients g_i, the gradient of member i is taken at theta - r * (g - g_i). To first
    order in r, the mean of these is the gradient of `mean_i L_i + (r / 2) * mean_i ||g_i - g||^2`.

    Args:
        parameters: theta; they are not changed and get no gradients.
        losses: One loss per member.
        weight: r; 0: the gradient of the mean loss.
    """
    gradients, values = member_gradients(parameters, losses)
    mean = {name: torch.stack([each[name] for each in gradients]).mean(dim=0) for name in parameters}
    if weight and len(losses) > 1:
        moved = []
        for loss, own in zip(losses, gradients, strict=True):
            point = {n: value.detach() - weight * (mean[n] - own[n]) for n, value in parameters.items()}
            moved.append(member_gradients(point, [loss])[0][0])
        mean = {name: torch.stack([each[name] for each in moved]).mean(dim=0) for name in parameters}
    return MemberUpdate(mean, values)


def member_gradients(
    parameters: Parameters, losses: Sequence[MemberLoss]
) -> tuple[list[Parameters], Float[Tensor, "members"]]:
    """Gradients and losses of all members at the same parameters.

    A gradient is zero for parameters that a member's loss does not depend on.
    """
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
    """Mean cosine between the gradients of all pairs of members.

    Args:
        gradients: One gradient per member, of the same parameters. A gradient of zero has cosine 0 with all others.

    Returns:
        The mean cosine, in [-1, 1]; NaN for fewer than two members.
    """
    if len(gradients) < 2:
        return float("nan")
    flat = torch.stack([torch.cat([value.flatten() for value in each.values()]) for each in gradients])
    directions = functional.normalize(flat, dim=1)
    first, second = torch.triu_indices(len(flat), len(flat), offset=1)
    return float((directions @ directions.T)[first, second].mean())


def _leaves(parameters: Parameters) -> Parameters:
    return {name: value.detach().clone().requires_grad_() for name, value in parameters.items()}


def _inner_optimiser(name: InnerOptimiser, point: Parameters, lr: float) -> torch.optim.Optimizer:
    return (torch.optim.SGD if name == "sgd" else torch.optim.Adam)(list(point.values()), lr=lr)


def _pseudo_gradient(parameters: Parameters, point: Parameters) -> Parameters:
    return {name: (value - point[name]).detach() for name, value in parameters.items()}

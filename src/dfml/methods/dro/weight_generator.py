"""A network that maps a task embedding to the weights of a backbone.

A network with one output per weight would need millions of weights itself. But its loss is a squared distance to the
members' weights, and any component outside of the span of their differences can only increase it. Within the span, the
weights are given by one coefficient per member: the mean of all members, plus the coefficients times the members'
deviations from the mean. The network generates these coefficients. It is small, the loss depends on the weights only
through their Gram matrix, which is computed once, and a ResNet costs no more than a Conv4.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from dfml import seeds
from dfml.learners.network import Parameters

_SAME = 1e-12  # relative to a tensor's squared norm; well above the rounding errors where all members are equal


class MemberWeights:
    """The backbones of members that share one architecture.

    Args:
        backbones: Weights of every member, with the same names; not copied.

    Attributes:
        gram: Gram matrix of the members' deviations from their mean, members x members. Every tensor in which members
            differ is divided by its root mean square deviation, so that it has the same weight whatever its size; the
            trace is the number of members. Zero if all members are the same.
    """

    def __init__(self, backbones: Sequence[Parameters]) -> None:
        self._backbones = backbones
        like = next(iter(backbones[0].values()))
        total, differing = like.new_zeros(len(backbones), len(backbones)), 0
        for name in backbones[0]:
            mean, deviations = self._deviations(name)
            gram = deviations.flatten(1) @ deviations.flatten(1).T
            if gram.trace() > _SAME * len(backbones) * mean.square().sum():
                total += gram * (len(backbones) / gram.trace())
                differing += 1
        self.gram = total / max(differing, 1)

    def _deviations(self, name: str) -> tuple[Tensor, Tensor]:
        stacked = torch.stack([weights[name] for weights in self._backbones])
        mean = stacked.mean(dim=0)
        return mean, stacked.sub_(mean)

    def mix(self, coefficients: Float[Tensor, "members"]) -> Parameters:
        """The mean of the members' weights, plus each member's deviation from it times its coefficient."""
        mixed = {}
        for name in self._backbones[0]:
            mean, deviations = self._deviations(name)
            mixed[name] = mean + torch.tensordot(coefficients.to(mean), deviations, dims=1)
        return mixed


class WeightGenerator:
    """A network with two hidden layers from a task embedding to coefficients, and an embedding for every member.

    Args:
        members: Number of members.
        embedding_size: Dimension of the embeddings.
        hidden: Width of the hidden layers.
        seed: Seed of the initial weights and embeddings.
        device: Device of the parameters.

    Attributes:
        parameters: Leaf tensors that require gradients. The last layer is zero at first, so that the mean of the
            members is generated for all embeddings.
    """

    def __init__(self, members: int, embedding_size: int, hidden: int, seed: int, device: torch.device) -> None:
        def normal(name: str, rows: int, columns: int, scale: float) -> Tensor:
            return scale * torch.randn(rows, columns, generator=seeds.generator(seed, "generator", name))

        values = {
            "embeddings": normal("embeddings", members, embedding_size, 1.0),
            "first.weight": normal("first", hidden, embedding_size, 1.0),  # the squares of an embedding sum to 1
            "first.bias": torch.zeros(hidden),
            "second.weight": normal("second", hidden, hidden, math.sqrt(2.0 / hidden)),
            "second.bias": torch.zeros(hidden),
            "coefficients.weight": torch.zeros(members, hidden),
            "coefficients.bias": torch.zeros(members),
        }
        self.parameters: Parameters = {name: value.to(device).requires_grad_() for name, value in values.items()}

    def embeddings(self) -> Float[Tensor, "members size"]:
        """Embeddings of all members, with mean zero and a root mean square length of one.

        Without this scaling, the embeddings could grow until no perturbation matters.
        """
        centred = self.parameters["embeddings"] - self.parameters["embeddings"].mean(dim=0)
        return centred / root_mean_square(centred)

    def coefficients(self, embeddings: Float[Tensor, "tasks size"]) -> Float[Tensor, "tasks members"]:
        """Coefficients of the members' deviations from their mean, for `MemberWeights.mix`."""
        values = embeddings
        for layer in ("first", "second"):
            values = functional.silu(self._linear(layer, values))
        return self._linear("coefficients", values)

    def _linear(self, layer: str, values: Tensor) -> Tensor:
        return functional.linear(values, self.parameters[f"{layer}.weight"], self.parameters[f"{layer}.bias"])

    def losses(
        self, embeddings: Float[Tensor, "members size"], gram: Float[Tensor, "members members"]
    ) -> Float[Tensor, "members"]:
        """Squared distances of the generated weights to the members' weights.

        Args:
            embeddings: Embedding of each member's task.
            gram: `MemberWeights.gram`.

        Returns:
            One loss per member; their mean is 1 if the mean of all members is generated.
        """
        errors = self.coefficients(embeddings) - torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        return ((errors @ gram) * errors).sum(dim=1)


def worst_case_perturbations(
    losses: Callable[[Tensor], Tensor],
    points: Float[Tensor, "points size"],
    start: Float[Tensor, "points size"],
    *,
    radius: float,
    steps: int,
) -> Float[Tensor, "points size"]:
    """Perturbations of points that increase the sum of their losses most, within a Wasserstein ball.

    The perturbations have a root mean square length of at most `radius`, so that the 2-Wasserstein distance between the
    distributions of the points before and after is at most `radius`, and points where the loss grows faster may move
    further. They are found by projected gradient ascent with normalised gradients. The ascent starts from a given
    direction, since there is no gradient to follow at a minimum of the loss.

    Args:
        losses: Function that returns one loss per point; each must depend on its own point only.
        points: The points.
        start: Direction of the initial perturbation; it must not be zero, and its length does not matter.
        radius: Radius of the ball.
        steps: Number of ascent steps; together they are as long as the diameter of the ball.

    Returns:
        The perturbations, detached.
    """
    perturbations = start * (radius / root_mean_square(start))
    for _ in range(steps):
        perturbations = perturbations.detach().requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(losses(points + perturbations).sum(), perturbations)
        tiny = torch.finfo(gradient.dtype).tiny  # where the loss is constant, nothing moves
        ascent = gradient / root_mean_square(gradient).clamp(min=tiny) * (2.0 * radius / steps)
        perturbations = perturbations + ascent
        perturbations = perturbations * (radius / root_mean_square(perturbations)).clamp(max=1.0)
    return perturbations.detach()


def root_mean_square(points: Float[Tensor, "points size"]) -> Float[Tensor, ""]:
    """Root mean square of the lengths of points."""
    return points.square().sum(dim=1).mean().sqrt()

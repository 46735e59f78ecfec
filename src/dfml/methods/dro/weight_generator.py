"""A network that generates networks: a task embedding goes in, the weights of a backbone come out.

A network with one output for every weight would itself need millions of weights. But its loss is a squared distance to
the members' weights, which whatever lies outside of the span of their differences can only make larger; and within the
span, one number for every member says it all: how far to go from the mean of all towards that member. These shares are
what is generated. The network is tiny, the loss needs nothing of the weights but their Gram matrix, which is computed
once, and a ResNet costs no more to learn than a Conv4.
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

_SAME = 1e-12  # of a tensor's squared norm: well above what rounding leaves where all members are equal


class MemberWeights:
    """The backbones of members that share one architecture.

    Args:
        backbones: Weights of every member, by the same names; they are referred to, not copied.

    Attributes:
        gram: Inner products of what members differ in from their mean. Every tensor that differs is first divided by
            its root mean square deviation and then counts the same, however many weights it has; the trace is the
            number of members. Zero where all members are the same.
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

    def mix(self, shares: Float[Tensor, "members"]) -> Parameters:
        """The mean of the members, plus every member's difference from it times its share."""
        mixed = {}
        for name in self._backbones[0]:
            mean, deviations = self._deviations(name)
            mixed[name] = mean + torch.tensordot(shares.to(mean), deviations, dims=1)
        return mixed


class WeightGenerator:
    """Two hidden layers from a task embedding to shares of members, and an embedding for every member.

    Args:
        members: How many.
        embedding_size: Numbers in an embedding.
        hidden: Units of a layer.
        seed: Of the first weights and embeddings.

    Attributes:
        parameters: Leaves that take gradients. The last layer starts at zero, and so with the mean of the members.
    """

    def __init__(self, members: int, embedding_size: int, hidden: int, seed: int, device: torch.device) -> None:
        def draw(name: str, rows: int, columns: int, scale: float) -> Tensor:
            return scale * torch.randn(rows, columns, generator=seeds.generator(seed, "generator", name))

        values = {
            "embeddings": draw("embeddings", members, embedding_size, 1.0),
            "first.weight": draw("first", hidden, embedding_size, 1.0),  # an embedding's squares sum to 1, not to size
            "first.bias": torch.zeros(hidden),
            "second.weight": draw("second", hidden, hidden, math.sqrt(2.0 / hidden)),
            "second.bias": torch.zeros(hidden),
            "shares.weight": torch.zeros(members, hidden),
            "shares.bias": torch.zeros(members),
        }
        self.parameters: Parameters = {name: value.to(device).requires_grad_() for name, value in values.items()}

    def embeddings(self) -> Float[Tensor, "members size"]:
        """The members' embeddings, with mean zero and a root mean square length of one, so that lengths mean something.

        Otherwise embeddings could escape from any perturbation by growing.
        """
        centred = self.parameters["embeddings"] - self.parameters["embeddings"].mean(dim=0)
        return centred / root_mean_square(centred)

    def shares(self, embeddings: Float[Tensor, "tasks size"]) -> Float[Tensor, "tasks members"]:
        """How far to go from the mean of the members' weights towards every member's."""
        values = embeddings
        for layer in ("first", "second"):
            values = functional.silu(self._linear(layer, values))
        return self._linear("shares", values)

    def _linear(self, layer: str, values: Tensor) -> Tensor:
        return functional.linear(values, self.parameters[f"{layer}.weight"], self.parameters[f"{layer}.bias"])

    def losses(
        self, embeddings: Float[Tensor, "members size"], gram: Float[Tensor, "members members"]
    ) -> Float[Tensor, "members"]:
        """Squared distance of the weights generated for every member to its own; on average 1 for the mean of all."""
        missing = self.shares(embeddings) - torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        return ((missing @ gram) * missing).sum(dim=1)


def worst_moves(
    losses: Callable[[Tensor], Tensor],
    points: Float[Tensor, "points size"],
    start: Float[Tensor, "points size"],
    *,
    radius: float,
    steps: int,
) -> Float[Tensor, "points size"]:
    """Where to move points so that the sum of their losses grows most, within a Wasserstein ball.

    The distribution of the moved points is at most `radius` from that of the points in the 2-Wasserstein distance: the
    moves have a root mean square length of `radius` at most, so points that hurt more may move further. The ascent is
    along the normalised gradient, from a first move in a given direction: at a minimum of the loss there is no gradient
    to follow.

    Args:
        losses: Of every point; one's depends on that point only.
        points: Where they are.
        start: Direction of the first move; its length does not matter, but must not be zero.
        radius: Of the ball.
        steps: Of the ascent; together they can cross the ball.
    """
    moves = start * (radius / root_mean_square(start))
    for _ in range(steps):
        moves = moves.detach().requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(losses(points + moves).sum(), moves)
        tiny = torch.finfo(gradient.dtype).tiny  # where the loss is flat, nothing moves
        moves = moves + gradient / root_mean_square(gradient).clamp(min=tiny) * (2.0 * radius / steps)
        moves = moves * (radius / root_mean_square(moves)).clamp(max=1.0)
    return moves.detach()


def root_mean_square(points: Float[Tensor, "points size"]) -> Float[Tensor, ""]:
    """Of the lengths of points."""
    return points.square().sum(dim=1).mean().sqrt()

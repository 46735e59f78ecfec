"""`zeroth_order`: images of members that only predict, along gradients that are estimated from queries (BiDf-MKD).

Hu et al., "Learning to Learn from APIs: Black-Box Data-Free Meta-Learning", ICML 2023, arXiv 2305.18413. A generator is
trained for every member from scratch, as in CMI; the gradient of the loss with respect to an image x of d pixel values
is estimated from the member's predictions at x and at q points around it:

    g = (d / q) * sum_k u_k * (L(x + mu * u_k) - L(x)) / mu,    u_k uniform on the unit sphere

What needs no member (image priors, student) is differentiated exactly. Differences from the released code: the
difference is taken of the member's log-probabilities and then multiplied by the derivative of L with respect to these,
which is the same for small mu and serves any loss; points outside of [0, 1] are moved to its border, because a service
may refuse them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor
from torch.autograd.function import once_differentiable

from dfml import seeds
from dfml.inversion.engine import Engine, InversionRun, StudentRowLogits, Target
from dfml.inversion.generator_based import GeneratorConfig, GeneratorInversionRun
from dfml.inversion.loss import InversionWeights
from dfml.inversion.scratch_generators import create_scratch_generators
from dfml.zoo.members import Predicts, teacher_logits
from dfml.zoo.pretrained import Preprocessing
from dfml.zoo.statistics import LayerStatistics

# Images per query. More of 32 x 32 pixels leave the caches of a CPU, and take three times as long each.
_IMAGES_PER_QUERY = {"cpu": 128}
_IMAGES_PER_QUERY_ELSEWHERE = 4096  # bounds the memory


class ZerothOrderConfig(GeneratorConfig):
    """Settings of the generator from scratch and of the estimates; defaults are those of the released code."""

    steps: PositiveInt = 200
    """Number of Adam steps for a member in a round. A round asks a member about `steps * (directions + 1)` images for
    every recovered one."""
    directions: PositiveInt = 100
    """Number of random directions per image and step in which the member is queried (q in BiDf-MKD)."""
    smoothing: PositiveFloat = 0.005
    """Length of the step in each direction (mu in BiDf-MKD), for images in [0, 1]."""
    weights: InversionWeights = InversionWeights(
        batch_norm=0.0, disagreement=1.0, total_variation=0.0, l2=0.0, jitter=0
    )
    """Weights of the terms of the inversion loss, and the random views of the images. Batch-norm statistics of a member
    that only predicts are not known: their term is 0 whatever its weight."""


class EstimatedMember:
    """A member as an `InvertibleModel`: its log-probabilities have a gradient, which is estimated from queries.

    Args:
        member: The member.
        directions: See `ZerothOrderConfig`.
        smoothing: See there.
        generator: Random generator of the directions, on the CPU.
    """

    def __init__(self, member: Predicts, directions: int, smoothing: float, generator: torch.Generator) -> None:
        self.member, self.directions, self.smoothing, self.generator = member, directions, smoothing, generator

    @property
    def size(self) -> int:
        """See `InvertibleModel.size`."""
        return self.member.preprocessing.size

    def logits(self, images: Float[Tensor, "images 3 size size"]) -> Float[Tensor, "images outputs"]:
        """Log-probabilities (of a differentiable member, logits); differentiable once, by an estimate."""
        found: Tensor = _Estimate.apply(images, self)
        return found

    def logits_and_statistics(
        self, images: Float[Tensor, "images 3 size size"]
    ) -> tuple[Float[Tensor, "images outputs"], list[LayerStatistics]]:
        """See `logits`; statistics are not known."""
        return self.logits(images), []

    @torch.no_grad()
    def estimate(
        self,
        images: Float[Tensor, "images 3 size size"],
        logits: Float[Tensor, "images outputs"],
        gradient: Float[Tensor, "images outputs"],
    ) -> Float[Tensor, "images 3 size size"]:
        """Estimate the gradient of a loss with respect to the images.

        Args:
            images: The images in [0, 1].
            logits: The member's logits for them.
            gradient: Derivative of the loss with respect to these logits.
        """
        together = _IMAGES_PER_QUERY.get(images.device.type, _IMAGES_PER_QUERY_ELSEWHERE)
        count, at_once = len(images), max(1, together // len(images))
        total = torch.zeros_like(images)
        for first in range(0, self.directions, at_once):
            drawn = min(at_once, self.directions - first)
            normal = torch.randn(drawn, *images.shape, generator=self.generator).to(images)
            units = normal / normal.flatten(2).norm(dim=2)[:, :, None, None, None]
            points = (images + self.smoothing * units).clamp(0.0, 1.0)
            found = teacher_logits(self.member, points.flatten(0, 1)).view(drawn, count, -1)
            slopes = ((found - logits) * gradient).sum(dim=2) / self.smoothing
            total += (slopes[:, :, None, None, None] * units).sum(dim=0)
        return total * (images[0].numel() / self.directions)


class _Estimate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, model: EstimatedMember) -> Tensor:
        logits = teacher_logits(model.member, images.clamp(0.0, 1.0))
        ctx.save_for_backward(images, logits)
        ctx.model = model
        return logits

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        images, logits = ctx.saved_tensors
        return ctx.model.estimate(images, logits, gradients[0]), None


class ZerothOrderInversion(Engine):
    """Trains a generator from scratch for every member by estimated gradients, and learns nothing from round to round.

    Args:
        settings: Settings.
        preprocessing: Size of the generated images, and the normalised space in which image priors act.
        seed: Seed of all draws.
        device: Device of the generators.
        stacked: Not used: members that only predict cannot be stacked.
    """

    def __init__(
        self,
        settings: ZerothOrderConfig,
        preprocessing: Preprocessing,
        *,
        seed: int = 0,
        device: torch.device | None = None,
        stacked: bool = False,
    ) -> None:
        self.config, self.steps = settings, settings.steps
        self.queries_per_image = settings.latent_draws + settings.steps * (settings.directions + 1)
        self._preprocessing, self._seed, self._device = preprocessing, seed, device

    def start(
        self, targets: Sequence[Target], round_index: int = 0, *, student: StudentRowLogits | None = None
    ) -> InversionRun:
        """See `Engine.start`."""
        networks = create_scratch_generators(
            self.config, self._preprocessing, targets, seed=self._seed, round_index=round_index, device=self._device
        )
        return _ZerothOrderRun(
            self.config,
            networks[0],
            [dict(network.named_parameters()) for network in networks],
            self._preprocessing,
            targets,
            seed=self._seed,
            round_index=round_index,
            student=student,
        )


class _ZerothOrderRun(GeneratorInversionRun):
    def model(self, index: int) -> EstimatedMember:
        assert isinstance(self.config, ZerothOrderConfig)
        target = self.targets[index]
        generator = seeds.generator(self._seed, "directions", self._round_index, self.done, target.name)
        return EstimatedMember(target.classifier, self.config.directions, self.config.smoothing, generator)

    def images_per_pass(self, index: int, memory: int) -> int:
        """All: no graph of a member is kept, and `estimate` bounds the images of a query."""
        return len(self.targets[index].labels)

"""Inversion by generators: each member gets a copy of one generator, which some steps adapt to the member.

Shared by FIVE, FastDFKD and CMI, which differ in the weights that the copies start from and in what is kept afterwards.

Memory: what a member's backward pass takes is bounded by the engine's memory limit. More images than fit are passed
through the member in chunks (`dfml.inversion.chunked_gradient`); their exact gradient then goes back through the
generator once. The generator's own activations are those of all images of a target, because it normalises over them;
they are not bounded by the limit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor
from torch.func import functional_call

from dfml import seeds
from dfml.backbones.image_generator import ImageGenerator
from dfml.inversion.chunked_gradient import chunked_inversion_loss, images_per_pass
from dfml.inversion.engine import EmaStatistics, Engine, InversionRun, StudentRowLogits, Target
from dfml.inversion.loss import InversionLoss, InversionWeights, inversion_loss
from dfml.inversion.views import AnyView, sample_view
from dfml.settings import FrozenSettings
from dfml.zoo.pretrained import Preprocessing, PretrainedClassifier
from dfml.zoo.stack import MemberStack, StackedMember, stack_key

GeneratorWeights = dict[str, Tensor]


class GeneratorConfig(FrozenSettings):
    """Settings of a generator and of its steps on one member; the defaults are those of FREE."""

    steps: PositiveInt = 5
    """Number of steps on a member (k in FREE)."""
    lr: PositiveFloat = 0.001
    """Learning rate of Adam for the member's copy of the generator."""
    latent_lr: NonNegativeFloat = 0.001
    """Learning rate of Adam for the latent vectors."""
    beta1: float = Field(default=0.5, ge=0.0, lt=1.0)
    """First momentum coefficient of Adam; the second is 0.999."""
    latent: PositiveInt = 256
    """Length of a latent vector."""
    width: PositiveInt = 128
    """Number of channels of the generator's first feature maps; its cost grows with the square."""
    label_input: NonNegativeFloat = 0.0
    """Scale of a random code of the label that is added to the latent vector of an image; 0 (FREE): the generator gets
    no label as input."""
    weights: InversionWeights = InversionWeights(
        batch_norm=0.0, disagreement=1.0, total_variation=0.0, l2=0.0, jitter=4, wrap=False, flip=True
    )


@dataclass
class GeneratorCopy:
    """A member's copy of the generator and the gradients of its steps.

    Attributes:
        weights: Weights of the copy (phi_i in FREE), leaf tensors.
        latents: Latent vectors (z_i), a leaf tensor, one row per image.
        last: Gradient of the weights at the last step.
        total: Sum of the gradients of all steps; empty unless they are accumulated.
    """

    weights: GeneratorWeights
    latents: Tensor
    last: GeneratorWeights
    total: GeneratorWeights


class GeneratorInversionRun(InversionRun):
    """The inversion of some members by copies of a generator.

    Args:
        config: Settings of the steps.
        network: The generator as a function; its own weights are not used.
        starts: For every target the weights that its copy starts from.
        preprocessing: Size, mean and standard deviation of the generated images; members resize and normalise on their
            own.
        targets: See `Engine.start`.
        seed: Seed of latent vectors and views.
        round_index: See `Engine.start`.
        student: See `Engine.start`.
        previous_statistics: See `InversionRun`.
        accumulate: Whether to sum the gradients of all steps.
        stacked: Whether targets of one architecture with equally many images are evaluated in one call, as many of them
            as the memory allows.
        memory: Memory in bytes that one backward pass through members may take; see `Engine.memory_limit`.
    """

    def __init__(
        self,
        config: GeneratorConfig,
        network: ImageGenerator,
        starts: Sequence[GeneratorWeights],
        preprocessing: Preprocessing,
        targets: Sequence[Target],
        *,
        seed: int,
        round_index: int,
        student: StudentRowLogits | None = None,
        previous_statistics: Sequence[EmaStatistics] | None = None,
        accumulate: bool = False,
        stacked: bool = False,
        memory: int = Engine.memory_limit,
    ) -> None:
        super().__init__(targets, student, previous_statistics)
        self.config, self.preprocessing = config, preprocessing
        self._network, self._seed, self._round_index = network, seed, round_index
        self._accumulate = accumulate
        self._last: dict[int, InversionLoss] = {}
        self.copies = [self._copy(start, target) for start, target in zip(starts, self.targets, strict=True)]
        self.chunks = [self._images_per_pass(index, memory) for index in range(len(self.targets))]
        self._groups = _groups(self.targets, self.previous_statistics, self.chunks) if stacked else {}
        self._stacks = {key: MemberStack([self.targets[i].network for i in g]) for key, g in self._groups.items()}
        weights = [value for copy in self.copies for value in copy.weights.values()]
        weights += [value for index in range(len(self.copies)) for value in self.extra_weights(index)]
        latents = [copy.latents for copy in self.copies]
        self._optimiser = torch.optim.Adam(
            [{"params": weights, "lr": config.lr}, {"params": latents, "lr": config.latent_lr}],
            betas=(config.beta1, 0.999),
            foreach=True,
        )

    def _copy(self, start: GeneratorWeights, target: Target) -> GeneratorCopy:
        weights = {name: value.detach().clone().requires_grad_() for name, value in start.items()}
        generator = seeds.generator(self._seed, "latents", self._round_index, target.name)
        latents = torch.randn(len(target.labels), self._network.latent, generator=generator)
        if self.config.label_input:
            latents = latents + self.config.label_input * self._codes(target)
        # A float64 generator draws the same latents.
        latents = latents.to(target.labels.device, next(iter(weights.values())).dtype).requires_grad_()
        return GeneratorCopy(weights, latents, {}, {})

    @property
    def groups(self) -> list[list[int]]:
        """Indices of the targets that are evaluated in one call, for every such call."""
        return list(self._groups.values())

    def _images_per_pass(self, index: int, memory: int) -> int:
        size = self.preprocessing.size
        sample = self.copies[index].latents.detach().new_zeros(len(self.targets[index].labels), 3, size, size)
        return images_per_pass(self.targets[index].network, sample, memory)

    def _codes(self, target: Target) -> Tensor:
        codes = [
            # The same codes in every run: a generator that one run has trained may be used by another.
            torch.randn(self._network.latent, generator=seeds.generator(0, "code", output))
            for output in range(len(target.network.labels))
        ]
        return torch.stack(codes)[target.labels.cpu()]

    def step(self) -> list[InversionLoss]:
        """See `InversionRun.step`."""
        generator = seeds.generator(self._seed, "view", self._round_index, self.done)
        most = max(len(target.labels) for target in self.targets)
        view = sample_view(self.config.weights, generator, most, self.preprocessing.size)
        losses: dict[int, InversionLoss] = {}
        for key, group in self._groups.items():
            losses |= self._stacked(self._stacks[key], group, view)
        for index, target in enumerate(self.targets):
            if target.steps is not None and self.done >= target.steps:
                self._stop(index)
            elif index not in losses:
                losses[index] = self._one(index, view)
        for index, loss in losses.items():
            copy = self.copies[index]
            self.ema_statistics[index] = loss.ema_statistics
            if self._accumulate:
                total = copy.total
                copy.total = {n: total[n] + gradient if total else gradient for n, gradient in copy.last.items()}
            for name, value in copy.weights.items():
                value.grad = copy.last[name]
        self._optimiser.step()
        self.done += 1
        self._last |= {index: loss.detach() for index, loss in losses.items()}
        return [self._last[index] for index in range(len(self.targets))]

    def _stop(self, index: int) -> None:
        """Drop the gradients of a target that has taken all its steps, so that the optimiser leaves it as it is."""
        copy = self.copies[index]
        for value in (copy.latents, *copy.weights.values(), *self.extra_weights(index)):
            value.grad = None

    def _one(self, index: int, view: AnyView) -> InversionLoss:
        copy, target = self.copies[index], self.targets[index]
        generated = self._generate(copy.weights, copy.latents)
        previous = self.previous_statistics[index]
        loss = self._loss(target.network, generated, target.labels, target.rows, previous, view, self.chunks[index])
        extra, weights = self.extra_loss(index, generated), self.extra_weights(index)
        total = loss.total if extra is None else loss.total + extra
        leaves = [copy.latents, *weights, *copy.weights.values()]
        copy.latents.grad, *gradients = torch.autograd.grad(total, leaves)
        for value, gradient in zip(weights, gradients, strict=False):
            value.grad = gradient
        copy.last = dict(zip(copy.weights, gradients[len(weights) :], strict=True))
        return loss

    def extra_weights(self, index: int) -> Sequence[Tensor]:
        """Weights of `extra_loss` that are trained together with one target's generator."""
        return ()

    def extra_loss(self, index: int, images: Float[Tensor, "images 3 size size"]) -> Tensor | None:
        """A further term of one target's loss; None: there is none."""
        return None

    def _stacked(self, stack: MemberStack, group: list[int], view: AnyView) -> dict[int, InversionLoss]:
        copies, targets = [self.copies[i] for i in group], [self.targets[i] for i in group]

        def gradient(
            member: StackedMember,
            weights: GeneratorWeights,
            latents: Tensor,
            labels: Tensor,
            rows: Tensor | None,
            previous: tuple[Tensor, ...],
        ) -> Any:
            def loss(weights: GeneratorWeights, latents: Tensor) -> tuple[Tensor, Any]:
                found = self._loss(member, self._generate(weights, latents), labels, rows, previous, view)
                return found.total, (found.parts, found.ema_statistics)

            return torch.func.grad_and_value(loss, argnums=(0, 1), has_aux=True)(weights, latents)

        weights = {name: torch.stack([copy.weights[name].detach() for copy in copies]) for name in copies[0].weights}
        rows = None if targets[0].rows is None else torch.stack([t.rows for t in targets if t.rows is not None])
        (weight_gradients, latent_gradients), (totals, (parts, ema_statistics)) = stack.map(
            gradient,
            torch.arange(len(group), device=copies[0].latents.device),
            weights,
            torch.stack([copy.latents.detach() for copy in copies]),
            torch.stack([target.labels for target in targets]),
            rows,
            tuple(torch.stack(each) for each in zip(*(self.previous_statistics[i] for i in group), strict=True)),
        )
        losses = {}
        for place, index in enumerate(group):
            copies[place].last = {name: value[place] for name, value in weight_gradients.items()}
            copies[place].latents.grad = latent_gradients[place]
            losses[index] = InversionLoss(
                totals[place],
                {name: value[place] for name, value in parts.items()},
                tuple(value[place] for value in ema_statistics),
            )
        return losses

    def _generate(self, weights: GeneratorWeights, latents: Tensor) -> Tensor:
        images: Tensor = functional_call(self._network, weights, (latents,))
        return images

    def _loss(
        self,
        classifier: PretrainedClassifier | StackedMember,
        images: Tensor,
        labels: Tensor,
        rows: Tensor | None,
        previous_statistics: Sequence[Tensor],
        view: AnyView,
        chunk: int | None = None,
    ) -> InversionLoss:
        pixels = self.preprocessing.normalise(images)
        compute = inversion_loss if chunk is None else partial(chunked_inversion_loss, chunk=chunk)
        return compute(
            classifier,
            pixels,
            labels,
            self.preprocessing,
            self.config.weights,
            view,
            student=self.student_for(rows),
            previous_statistics=previous_statistics,
        )

    @torch.no_grad()
    def images(self) -> list[Tensor]:
        """Images in the size that the generator produces."""
        return [self._generate(copy.weights, copy.latents) for copy in self.copies]


def _groups(
    targets: Sequence[Target], previous: Sequence[EmaStatistics], chunks: Sequence[int]
) -> dict[object, list[int]]:
    """Targets that can be evaluated in one call; a member's first round has no previous statistics to stack.

    Args:
        targets: All targets.
        previous: For every target the statistics of earlier rounds.
        chunks: For every target the number of images that may be in one backward pass.
    """
    groups: dict[object, list[int]] = {}
    places: Counter[object] = Counter()
    for index, (target, seen, chunk) in enumerate(zip(targets, previous, chunks, strict=True)):
        at_once = chunk // len(target.labels)  # members in one call
        if at_once and target.steps is None:
            key = (stack_key(target.network), len(target.labels), target.rows is None, len(seen))
            groups.setdefault((key, places[key] // at_once), []).append(index)
            places[key] += 1
    return groups

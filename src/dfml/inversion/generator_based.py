"""Inversion by generators: for each member, a network that turns random vectors into images is trained on its loss.

Shared by three engines (docs/papers.md): FIVE, the fast inversion of FREE (Wei et al., CVPR 2024), FastDFKD (Fang et
al., AAAI 2022) and CMI (Fang et al., IJCAI 2021). In every round each member gets generator weights of its own, a
*copy*: for FIVE and FastDFKD a copy of the meta-generator, for CMI new random weights. Some optimiser steps adapt the
copy, together with one latent vector per image, to the member; then the copy generates the images. The engines differ
in the weights that a copy starts from, in additional loss terms, and in what they keep for the next round.

Memory: the engine's memory limit bounds the backward pass through a member. More images than fit are passed through
the member in chunks (`dfml.inversion.chunked_gradient`), whose exact gradient then goes back through the generator
once. The limit does not bound the generator's own activations: its batch-norm layers use the statistics of all images
of a target, which therefore pass through it together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from torch import Tensor
from torch.func import functional_call

from dfml import seeds
from dfml.backbones.image_generator import ImageGenerator
from dfml.inversion.chunked_gradient import chunked_inversion_loss, images_per_pass
from dfml.inversion.engine import EmaStatistics, Engine, InversionRun, StudentRowLogits, Target
from dfml.inversion.latent_vectors import assign_to_labels, label_codes
from dfml.inversion.loss import InversionLoss, InversionWeights, InvertibleModel, inversion_loss
from dfml.inversion.target_groups import group_targets
from dfml.inversion.views import AnyView, sample_view
from dfml.settings import FrozenSettings
from dfml.zoo.members import teacher_logits
from dfml.zoo.pretrained import Preprocessing
from dfml.zoo.stack import MemberStack, StackedMember

GeneratorWeights = dict[str, Tensor]


class GeneratorConfig(FrozenSettings):
    """Settings of a generator and of its steps on one member; the defaults are those of FREE."""

    steps: PositiveInt = 5
    """Number of Adam steps for a member in a round (k in FREE)."""
    lr: PositiveFloat = 0.001
    """Learning rate of Adam for the member's copy of the generator."""
    latent_lr: NonNegativeFloat = 0.001
    """Learning rate of Adam for the latent vectors."""
    beta1: float = Field(default=0.5, ge=0.0, lt=1.0)
    """First momentum coefficient of Adam; the second is 0.999."""
    latent: PositiveInt = 256
    """Length of a latent vector."""
    width: PositiveInt = 128
    """Number of channels of the generator's first feature maps; the later ones have as many or half. The number of its
    operations grows with the square."""
    label_input: NonNegativeFloat = 0.0
    """Scale s of the label in the generator's input: an image of label y starts from the latent vector z + s * c[y]; z
    and the fixed code c[y] of each label are standard normal. 0 (FREE): the generator's input has no label."""
    latent_draws: NonNegativeInt = 0
    """Number of latent vectors drawn for every image, before the first step. The member classifies the images that the
    copy generates from all of them, and those are kept, one per image, whose log-probabilities of the images' labels
    have the largest sum (`dfml.inversion.latent_vectors`). 0 (FREE): one vector per image, whatever its label.
    Not together with `label_input`, whose vectors have a label."""
    weights: InversionWeights = InversionWeights(
        batch_norm=0.0, disagreement=1.0, total_variation=0.0, l2=0.0, jitter=4, wrap=False, flip=True
    )
    """Weights of the terms of the inversion loss, and the random views of the images."""

    @model_validator(mode="after")
    def _one_way_to_labels(self) -> GeneratorConfig:
        if self.label_input and self.latent_draws:
            raise ValueError("label_input gives latent vectors their labels, latent_draws chooses these: set one to 0")
        return self


@dataclass
class GeneratorCopy:
    """A member's copy of the generator and the gradients of its steps.

    Attributes:
        weights: Parameters of the copy (phi_i in FREE) by name; leaf tensors that require gradients.
        latents: Latent vectors (z_i), `(images, latent)`; a leaf tensor that requires gradients.
        last: Gradient of each of the `weights` at the last step; empty before the first.
        total: Sum of these gradients over all steps; empty unless they are accumulated (`accumulate`).
    """

    weights: GeneratorWeights
    latents: Tensor
    last: GeneratorWeights
    total: GeneratorWeights


class GeneratorInversionRun(InversionRun):
    """The inversion of some members in one round, each by its own copy of the generator.

    A subclass may add a term to each target's loss (`extra_loss`); it overrides `extra_weights` too if the term has
    weights of its own. Create these before calling `__init__`, which reads `extra_weights` to build the optimiser.

    Args:
        config: Settings of the steps.
        network: The generator. It is called with the weights of a copy (`torch.func.functional_call`); its own
            parameters are not used.
        starts: For every target the weights that its copy starts from, by parameter name.
        preprocessing: Size of the generated images; its mean and standard deviation normalise them for the image priors
            and the views. Members receive images in [0, 1] and resize and normalise these themselves.
        targets: The members, and the labels of the images to recover.
        seed: Seed of latent vectors and views.
        round_index: Number of the round; the draws differ between rounds.
        student: Student logits; images maximise the divergence between member and student. None disables the term.
        previous_statistics: For every target the EMA of the batch-norm statistics of earlier rounds (momentum); None:
            there are none.
        accumulate: Whether to sum the gradients of all steps in `GeneratorCopy.total`.
        stacked: Whether to evaluate targets in one call (`torch.func.vmap`) that have the same architecture, number of
            images and state of the momentum, and no limit of steps; as many at once as the memory allows.
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
        self.chunks = [self.images_per_pass(index, memory) for index in range(len(self.targets))]
        self._groups = group_targets(self.targets, self.previous_statistics, self.chunks) if stacked else {}
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
        draws = max(1, self.config.latent_draws)
        latents = torch.randn(draws * len(target.labels), self._network.latent, generator=generator)
        if self.config.label_input:
            latents = latents + self.config.label_input * label_codes(target.labels, self._network.latent)
        # Drawn in float32 and converted, so that a generator in float64 starts from the same values.
        latents = latents.to(target.labels.device, next(iter(weights.values())).dtype)
        if self.config.latent_draws:
            latents = self._choose(weights, latents, target)
        return GeneratorCopy(weights, latents.requires_grad_(), {}, {})

    @torch.no_grad()
    def _choose(self, weights: GeneratorWeights, latents: Tensor, target: Target) -> Tensor:
        """Choose a latent vector for every label; see `GeneratorConfig.latent_draws`."""
        # As many at once as in a step: the generator's batch-norm layers use the statistics of the images of a pass.
        generated = (self._generate(weights, part) for part in torch.split(latents, len(target.labels)))
        logits = torch.cat([teacher_logits(target.classifier, images) for images in generated])
        return latents[assign_to_labels(logits, target.labels)]

    @property
    def groups(self) -> list[list[int]]:
        """Indices of the targets that are evaluated in one call, for every such call."""
        return list(self._groups.values())

    def model(self, index: int) -> InvertibleModel:
        """What one target's loss is computed with in the coming step; a subclass may give another than its member.

        Args:
            index: Index of the target.
        """
        return self.targets[index].network

    def images_per_pass(self, index: int, memory: int) -> int:
        """Number of one target's images that may pass through `model` at once.

        Args:
            index: Index of the target.
            memory: Memory in bytes that a backward pass may take.
        """
        size = self.preprocessing.size
        sample = self.copies[index].latents.detach().new_zeros(len(self.targets[index].labels), 3, size, size)
        return images_per_pass(self.targets[index].network, sample, memory)

    def step(self) -> list[InversionLoss]:
        """See `InversionRun.step`."""
        generator = seeds.generator(self._seed, "view", self._round_index, self.done)
        # One view for all targets, because stacked ones are evaluated in one call.
        most_images = max(len(target.labels) for target in self.targets)
        view = sample_view(self.config.weights, generator, most_images, self.preprocessing.size)
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
        # One optimiser for all copies: gradients were set per target above, and targets are independent of each other.
        self._optimiser.step()
        self.done += 1
        self._last |= {index: loss.detach() for index, loss in losses.items()}
        return [self._last[index] for index in range(len(self.targets))]

    def _stop(self, index: int) -> None:
        """Drop the gradients of a target that has taken all its steps: Adam skips tensors without a gradient."""
        copy = self.copies[index]
        for value in (copy.latents, *copy.weights.values(), *self.extra_weights(index)):
            value.grad = None

    def _one(self, index: int, view: AnyView) -> InversionLoss:
        copy, target = self.copies[index], self.targets[index]
        generated = self._generate(copy.weights, copy.latents)
        previous = self.previous_statistics[index]
        loss = self._loss(self.model(index), generated, target.labels, target.rows, previous, view, self.chunks[index])
        extra, weights = self.extra_loss(index, generated), self.extra_weights(index)
        total = loss.total if extra is None else loss.total + extra
        leaves = [copy.latents, *weights, *copy.weights.values()]
        copy.latents.grad, *gradients = torch.autograd.grad(total, leaves)
        for value, gradient in zip(weights, gradients[: len(weights)], strict=True):
            value.grad = gradient
        copy.last = dict(zip(copy.weights, gradients[len(weights) :], strict=True))
        return loss

    def extra_weights(self, index: int) -> Sequence[Tensor]:
        """Weights of `extra_loss` that are trained together with one target's copy, at the same learning rate.

        Args:
            index: Index of the target.
        """
        return ()

    def extra_loss(self, index: int, images: Float[Tensor, "images 3 size size"]) -> Tensor | None:
        """A further term of one target's loss; None: there is none. Not computed for stacked targets.

        Args:
            index: Index of the target.
            images: The generated images in [0, 1], before the random view.
        """
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
        """Images in [0, 1], which the generator's last layer, a sigmoid, ensures."""
        images: Tensor = functional_call(self._network, weights, (latents,))
        return images

    def _loss(
        self,
        classifier: InvertibleModel,
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
        """See `InversionRun.images`; the size is that of `preprocessing`, whatever a member's input size."""
        return [self._generate(copy.weights, copy.latents) for copy in self.copies]

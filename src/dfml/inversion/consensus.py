"""Engine `consensus`: recovers one set of images per class, optimised for all members that have the class.

An image that several members must recognise cannot rely on the weights of a single one, so it shows more of its class.
The idea is from PURER's dynamic dataset, one set of learnable images per class of the zoo (Hu et al., CVPR 2023, arXiv
2303.11183); here the set is optimised to the end in every round. Members without a class in common with others are
inverted as by the engine `ei`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import PositiveInt, model_validator
from torch import Tensor

from dfml import seeds
from dfml.drawn_images import dead_leaves
from dfml.inversion.chunked_gradient import images_per_pass, inversion_gradient
from dfml.inversion.ei import PixelInversionConfig, SearchSchedule
from dfml.inversion.engine import Engine, InversionRun, StudentRowLogits, Target
from dfml.inversion.initialisation import InitialPixels, matched_initialisations
from dfml.inversion.loss import InversionLoss
from dfml.inversion.views import sample_view
from dfml.zoo.pretrained import Preprocessing


class ConsensusConfig(PixelInversionConfig):
    """Settings of `consensus`: those of the engine `ei`, whose search and steps here hold for all members together."""

    members_per_class: PositiveInt = 1
    """Smallest number of members that give an image its gradient in a step (all, if fewer have its class). They are
    drawn at random for every step; a drawn member takes part with all of its images, so an image may get more."""

    @model_validator(mode="after")
    def _no_momentum(self) -> ConsensusConfig:
        if self.weights.momentum:
            raise ValueError("consensus keeps no statistics of earlier rounds' images: set weights.momentum to 0")
        return self


class ConsensusInversion(Engine):
    """Optimises one set of pixels by the sum of the gradients of all members of a run.

    Args:
        settings: Steps, learning rate, members per step and weights of the loss.
        preprocessing: Size of the images, and the mean and standard deviation that turn pixels into images; members
            with another input resize and normalise the images themselves.
        seed: Seed of the initial pixels, of the choice of members in each step, and of the views.
        device: Device of the pixels; None: the CPU.
        stacked: Not used: members are evaluated one after the other.
    """

    def __init__(
        self,
        settings: ConsensusConfig,
        preprocessing: Preprocessing,
        *,
        seed: int = 0,
        device: torch.device | None = None,
        stacked: bool = False,
    ) -> None:
        self.config, self.preprocessing, self.seed = settings, preprocessing, seed
        self.device = device or torch.device("cpu")
        self.steps = settings.search_steps + settings.steps if settings.steps else 0
        self._initialisations: dict[str, tuple[InitialPixels, ...]] = {}

    def start(
        self, targets: Sequence[Target], round_index: int = 0, *, student: StudentRowLogits | None = None
    ) -> InversionRun:
        """See `Engine.start`; a target without `Target.images` has images of its own."""
        return _ConsensusRun(self, targets, round_index, student)

    def initialisations(self, target: Target) -> tuple[InitialPixels, ...]:
        """Functions that draw initial pixels; images alternate between them (`PixelInversionConfig.start`)."""
        if self.config.start == "noise":
            return (_noise,)
        if self.config.start == "dead_leaves":
            return (dead_leaves,)
        if target.name not in self._initialisations:
            self._initialisations[target.name] = matched_initialisations(target.network, self.seed)
        return self._initialisations[target.name]


class _ConsensusRun(InversionRun):
    def __init__(
        self, engine: ConsensusInversion, targets: Sequence[Target], round_index: int, student: StudentRowLogits | None
    ) -> None:
        super().__init__(targets, student)
        self._engine, self._round_index = engine, round_index
        self._indices = _image_indices(self.targets)
        self._pixels = self._initial_pixels().requires_grad_()
        self._optimiser = torch.optim.Adam([self._pixels], lr=engine.config.lr)
        self._schedule = SearchSchedule(engine.config)
        self._losses: list[InversionLoss] = []
        self._taken = [0] * len(self.targets)  # steps in which each member took part
        self._chunks: dict[int, int] = {}

    def _initial_pixels(self) -> Tensor:
        engine, count = self._engine, 1 + max(int(indices.max()) for indices in self._indices)
        size = engine.preprocessing.size
        # An image that several targets share is initialised for the first of them, which is assigned last.
        first = torch.full((count,), -1)
        for position, indices in reversed(list(enumerate(self._indices))):
            first[indices.cpu()] = position
        kinds: dict[tuple[str, InitialPixels], list[int]] = {}
        for image, position in enumerate(first.tolist()):
            target = self.targets[position]
            choices = engine.initialisations(target)
            # Images of a class alternate between the kinds, and the next round begins with the other one.
            kind = choices[(image - int(self._indices[position].min()) + self._round_index) % len(choices)]
            kinds.setdefault((target.name, kind), []).append(image)
        pixels = torch.empty(count, 3, size, size)
        for (name, draw), images in kinds.items():
            generator = seeds.generator(engine.seed, "consensus", draw.__name__, self._round_index, name)
            pixels[images] = draw(len(images), size, generator)
        return pixels.to(engine.device)

    @property
    def finished(self) -> bool:
        """See `InversionRun.finished`."""
        return self._schedule.finished or not any(self._has_steps(position) for position in range(len(self.targets)))

    def _has_steps(self, position: int) -> bool:
        """Whether a member may still take part (`Target.steps`)."""
        most = self.targets[position].steps
        return most is None or self._taken[position] < most

    def step(self) -> list[InversionLoss]:
        """See `InversionRun.step`.

        All members take part in the first step; later, a member that is not drawn keeps its last loss.
        """
        config, factor = self._engine.config, self._schedule.factor
        chosen = self._members_of_step()
        gradient = torch.zeros_like(self._pixels)
        for position in chosen:
            loss, own = self._member_gradient(position, factor)
            self._taken[position] += 1
            if self.done:
                self._losses[position] = loss
            else:
                self._losses.append(loss)
            if bool(own.isfinite().all()):  # a member that diverges must not spoil the images of the others
                gradient.index_add_(0, self._indices[position], own)
        self._pixels.grad = gradient
        for group in self._optimiser.param_groups:
            group["lr"] = config.lr * factor
        self._optimiser.step()
        if config.clip:
            with torch.no_grad():
                limits = (self._engine.preprocessing.normalise(torch.full((3, 1, 1), value)) for value in (0.0, 1.0))
                self._pixels.clamp_(*(limit.to(self._pixels) for limit in limits))
        if self._schedule.searching:
            self._schedule.advance(*_mean_progress([self._losses[position] for position in chosen]))
        else:
            self._schedule.advance()
        self.done += 1
        return list(self._losses)

    def _members_of_step(self) -> list[int]:
        """Positions of the targets of this step.

        Targets with steps left are chosen in random order, as long as they have an image that fewer than
        `members_per_class` chosen ones have. All are chosen in the first step, so that each has a loss.
        """
        if not self.done:
            return list(range(len(self.targets)))
        wanted = self._engine.config.members_per_class
        generator = seeds.generator(self._engine.seed, "consensus members", self._round_index, self.done)
        counts, chosen = torch.zeros(len(self._pixels), dtype=torch.int64), []
        for position in torch.randperm(len(self.targets), generator=generator).tolist():
            indices = self._indices[position].cpu()
            if self._has_steps(position) and bool((counts[indices] < wanted).any()):
                counts[indices] += 1
                chosen.append(position)
        return chosen

    def _member_gradient(self, position: int, factor: float) -> tuple[InversionLoss, Tensor]:
        """Loss of one target, and its gradient to the pixels of its images; `factor`: strength of the views."""
        engine, target = self._engine, self.targets[position]
        pixels = self._pixels.detach()[self._indices[position]]
        if position not in self._chunks:
            self._chunks[position] = images_per_pass(target.network, pixels, engine.memory_limit)
        generator = seeds.generator(engine.seed, "view", self._round_index, target.name, self.done)
        weights = engine.config.weights
        return inversion_gradient(
            target.network,
            pixels,
            target.labels,
            engine.preprocessing,
            weights,
            sample_view(weights, generator, len(pixels), pixels.shape[-1], factor),
            student=self.student_for(target.rows),
            chunk=self._chunks[position],
        )

    def images(self) -> list[Tensor]:
        """Images in the size of the engine's preprocessing, clipped to [0, 1]."""
        images = self._engine.preprocessing.denormalise(self._pixels.detach()).clamp(0.0, 1.0)
        return [images[indices] for indices in self._indices]


def _image_indices(targets: Sequence[Target]) -> list[Tensor]:
    """For every target the indices of its images in one set; images of targets that share none come last."""
    shared = [int(target.images.max()) + 1 for target in targets if target.images is not None]
    count, found = max(shared, default=0), []
    for target in targets:
        if target.images is not None:
            found.append(target.images)
            continue
        found.append(torch.arange(count, count + len(target.labels), device=target.labels.device))
        count += len(target.labels)
    return found


def _mean_progress(losses: Sequence[InversionLoss]) -> tuple[float, float]:
    """Mean over targets of the loss, and of the fraction of recognised images."""
    totals = torch.stack([loss.total for loss in losses])
    recognised = torch.stack([loss.recognised for loss in losses if loss.recognised is not None])
    return totals.mean().item(), recognised.mean().item()


def _noise(count: int, size: int, generator: torch.Generator) -> Tensor:
    return torch.randn(count, 3, size, size, generator=generator)

"""CMI (Fang et al., IJCAI 2021, arXiv 2105.08584): a new generator per member and round, with a contrastive term.

The contrastive term keeps the generator from producing the same image twice. Without it (`contrast` 0) this is the
plain generator from scratch that earlier data-free meta-learning trains for 200 steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from dfml import seeds
from dfml.backbones.image_generator import ImageGenerator
from dfml.inversion.engine import EmaStatistics, Engine, InversionRun, StatisticsMemory, StudentRowLogits, Target
from dfml.inversion.generator_based import GeneratorConfig, GeneratorInversionRun
from dfml.inversion.loss import InversionWeights
from dfml.inversion.scratch_generators import create_scratch_generators
from dfml.zoo.pretrained import Preprocessing

_PROJECTION = 128  # width of the projection head, hidden and out


class ContrastiveConfig(GeneratorConfig):
    """Settings of CMI; the defaults are those of its CIFAR-10 scripts."""

    steps: PositiveInt = 200
    weights: InversionWeights = InversionWeights(
        batch_norm=1.0, disagreement=0.5, total_variation=0.0, l2=0.0, jitter=4, wrap=False, flip=True
    )
    contrast: NonNegativeFloat = 0.8
    """Weight of the contrastive loss, by which every image is told apart from all others of this round and of earlier
    ones; 0 disables it."""
    temperature: PositiveFloat = 0.2
    """Temperature of the contrastive loss."""
    bank: PositiveInt = 4096
    """Largest number of a member's earlier images that serve as negatives, kept as features (two per image)."""


@dataclass
class _Memory:
    """One member's projection head, and the features of its earlier images in both views."""

    head: list[Tensor]
    local: Float[Tensor, "remembered features"]
    whole: Float[Tensor, "remembered features"]


class ContrastiveInversion(Engine):
    """A new generator for every member and round, and a memory of image features for every member.

    Args:
        settings: Settings of CMI.
        preprocessing: Size, mean and standard deviation of the generated images.
        seed: Seed of all draws.
        device: Device of the generators.
        stacked: Whether members of one architecture are evaluated in one call; only without the contrastive term.
    """

    def __init__(
        self,
        settings: ContrastiveConfig,
        preprocessing: Preprocessing,
        *,
        seed: int = 0,
        device: torch.device | None = None,
        stacked: bool = False,
    ) -> None:
        self.config, self.steps = settings, settings.steps
        self._preprocessing, self._seed, self._device = preprocessing, seed, device
        self._stacked = stacked and not settings.contrast
        self._memories: dict[str, _Memory] = {}
        self._statistics = StatisticsMemory()

    def start(
        self, targets: Sequence[Target], round_index: int = 0, *, student: StudentRowLogits | None = None
    ) -> InversionRun:
        """See `Engine.start`."""
        networks = create_scratch_generators(
            self.config, self._preprocessing, targets, seed=self._seed, round_index=round_index, device=self._device
        )
        if self.config.contrast:
            for target in targets:
                if target.name not in self._memories:
                    self._memories[target.name] = self._new_memory(target)
        return _ContrastiveInversionRun(
            self.config,
            networks[0],
            [dict(network.named_parameters()) for network in networks],
            self._preprocessing,
            targets,
            [self._memories.get(target.name) for target in targets],
            seed=self._seed,
            round_index=round_index,
            student=student,
            previous_statistics=self._statistics.get(targets),
            stacked=self._stacked,
            memory=self.memory_limit,
        )

    def _new_memory(self, target: Target) -> _Memory:
        size, device = self._preprocessing.size, target.labels.device
        width = target.network.layer_means(torch.zeros(2, 3, size, size, device=device)).shape[1]
        generator = seeds.generator(self._seed, "head", target.name)
        head = [
            (torch.randn(rows, columns, generator=generator) * columns**-0.5).to(device)
            for rows, columns in ((_PROJECTION, width), (_PROJECTION, _PROJECTION))
        ]
        empty = torch.zeros(0, width, device=device)
        return _Memory(head, empty, empty)

    @torch.no_grad()
    def learn(self, run: InversionRun, kept: Sequence[int] | None = None) -> None:
        """Store the features of a run's images as negatives for later rounds, and the projection heads."""
        assert isinstance(run, _ContrastiveInversionRun)
        self._statistics.update(run, kept)
        if not self.config.contrast:
            return
        for index, images in enumerate(run.images()):
            if kept is None or index in kept:
                memory = self._memories[run.targets[index].name]
                local, whole = run.features(index, images, run.done)
                memory.head = [value.detach().clone() for value in run.extra_weights(index)]
                memory.local = torch.cat([memory.local, local])[-self.config.bank :]
                memory.whole = torch.cat([memory.whole, whole])[-self.config.bank :]

    def state_dict(self) -> dict[str, Tensor]:
        """See `Engine.state_dict`."""
        tensors = self._statistics.state_dict()
        for name, memory in self._memories.items():
            tensors |= {f"{name}.head.{index}": value for index, value in enumerate(memory.head)}
            tensors |= {f"{name}.local": memory.local, f"{name}.whole": memory.whole}
        return tensors

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """See `Engine.load_state_dict`."""
        self._statistics.load_state_dict(tensors)
        self._memories = {}
        for name in [key.removesuffix(".local") for key in tensors if key.endswith(".local")]:
            head = [tensors[f"{name}.head.{index}"] for index in range(2)]
            self._memories[name] = _Memory(head, tensors[f"{name}.local"], tensors[f"{name}.whole"])


class _ContrastiveInversionRun(GeneratorInversionRun):
    def __init__(
        self,
        config: ContrastiveConfig,
        network: ImageGenerator,
        starts: Sequence[dict[str, Tensor]],
        preprocessing: Preprocessing,
        targets: Sequence[Target],
        memories: Sequence[_Memory | None],
        *,
        seed: int,
        round_index: int,
        student: StudentRowLogits | None,
        previous_statistics: Sequence[EmaStatistics],
        stacked: bool,
        memory: int,
    ) -> None:
        self._contrast, self._memories = config, memories
        self._heads = [
            [value.clone().requires_grad_() for value in memory.head] if memory else [] for memory in memories
        ]
        super().__init__(
            config,
            network,
            starts,
            preprocessing,
            targets,
            seed=seed,
            round_index=round_index,
            student=student,
            previous_statistics=previous_statistics,
            stacked=stacked,
            memory=memory,
        )

    def extra_weights(self, index: int) -> Sequence[Tensor]:
        return self._heads[index]

    def extra_loss(self, index: int, images: Tensor) -> Tensor | None:
        """Instance discrimination: match a part of an image with the whole image, among all images (InfoNCE)."""
        memory = self._memories[index]
        if memory is None:
            return None
        local, whole = self.features(index, images, self.done)
        queries = self._project(index, torch.cat([local, memory.local]))
        keys = self._project(index, torch.cat([whole, memory.whole])).detach()
        own = torch.arange(len(queries), device=queries.device)
        losses = functional.cross_entropy(queries @ keys.T / self._contrast.temperature, own, reduction="none")
        current, earlier = losses[: len(images)], losses[len(images) :]
        # Averaged separately: otherwise a long memory outweighs the current images.
        return self._contrast.contrast * (current.mean() + (earlier.mean() if len(earlier) else 0.0))

    def features(self, index: int, images: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Features of a part of every image (a random resized crop) and of the whole image, from a target's member."""
        generator = seeds.generator(self._seed, "crops", self._round_index, step)
        parts = random_crops(images, (0.25, 1.0), generator)
        whole = random_crops(images, (1.0, 1.0), generator)
        return self._layer_means(index, parts), self._layer_means(index, whole)

    def _layer_means(self, index: int, images: Tensor) -> Tensor:
        """Features of images, each of which depends on its image alone: chunks are passed anew in the backward pass."""
        layer_means, chunk = self.targets[index].network.layer_means, self.chunks[index]
        if len(images) <= chunk:
            return layer_means(images)
        passed = [
            checkpoint(layer_means, part, use_reentrant=False, preserve_rng_state=False)
            for part in torch.split(images, chunk)
        ]
        return torch.cat(passed)

    def _project(self, index: int, features: Tensor) -> Tensor:
        first, second = self._heads[index]
        return functional.normalize(functional.relu(features @ first.T) @ second.T, dim=1)


def random_crops(
    images: Float[Tensor, "images 3 size size"], area: tuple[float, float], generator: torch.Generator
) -> Float[Tensor, "images 3 size size"]:
    """Crop a random square of every image, resize it to the image's size and mirror it at random; differentiable.

    A square as large as the image is shifted by up to an eighth of its side; black comes in.

    Args:
        images: Images in [0, 1].
        area: Smallest and largest area of the square, as fractions of the image.
        generator: Generator of the draws, on the CPU.
    """
    low, high = area
    draw = torch.rand(4, len(images), generator=generator).to(images.device, images.dtype)
    side = (low + (high - low) * draw[0]).sqrt()
    # Between the centres of the outermost pixels: beyond them, interpolation mixes black into the crop.
    inside = (1.0 - side) * (1.0 - 1.0 / images.shape[-1])
    slack = torch.where(side == 1.0, torch.full_like(side, 0.25), inside)
    place = torch.zeros(len(images), 2, 3, device=images.device, dtype=images.dtype)
    place[:, 0, 0] = side * torch.where(draw[3] < 0.5, -1.0, 1.0)
    place[:, 1, 1] = side
    place[:, :, 2] = (slack * (2.0 * draw[1:3] - 1.0)).T
    grid = functional.affine_grid(place, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)

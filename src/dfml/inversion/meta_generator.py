"""FIVE (FREE, Yuan et al., CVPR 2024) and FastDFKD: a generator that has learned to specialise in a few steps.

Every member is a task. Copies of one generator take k steps, each on its member; what these steps found updates the
generator itself, so that the next k steps begin closer to any member's images (papers 2.2). A newcomer is recovered by
the same k steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat
from torch import Tensor

from dfml import seeds
from dfml.backbones.image_generator import ImageGenerator, create_generator
from dfml.inversion.engine import Engine, InversionRun, StatisticsMemory, StudentRowLogits, Target
from dfml.inversion.generator_based import GeneratorConfig, GeneratorCopy, GeneratorInversionRun, GeneratorWeights
from dfml.inversion.loss import InversionWeights
from dfml.optimisers import load_optimiser_state_dict, optimiser_state_dict
from dfml.zoo.pretrained import Preprocessing


class FiveConfig(GeneratorConfig):
    """FIVE; defaults are those of the released FREE (papers 2.5)."""

    outer: Literal["last", "accumulated", "reptile", "none"] = "last"
    """What updates the generator: first-order MAML with the gradient at the last step (FREE) or the sum over all k
    (FastDFKD), the way that the copies have gone (Reptile), or nothing (an ablation)."""
    outer_lr: NonNegativeFloat = 0.001
    """Of Adam, for the generator itself; one optimiser for the whole run."""
    reset_after: NonNegativeInt = 0
    """Outer updates after which the generator's first layer is drawn anew, once (FastDFKD); 0: never."""


class FastDfkdConfig(FiveConfig):
    """FastDFKD (papers 3), with a member in the role of a batch.

    Defaults are its CIFAR-10 settings for k = 5, without the reset of the first layer.
    """

    lr: PositiveFloat = 0.003
    latent_lr: NonNegativeFloat = 0.01
    outer: Literal["last", "accumulated", "reptile", "none"] = "accumulated"
    outer_lr: NonNegativeFloat = 0.015
    """As published, k times `lr`."""
    weights: InversionWeights = InversionWeights(
        label=0.4,
        batch_norm=10.0,
        momentum=0.9,
        disagreement=1.33,
        total_variation=0.0,
        l2=0.0,
        jitter=4,
        wrap=False,
        flip=True,
    )


class MetaGenerator(Engine):
    """A generator that lasts as long as the run.

    Args:
        config: FIVE's or FastDFKD's.
        preprocessing: Of the images that are drawn: their size, and the space in which image priors act.
        seed: Of the first weights and of all draws.
        device: Where it lives.
        stacked: Evaluate members of one architecture in one call; faster on a GPU, slower on a CPU.

    Attributes:
        weights: phi, the meta-learned start.
        updates: Outer updates so far.
    """

    def __init__(
        self,
        config: FiveConfig,
        preprocessing: Preprocessing,
        *,
        seed: int = 0,
        device: torch.device | None = None,
        stacked: bool = False,
    ) -> None:
        self.config, self.steps, self.updates = config, config.steps, 0
        self._preprocessing, self._seed, self._stacked = preprocessing, seed, stacked
        self._network = self._draw_network("generator").to(device)
        self.weights: GeneratorWeights = {
            name: value.detach().clone().requires_grad_() for name, value in self._network.named_parameters()
        }
        self._optimiser = torch.optim.Adam(
            self.weights.values(), lr=config.outer_lr, betas=(config.beta1, 0.999), foreach=True
        )
        self._statistics = StatisticsMemory()

    def _draw_network(self, purpose: str) -> ImageGenerator:
        drawn = int(torch.randint(2**31, (1,), generator=seeds.generator(self._seed, purpose)))
        return create_generator(
            self._preprocessing.size, latent=self.config.latent, width=self.config.width, seed=drawn
        )

    def start(
        self, targets: Sequence[Target], visit: int = 0, *, student: StudentRowLogits | None = None
    ) -> InversionRun:
        """See `Engine.start`."""
        return GeneratorInversionRun(
            self.config,
            self._network,
            [self.weights] * len(targets),
            self._preprocessing,
            targets,
            seed=self._seed,
            visit=visit,
            student=student,
            earlier=self._statistics.of(targets),
            accumulate=self.config.outer == "accumulated",
            stacked=self._stacked,
        )

    @torch.no_grad()
    def learn(self, recovery: InversionRun, kept: Sequence[int] | None = None) -> None:
        """One outer update from the copies of a visit (see `FiveConfig.outer`); the copies are summed."""
        assert isinstance(recovery, GeneratorInversionRun)
        self._statistics.keep(recovery, kept)
        copies = [recovery.copies[index] for index in (range(len(recovery.copies)) if kept is None else kept)]
        if self.config.outer == "none" or not copies:
            return
        for name, value in self.weights.items():
            value.grad = torch.stack([self._gradient(copy, name) for copy in copies]).sum(0)
        self._optimiser.step()
        self._optimiser.zero_grad()
        self.updates += 1
        if self.updates == self.config.reset_after:
            fresh = dict(self._draw_network("reset").named_parameters())
            for name in ("project.weight", "project.bias", "body.0.weight", "body.0.bias"):
                self.weights[name].copy_(fresh[name])

    def _gradient(self, copy: GeneratorCopy, name: str) -> Tensor:
        if self.config.outer == "reptile":
            return self.weights[name] - copy.weights[name]
        return copy.last[name] if self.config.outer == "last" else copy.total[name]

    def state_dict(self) -> dict[str, Tensor]:
        """See `Engine.state`."""
        tensors = {f"weights.{name}": value for name, value in self.weights.items()}
        tensors |= {"updates": torch.tensor(self.updates), **self._statistics.state_dict()}
        return tensors | optimiser_state_dict("optimiser", self._optimiser)

    @torch.no_grad()
    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """See `Engine.restore`."""
        for name, value in self.weights.items():
            value.copy_(tensors[f"weights.{name}"])
        self.updates = int(tensors["updates"])
        load_optimiser_state_dict("optimiser", self._optimiser, tensors)
        self._statistics.load_state_dict(tensors)

"""FIVE and FastDFKD: a generator that is meta-learned to adapt to a member in a few steps.

FIVE: FREE (Wei et al., CVPR 2024, arXiv 2405.00984). FastDFKD: Fang et al. (AAAI 2022, arXiv 2112.06253).

Every member is a task. Copies of one generator take k steps, each on its member; the gradients of these steps update
the generator, so that the next k steps start closer to any member's images. Images of a new member are recovered by the
same k steps.
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
    """Settings of FIVE; the defaults are those of the released code of FREE."""

    outer: Literal["last", "accumulated", "reptile", "none"] = "last"
    """Outer update of the generator. `last`: first-order MAML with the gradient at the last step (FREE). `accumulated`:
    the sum of the gradients of all k steps (FastDFKD). `reptile`: towards the adapted copies (Reptile). `none`: no
    update (an ablation)."""
    outer_lr: NonNegativeFloat = 0.001
    """Learning rate of the outer Adam, which lasts for the whole run."""
    reset_after: NonNegativeInt = 0
    """Number of outer updates after which the generator's first layer is initialised anew, once (FastDFKD); 0:
    never."""


class FastDfkdConfig(FiveConfig):
    """Settings of FastDFKD, with a member in the role of a batch.

    The defaults are its CIFAR-10 settings for k = 5, without the reset of the first layer.
    """

    lr: PositiveFloat = 0.003
    latent_lr: NonNegativeFloat = 0.01
    outer: Literal["last", "accumulated", "reptile", "none"] = "accumulated"
    outer_lr: NonNegativeFloat = 0.015
    """Learning rate of the outer Adam; k times `lr`, as published."""
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
    """A meta-learned generator, which lasts as long as the run.

    Args:
        settings: Settings of FIVE or FastDFKD.
        preprocessing: Size of the generated images, and the normalised space in which image priors act.
        seed: Seed of the initial weights and of all draws.
        device: Device of the generator.
        stacked: Whether members of one architecture are evaluated in one call; faster on a GPU, slower on a CPU.

    Attributes:
        weights: Meta-learned initial weights (phi in FREE).
        updates: Number of outer updates so far.
    """

    def __init__(
        self,
        settings: FiveConfig,
        preprocessing: Preprocessing,
        *,
        seed: int = 0,
        device: torch.device | None = None,
        stacked: bool = False,
    ) -> None:
        self.config, self.steps, self.updates = settings, settings.steps, 0
        self._preprocessing, self._seed, self._stacked = preprocessing, seed, stacked
        self._network = self._create_network("generator").to(device)
        self.weights: GeneratorWeights = {
            name: value.detach().clone().requires_grad_() for name, value in self._network.named_parameters()
        }
        self._optimiser = torch.optim.Adam(
            self.weights.values(), lr=settings.outer_lr, betas=(settings.beta1, 0.999), foreach=True
        )
        self._statistics = StatisticsMemory()

    def _create_network(self, purpose: str) -> ImageGenerator:
        seed = int(torch.randint(2**31, (1,), generator=seeds.generator(self._seed, purpose)))
        return create_generator(self._preprocessing.size, latent=self.config.latent, width=self.config.width, seed=seed)

    def start(
        self, targets: Sequence[Target], round_index: int = 0, *, student: StudentRowLogits | None = None
    ) -> InversionRun:
        """See `Engine.start`."""
        return GeneratorInversionRun(
            self.config,
            self._network,
            [self.weights] * len(targets),
            self._preprocessing,
            targets,
            seed=self._seed,
            round_index=round_index,
            student=student,
            previous_statistics=self._statistics.get(targets),
            accumulate=self.config.outer == "accumulated",
            stacked=self._stacked,
            memory=self.memory_limit,
        )

    @torch.no_grad()
    def learn(self, run: InversionRun, kept: Sequence[int] | None = None) -> None:
        """Take one outer step with the sum of the copies' gradients; see `FiveConfig.outer`."""
        assert isinstance(run, GeneratorInversionRun)
        self._statistics.update(run, kept)
        copies = [run.copies[index] for index in (range(len(run.copies)) if kept is None else kept)]
        if self.config.outer == "none" or not copies:
            return
        for name, value in self.weights.items():
            value.grad = torch.stack([self._gradient(copy, name) for copy in copies]).sum(0)
        self._optimiser.step()
        self._optimiser.zero_grad()
        self.updates += 1
        if self.updates == self.config.reset_after:
            fresh = dict(self._create_network("reset").named_parameters())
            for name in ("project.weight", "project.bias", "body.0.weight", "body.0.bias"):
                self.weights[name].copy_(fresh[name])

    def _gradient(self, copy: GeneratorCopy, name: str) -> Tensor:
        if self.config.outer == "reptile":
            return self.weights[name] - copy.weights[name]
        return copy.last[name] if self.config.outer == "last" else copy.total[name]

    def state_dict(self) -> dict[str, Tensor]:
        """See `Engine.state_dict`."""
        tensors = {f"weights.{name}": value for name, value in self.weights.items()}
        tensors |= {"updates": torch.tensor(self.updates), **self._statistics.state_dict()}
        return tensors | optimiser_state_dict("optimiser", self._optimiser)

    @torch.no_grad()
    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """See `Engine.load_state_dict`."""
        for name, value in self.weights.items():
            value.copy_(tensors[f"weights.{name}"])
        self.updates = int(tensors["updates"])
        load_optimiser_state_dict("optimiser", self._optimiser, tensors)
        self._statistics.load_state_dict(tensors)

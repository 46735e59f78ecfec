"""BiDf-MKD: meta-learn from members that are known by their predictions alone.

Hu et al., "Learning to Learn from APIs: Black-Box Data-Free Meta-Learning", ICML 2023, arXiv 2305.18413 (bi-level
data-free meta knowledge distillation). A meta-iteration, for every sampled member:

1. Inversion of the member from its predictions alone (`dfml.inversion.zeroth_order`): its support images.
2. Inner level: the learner is distilled from the member on the support images by gradient steps.
3. Boundary query set: images that the member recognises and on which the distilled learner differs from it.
4. Outer level: the learner's initial weights take a step along the gradient of the distilled learner's distillation
   loss on the query images, through the inner steps.

Then replay: meta-training on tasks that mix the classes of all members so far.

Differences from the released code: all members are inverted behind a wrapper that hides their networks and counts
queries; divergences are true KL divergences, and the boundary images maximise one instead of an L1 distance; images
that their member does not recognise are not stored; replayed tasks have images of memory, not interpolated ones; the
optimisers' state lasts for the whole run; no test images are used. See also the row BiDf-MKD of docs/papers.md.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from dfml.inversion.inverted_batch import RecoveredImages
from dfml.learners.gradient_based import head_for
from dfml.learners.maml import descend
from dfml.learners.network import Parameters, Statistics
from dfml.methods.base import Method
from dfml.methods.bidf_mkd.config import BiDfMKDConfig
from dfml.training.checkpoint import State
from dfml.training.distillation import divergence
from dfml.training.loop import MetricDescription, TrainingConfig, TrainingRun
from dfml.training.recovered_tasks import require_tasks
from dfml.training.recovered_tasks_run import RecoveredTasksRun
from dfml.zoo.black_boxes import black_boxes
from dfml.zoo.members import CountedMember, teacher_logits
from dfml.zoo.zoo import Zoo


class BiDfMKD(Method):
    """Meta-training by bi-level distillation of members that only predict (Hu et al., ICML 2023)."""

    name: ClassVar[str] = "bidf_mkd"
    config_type: ClassVar[type[TrainingConfig]] = BiDfMKDConfig
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        # The released code, up to the differences that the module's docstring lists.
        "released": {"inversion": {"confirmed_only": False}},
        # The learning rates and sizes of FREE's preset `cpu`. Members classify nearly all images as their labels after
        # these steps; a round has a hundredth of the released number of queries.
        "cpu": {
            "iterations": 60,
            "images_per_class": 10,
            "boundary_after": 10,
            "inversion": {
                "zeroth_order": {
                    "steps": 20,
                    "directions": 32,
                    "latent_draws": 4,
                    "width": 32,
                    "lr": 0.003,
                    "latent_lr": 0.01,
                }
            },
            "replay": "fixed",
            "replay_steps": 16,
            "snapshot_every": 20,
            "checkpoint_every": 20,
        },
    }
    config: BiDfMKDConfig

    def start(self, zoo: Zoo, device: torch.device) -> TrainingRun:
        """See `Method.start`."""
        require_tasks(self.config, zoo, device)
        return BiDfMKDRun(self.config, black_boxes(zoo, self.config.query_limit), device)


class BiDfMKDRun(RecoveredTasksRun):
    """The state of BiDf-MKD: inversion engine, task memory, learner, and the members' counts of queries."""

    def __init__(self, config: BiDfMKDConfig, zoo: Zoo, device: torch.device) -> None:
        self.config = config
        super().__init__(config, zoo, device, BiDfMKD.name)

    def step(self, iteration: int) -> Mapping[str, float]:
        """One meta-iteration; see the module's docstring."""
        start, config = time.perf_counter(), self.config
        gradients: list[tuple[Tensor, ...]] = []
        losses: list[float] = []
        metrics: dict[str, float] = {}
        seconds = 0.0
        for member in self.source.sample_members(iteration, config.members_per_step):
            begin = time.perf_counter()
            support = self.source.recover([member], config.images_per_class, 2 * iteration)
            metrics |= self.source.last_metrics
            seconds += time.perf_counter() - begin
            if member not in support:
                continue
            self.tasks.add(support, iteration)
            with torch.enable_grad():
                images, query = self._split(support[member], iteration)
                adapted, statistics = self._distil(member, images, second_order=query is not None)
            if query is None:
                begin = time.perf_counter()
                boundary = self._boundary(member, adapted, statistics, iteration)
                seconds += time.perf_counter() - begin
                if boundary is None:
                    continue
                query = boundary.images
                adapted, statistics = self._distil(member, images, second_order=True)
            loss = self._divergence(member, query, adapted, self._query_statistics(statistics))
            leaves = list(self.outer.parameters.values())
            gradients.append(torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True))
            losses.append(loss.item())
        if gradients:
            mean = [torch.stack(each).mean(dim=0) for each in zip(*gradients, strict=True)]
            self.distillation_step(dict(zip(self.outer.parameters, mean, strict=True)))
            metrics["distillation_loss"] = sum(losses) / len(losses)
        metrics |= {"queries": float(sum(self._queried())), "recovery_seconds": seconds}
        metrics["distillation_seconds"] = time.perf_counter() - start - seconds
        return metrics | self.replay(iteration)

    def _split(self, recovered: RecoveredImages, iteration: int) -> tuple[Tensor, Tensor | None]:
        """Support images, and query images unless these are to be recovered on their own."""
        if iteration > self.config.boundary_after:
            return recovered.images, None
        # Images are in the order of their labels, so that both halves have all classes.
        return recovered.images[::2], recovered.images[1::2]

    def _boundary(
        self, member: int, adapted: Parameters, statistics: Statistics, iteration: int
    ) -> RecoveredImages | None:
        """Recover query images on which the adapted learner differs from the member; store those that it confirms."""
        fixed = {name: value.detach() for name, value in adapted.items()}
        norms = self._query_statistics({name: value.detach() for name, value in statistics.items()})
        recovered = self.source.recover(
            [member],
            self.config.images_per_class,
            2 * iteration + 1,
            student=lambda images, _: self._logits(images, fixed, norms),
        )
        self.tasks.add(recovered, iteration)
        return recovered.get(member)

    def _distil(
        self, member: int, images: Float[Tensor, "images 3 size size"], *, second_order: bool
    ) -> tuple[Parameters, Statistics]:
        """Inner level: the learner after gradient steps on the distillation loss, and the support's statistics."""
        config, statistics = self.config, dict[str, Tensor]()
        with torch.no_grad():
            teacher = teacher_logits(self.zoo[member], images)
        inputs = self.preprocessing.normalise(images)

        def loss(point: Parameters) -> Tensor:
            nonlocal statistics
            features, statistics = self.blank.network.features(point, inputs)
            return divergence(teacher, functional.linear(features, point["head.weight"], point["head.bias"]))

        adapted = descend(
            head_for(self.outer.parameters, teacher.shape[1]),
            loss,
            steps=config.distillation_steps,
            lr=config.distillation_lr,
            second_order=second_order and config.learner.second_order,
        )
        return adapted, statistics

    def _query_statistics(self, statistics: Statistics) -> Statistics | None:
        return self.blank.query_statistics(statistics, self.outer.running_statistics)

    def _divergence(
        self, member: int, images: Tensor, parameters: Parameters, statistics: Statistics | None
    ) -> Float[Tensor, ""]:
        with torch.no_grad():
            teacher = teacher_logits(self.zoo[member], images)
        return divergence(teacher, self._logits(images, parameters, statistics))

    def _logits(self, images: Tensor, parameters: Parameters, statistics: Statistics | None) -> Tensor:
        inputs = self.preprocessing.normalise(images)
        features, _ = self.blank.network.features(parameters, inputs, statistics)
        return functional.linear(features, parameters["head.weight"], parameters["head.bias"])

    def _counted(self) -> list[CountedMember]:
        return [member for member in self.zoo if isinstance(member, CountedMember)]

    def _queried(self) -> list[int]:
        return [member.queried for member in self._counted()]

    def describe_metrics(self) -> Mapping[str, MetricDescription]:
        """See `TrainingRun.describe_metrics`."""
        queries = MetricDescription("queries", "Number of images that all members were queried with so far.")
        return {**super().describe_metrics(), "queries": queries}

    def state_dict(self) -> State:
        """See `TrainingRun.state_dict`; with the counts of queries, so that a limit also holds for a resumed run."""
        state = super().state_dict()
        return State(state.tensors, {**state.values, "queried": self._queried()})

    def load_state_dict(self, state: State) -> None:
        """See `TrainingRun.load_state_dict`."""
        super().load_state_dict(state)
        for member, queried in zip(self._counted(), state.values["queried"], strict=True):
            member.queried = queried

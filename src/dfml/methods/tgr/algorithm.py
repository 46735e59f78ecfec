"""TGR: distil groups of unlike members, and penalise the conflict of their gradients.

Wei et al., "Task Groupings Regularization: Data-Free Meta-Learning with Heterogeneous Pre-trained Models", ICML 2024,
arXiv 2405.16560. A meta-iteration:

1. Inversion of some members; their images go into the task memory. Until every member was inverted once, members take
   turns; each is described by the Fisher information of a probe network on its images (`grouping.py`). From then on,
   the members of a meta-iteration belong to one group of unlike members.
2. Distillation of these members into the learner, along the gradient of the mean loss and the variance of the members'
   gradients (implicit gradient regularisation, `dfml.training.alignment.regularised`).
3. Replay: meta-training on tasks from the memory, which mix the classes of all members so far.

Differences from the released code: the probe is the learner's own initial backbone unless the user has another
(`probe`); members are described in the first meta-iterations instead of before them; divergences are true KL
divergences; the optimisers' state lasts for the whole run; no test images are used. See also the row TGR of
docs/papers.md.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from dfml import seeds
from dfml.inversion.inverted_batch import RecoveredImages
from dfml.learners.classifier import select_prefix
from dfml.methods.base import Method
from dfml.methods.tgr.config import TGRConfig
from dfml.methods.tgr.grouping import Fisher, fisher_information, group_unlike, similarities
from dfml.training.alignment import regularised
from dfml.training.checkpoint import State
from dfml.training.loop import TrainingConfig, TrainingRun
from dfml.training.recovered_tasks import require_tasks
from dfml.training.recovered_tasks_run import DistilledTasksRun, backbone_of
from dfml.zoo.pretrained import PretrainedClassifier
from dfml.zoo.zoo import Zoo


class TGR(Method):
    """Distillation of groups of unlike members with a penalty on conflicting gradients (Wei et al., ICML 2024)."""

    name: ClassVar[str] = "tgr"
    config_type: ClassVar[type[TrainingConfig]] = TGRConfig
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        # The released code, up to the differences that the module's docstring lists.
        "released": {"inversion": {"confirmed_only": False}},
        # The learning rates, sizes and replay of FREE's preset `cpu`; a quarter of the steps of a round.
        "cpu": {
            "iterations": 60,
            "images_per_class": 10,
            "inversion": {"cmi": {"steps": 50, "width": 32, "lr": 0.003, "latent_lr": 0.01}},
            "replay": "fixed",
            "replay_steps": 8,
            "replay_tasks": 4,
            "snapshot_every": 20,
            "checkpoint_every": 20,
        },
    }
    config: TGRConfig

    def start(self, zoo: Zoo, device: torch.device) -> TrainingRun:
        """See `Method.start`."""
        require_tasks(self.config, zoo, device)
        return TGRRun(self.config, zoo, device)


class TGRRun(DistilledTasksRun):
    """The state of TGR: inversion engine, task memory, distillation, learner, and the members' descriptions.

    Attributes:
        fisher: Index of a member -> its description, for all members inverted so far.
    """

    def __init__(self, config: TGRConfig, zoo: Zoo, device: torch.device) -> None:
        self.config = config
        self.fisher: dict[int, Fisher] = {}
        self._grouped: tuple[int, list[list[int]]] = (0, [])
        super().__init__(config, zoo, device, TGR.name, label_weight=config.label_weight)
        self._probe = Zoo.open(config.probe).to(device).classifier(0) if config.probe else None

    def step(self, iteration: int) -> Mapping[str, float]:
        """One meta-iteration; see the module's docstring."""
        start, config = time.perf_counter(), self.config
        recovered = self.source.recover(
            self._sample_members(iteration),
            config.images_per_class,
            iteration,
            learner_weights=self.distillation.parameters.values(),
        )
        for member in recovered.keys() - self.fisher.keys():
            self.fisher[member] = self._describe(recovered[member])
        metrics = {**self.source.last_metrics, "recovery_seconds": time.perf_counter() - start}
        self.tasks.add(recovered, iteration)
        if recovered:
            losses = self.distillation_losses(recovered, iteration)
            update = regularised(self.distillation.parameters, losses, weight=config.regularisation)
            self.distillation_step(update.pseudo_gradient)
            metrics["distillation_loss"] = update.losses.mean().item()
        metrics["distillation_seconds"] = time.perf_counter() - start - metrics["recovery_seconds"]
        return metrics | self.replay(iteration)

    def _sample_members(self, iteration: int) -> list[int]:
        """Members in turn until each had one; then up to `members_per_step` of one group."""
        count = self.config.members_per_step
        if self.config.groups == 1:
            return self.source.sample_members(iteration, count)
        if iteration <= math.ceil(len(self.zoo) / count):
            return self.source.next_members(iteration, count)
        usable = self.source.sample_members(iteration, len(self.zoo))
        groups = [members for group in self._groups() if (members := [each for each in usable if each in group])]
        # Members without images of their own (an engine that shares pixels) are not described: one more group.
        if others := [each for each in usable if each not in self.fisher]:
            groups.append(others)
        if not groups:
            return []
        generator = seeds.generator(self.config.seed, "group", iteration)
        return groups[int(torch.randint(len(groups), (1,), generator=generator))][:count]

    def _groups(self) -> list[list[int]]:
        if self._grouped[0] != len(self.fisher):
            members = sorted(self.fisher)
            found = group_unlike(similarities([self.fisher[each] for each in members]), self.config.groups)
            self._grouped = len(members), [[members[index] for index in group] for group in found]
        return self._grouped[1]

    def _describe(self, recovered: RecoveredImages) -> Fisher:
        """The Fisher information of the probe on a member's images."""
        images, labels = recovered
        if self._probe:
            module = _Features(self._probe)
            inputs = self._probe.preprocessing.resize(images)
            weights = {name: value.detach() for name, value in module.named_parameters()}

            def features(point: Mapping[str, Tensor], shown: Tensor) -> Tensor:
                found: Tensor = functional_call(module, dict(point), (shown,))
                return found

            return fisher_information(features, weights, inputs, labels)
        # The backbone has no statistics of its own: the images of the member are normalised with theirs.
        network, weights = self.blank.network, backbone_of(self.blank.parameters)
        inputs = self.preprocessing.normalise(images)
        with torch.no_grad():
            _, statistics = network.features(weights, inputs)
        return fisher_information(
            lambda point, shown: network.features(dict(point), shown, statistics)[0], weights, inputs, labels
        )

    def state_dict(self) -> State:
        """See `TrainingRun.state_dict`."""
        state = super().state_dict()
        own = {f"fisher.{index}.{name}": v for index, each in self.fisher.items() for name, v in each.items()}
        return State({**state.tensors, **own}, state.values)

    def load_state_dict(self, state: State) -> None:
        """See `TrainingRun.load_state_dict`."""
        super().load_state_dict(state)
        own = select_prefix(state.tensors, "fisher.")
        self.fisher = {int(index): select_prefix(own, f"{index}.") for index in {name.split(".")[0] for name in own}}


class _Features(nn.Module):
    """The features of a classifier as a module, whose weights `functional_call` can replace."""

    def __init__(self, classifier: PretrainedClassifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier.features(images)

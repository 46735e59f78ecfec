"""`average`: the mean of the members' weights, adapted by gradient descent; a weak baseline.

Networks that were trained independently have similar features in different channels, so their mean has neither.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from dfml.errors import ZooError
from dfml.learners.gradient_based import GradientLearner
from dfml.learners.network import Parameters
from dfml.methods.base import Method
from dfml.methods.untrained import AdaptationConfig, FinishedRun, untrained_learner
from dfml.training.loop import TrainingConfig, TrainingRun
from dfml.zoo.zoo import Zoo


class Average(Method):
    """Mean of the members' weights, as in FedAvg (McMahan et al., AISTATS 2017); one architecture only."""

    name: ClassVar[str] = "average"
    config_type: ClassVar[type[TrainingConfig]] = AdaptationConfig
    config: AdaptationConfig

    def start(self, zoo: Zoo, device: torch.device) -> TrainingRun:
        """See `Method.start`."""
        learner = untrained_learner(self.config, zoo, device, self.name)
        learner.parameters = average_members(zoo, learner)
        return FinishedRun(learner)


def average_members(zoo: Zoo, learner: GradientLearner) -> Parameters:
    """Mean of the members' weights, with the names of the learner's parameters.

    Args:
        zoo: The members; the mean of the backbones is over all of them.
        learner: Learner of the same architecture. The mean of the heads is over the members with as many outputs as the
            learner has ways and as many head inputs as the learner's; without such members because the learner works at
            another image size, the learner keeps its own head, which is zero.

    Raises:
        ZooError: If a member's architecture is not the learner's backbone, or no member has `way` outputs.
    """
    backbones = member_backbones(zoo, learner, "averaging")
    heads: list[tuple[Tensor, Tensor]] = []
    of_way = 0
    for member in zoo.classifiers():
        head = member.network.get_classifier()  # type: ignore[operator]
        if isinstance(head, torch.nn.Linear) and head.out_features == learner.way:
            of_way += 1
            if head.weight.shape == learner.parameters["head.weight"].shape:
                heads.append((head.weight, head.bias))
    if not of_way:
        raise ZooError(f"averaging needs a member with {learner.way} outputs, but there is none; choose another --way")
    mean = {name: torch.stack([weights[name] for weights in backbones]).mean(0) for name in backbones[0]}
    if not heads:
        return {**learner.parameters, **mean}
    weight, bias = (torch.stack(parts).mean(0) for parts in zip(*heads, strict=True))
    return {**mean, "head.weight": weight, "head.bias": bias}


def member_backbones(zoo: Zoo, learner: GradientLearner, what: str) -> list[Parameters]:
    """Weights of every member's backbone, with the names of the learner's parameters; not copied.

    Args:
        zoo: The members.
        learner: Learner whose backbone has the architecture that the members must have.
        what: Name of the method, the beginning of the error message.

    Raises:
        ZooError: If a member's architecture is not the learner's backbone.
    """
    backbones: list[Parameters] = []
    expected = {name: value for name, value in learner.parameters.items() if name.startswith("backbone.")}
    for index, member in enumerate(zoo.classifiers()):
        weights = {f"backbone.{name}": value for name, value in member.network.state_dict().items()}
        different = [n for n, v in expected.items() if n not in weights or weights[n].shape != v.shape]
        if different:
            raise ZooError(
                f"{what} needs members of the learner's architecture {learner.config.backbone}, but "
                f"{zoo.name(index)} differs in {different[0]}; set learner.backbone to the architecture of all "
                "members, or use --method zoo_student, which takes mixed zoos"
            )
        backbones.append({name: weights[name] for name in expected})
    return backbones

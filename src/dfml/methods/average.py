"""`average`: the mean of the members' weights, then adaptation by gradient descent.

The weakest way to use a zoo: networks that were trained apart do not line up neuron by neuron.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from dfml.errors import ZooError
from dfml.learners.gradient_based import GradientLearner
from dfml.learners.network import Parameters
from dfml.methods.base import Method
from dfml.methods.untrained import AdaptationConfig, Finished, untrained_learner
from dfml.training.loop import TrainingConfig, TrainingRun
from dfml.zoo.zoo import Zoo


class Average(Method):
    """Mean of the members' weights (FedAvg); one architecture only."""

    name: ClassVar[str] = "average"
    config_type: ClassVar[type[TrainingConfig]] = AdaptationConfig
    config: AdaptationConfig

    def start(self, zoo: Zoo, device: torch.device) -> TrainingRun:
        """See `Method.start`."""
        learner = untrained_learner(self.config, zoo, device, self.name)
        learner.parameters = average_members(zoo, learner)
        return Finished(learner)


def average_members(zoo: Zoo, learner: GradientLearner) -> Parameters:
    """Mean of all members' weights for the learner's backbone; of heads, over the members that have `way` outputs.

    Raises:
        ZooError: If a member's architecture is not the learner's backbone, or no member has `way` outputs.
    """
    backbones = member_backbones(zoo, learner, "averaging")
    heads: list[tuple[Tensor, Tensor]] = []
    for member in zoo.classifiers():
        head = member.network.get_classifier()  # type: ignore[operator]
        if isinstance(head, torch.nn.Linear) and head.weight.shape == learner.parameters["head.weight"].shape:
            heads.append((head.weight, head.bias))
    if not heads:
        raise ZooError(f"averaging needs a member with {learner.way} outputs, but none has; choose another --way")
    mean = {name: torch.stack([weights[name] for weights in backbones]).mean(0) for name in backbones[0]}
    weight, bias = (torch.stack(parts).mean(0) for parts in zip(*heads, strict=True))
    return {**mean, "head.weight": weight, "head.bias": bias}


def member_backbones(zoo: Zoo, learner: GradientLearner, what: str) -> list[Parameters]:
    """Every member's weights for the learner's backbone, named as the learner names them; not copied.

    Args:
        zoo: The members.
        learner: Whose backbone the members must have.
        what: Needs it, for the message.

    Raises:
        ZooError: If a member's architecture is not the learner's backbone.
    """
    backbones: list[Parameters] = []
    wanted = {name: value for name, value in learner.parameters.items() if name.startswith("backbone.")}
    for index, member in enumerate(zoo.classifiers()):
        weights = {f"backbone.{name}": value for name, value in member.network.state_dict().items()}
        different = [n for n, v in wanted.items() if n not in weights or weights[n].shape != v.shape]
        if different:
            raise ZooError(
                f"{what} needs members of the learner's architecture {learner.config.backbone}, but "
                f"{zoo.name(index)} differs in {different[0]}; set learner.backbone to the architecture of all "
                "members, or use --method zoo_student, which takes mixed zoos"
            )
        backbones.append({name: weights[name] for name in wanted})
    return backbones

"""Settings of TGR."""

from __future__ import annotations

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt

from dfml.inversion.cmi import ContrastiveConfig
from dfml.inversion.loss import InversionWeights
from dfml.inversion.registry import InversionConfig
from dfml.training.recovered_tasks_run import DistilledTasksConfig


class TGRConfig(DistilledTasksConfig):
    """Settings of TGR; defaults are those of the released code unless a setting says otherwise."""

    iterations: NonNegativeInt = 1200
    """Number of meta-iterations."""
    inversion: InversionConfig = InversionConfig(
        engine="cmi",
        cmi=ContrastiveConfig(
            contrast=0.0,
            weights=InversionWeights(
                batch_norm=1.0, disagreement=0.0, total_variation=0.0, l2=0.0, jitter=4, wrap=False, flip=True
            ),
        ),
    )
    """Inversion engine, and the settings of each engine."""
    images_per_class: PositiveInt = 30
    """Number of images recovered for each class of a member in a meta-iteration (for at most
    `inversion.classes_per_round` classes of a member)."""
    groups: PositiveInt = 5
    """Number of groups of members, of which one takes part in a meta-iteration; members of a group are unlike each
    other. 1: no grouping."""
    probe: str | None = None
    """Folder of a timm backbone whose Fisher information on a member's images describes the member; the released code
    has a ResNet-34 trained on ImageNet. None: the learner's own backbone with its initial, random weights."""
    regularisation: NonNegativeFloat = 0.001
    """Weight r of the variance of the members' gradients, which is penalised without second derivatives; 0: the
    distillation takes the mean gradient of the group."""
    label_weight: NonNegativeFloat = 1.0
    """Weight of the cross-entropy of the recovered images' labels, beside the divergence from the members."""
    replay_patience: PositiveInt = 4
    """Number of replay steps in a row without improvement that end a replay until `stagnation`."""
    replay_tasks: PositiveInt = 16
    """Number of tasks per replay step; their losses are summed."""

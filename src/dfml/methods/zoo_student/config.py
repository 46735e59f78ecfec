"""Settings of `zoo_student`."""

from __future__ import annotations

from typing import Any

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from dfml.inversion.ei import ANY_ARCHITECTURE, PixelInversionConfig
from dfml.inversion.loss import InversionWeights
from dfml.inversion.registry import InversionConfig
from dfml.learners.base import ProtocolName
from dfml.learners.embedding import HeadFit
from dfml.learners.student import StudentEmbedding
from dfml.training.device import Precision
from dfml.training.loop import TrainingConfig


class ZooStudentConfig(TrainingConfig):
    """Settings of `zoo_student`, chosen on the validation classes of CIFAR-FS (docs/results/log/2026-11-21.md)."""

    shot: PositiveInt = 1
    """Not used: the student adapts to any number of images per class. Its training episodes have `episode_shot`."""
    query: PositiveInt = 15
    """Not used; the training episodes have `episode_query`."""
    protocol: ProtocolName = "strict"
    """Not used: a prediction of the student never depends on other images."""
    iterations: PositiveInt = 120
    """Number of meta-iterations."""
    snapshot_every: PositiveInt = 25
    """Number of meta-iterations between snapshots of the learner (for learning curves)."""
    checkpoint_every: PositiveInt = 25
    """Number of meta-iterations between checkpoints, from which `--resume` and `--from` continue."""
    backbone: str = "conv4_pyramid"
    """Architecture of the student: a name that `dfml.backbones.create_backbone` takes."""
    backbone_arguments: dict[str, Any] = Field(default_factory=dict)
    """Arguments of the architecture, such as `{channels: [64, 128, 256, 512]}` for twice the width, which takes three
    times as long and has not been more accurate so far."""
    img_size: PositiveInt | None = None
    """Side length of the student's input in pixels; None: the members' most common input size, the larger on a tie."""
    embedding: StudentEmbedding = "centred"
    """Embedding of an image in few-shot tasks. `probabilities`: the predicted class probabilities of all members.
    `centred`: these at temperature 2, minus the uniform distribution. `features`: the input of the student's head."""
    fit: HeadFit = "ridge"
    """Classifier head of a few-shot task. `mean`: nearest class mean by cosine similarity. `ridge`: ridge
    regression."""
    inversion: InversionConfig = InversionConfig(
        engine="ei",
        ei=PixelInversionConfig(
            search_steps=0,
            clip=False,
            weights=InversionWeights(batch_norm=1.0, total_variation=0.01, l2=0.001),
        ),
        fallback=ANY_ARCHITECTURE,
    )
    """Inversion engine, and the settings of each engine. By default the loss is that of PURER, with which a student of
    Conv4 members is about half a point more accurate (docs/results/architectures.md). Members that do not recognise
    the images recovered with it, as most networks deeper than Conv4, are inverted with the loss of `fallback`."""
    members_per_step: PositiveInt = 1
    """Number of members that images are recovered from in a meta-iteration; all members take turns."""
    images_per_class: PositiveInt = 20
    """Number of images recovered for each class of a member in a meta-iteration (for at most
    `inversion.classes_per_round` classes of a member)."""
    mixed: NonNegativeInt = 1
    """Number of mixed images per recovered image: a box of an earlier image pasted into it (CutMix)."""
    teachers: PositiveInt | None = None
    """Number of members that predict the images of a meta-iteration: those that the images were recovered from, and
    further ones at random; None: all."""
    memory: PositiveInt = 100_000
    """Largest number of images that are kept with their predictions. An image takes 3 kB at 32 x 32 pixels, and its
    predictions 1 kB for 100 members with five classes each."""
    student_steps: PositiveInt = 25
    """Average number of optimiser steps of the student per meta-iteration: few at the beginning, when there are few
    images, and twice as many at the end."""
    batch: PositiveInt = 256
    """Number of images per optimiser step of the student."""
    mirror: bool = True
    """Mirror half of the batches left to right, with unchanged targets; suits photographs, but not letters."""
    episodic: NonNegativeFloat = 0.2
    """Weight of the episodic loss in the last optimiser steps of the student (`episodic_share`). There a part of every
    batch is a few-shot episode of classes of the zoo; the loss is the cross-entropy on its query images, by nearest
    class mean. 0: no episodes."""
    episodic_share: float = Field(default=0.15, ge=0.0, lt=1.0)
    """Fraction of the optimiser steps of the student, the last ones of the training, that have the episodic loss, in
    [0, 1). In earlier steps it lowered the accuracy."""
    episode_way: PositiveInt = 32
    """Largest number of classes per training episode; fewer if the buffer has fewer classes with enough images, or the
    batch is too small."""
    episode_shot: PositiveInt = 3
    """Number of support images per class of a training episode."""
    episode_query: PositiveInt = 4
    """Number of query images per class of a training episode."""
    lr: PositiveFloat = 0.01
    """Highest learning rate of Adam. It is reached linearly in the first tenth of the optimiser steps that come before
    the episodic ones; in the other nine tenths the learning rate falls to zero along a half cosine. In the episodic
    steps (`episodic_share`) it falls from a fifth of the highest to zero along another half cosine."""
    kernel_lr: NonNegativeFloat = 0.1
    """Highest learning rate of Muon, which updates the convolution kernels, with the same schedule; 0: Adam updates
    them too."""
    temperature: PositiveFloat = 4.0
    """Temperature of the distillation."""
    precision: Precision = "auto"
    """Precision of the student in training, and of the members' predictions. `auto`: bfloat16 where the hardware
    multiplies it natively, else float32."""
    patience: PositiveInt = 5
    """Number of inversions in a row that fail (no progress, or too few images that the member itself recognises) after
    which a member is excluded."""

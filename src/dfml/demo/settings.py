"""Settings of the quickstart."""

from __future__ import annotations

from dfml.inversion.loss import InversionWeights
from dfml.inversion.meta_generator import FiveConfig
from dfml.inversion.registry import InversionConfig
from dfml.learners import LearnerConfig
from dfml.methods.best_member import BestMemberConfig
from dfml.methods.free import FREE, FreeConfig
from dfml.methods.purer import PURER, PurerConfig
from dfml.methods.zoo_student import ZooStudent, ZooStudentConfig
from dfml.pretraining import STRONG, Recipe
from dfml.settings import FrozenSettings
from dfml.training.loop import TrainingConfig

_LEARNER = LearnerConfig(kind="protonet")


class QuickstartSettings(FrozenSettings):
    """Settings of the quickstart, chosen to take about three minutes on one CPU core.

    The letters are small, have two colours and resemble each other, so other settings than those of the papers suit
    them. The settings were chosen on Latin letters that were held out from the zoo for this purpose, not on the Greek
    and Cyrillic letters of the evaluation; the numbers of meta-iterations and episodes follow from the time limit.
    """

    image_size: int = 32
    """Width and height of the letter images, in pixels."""
    train_images: int = 100
    """Images per Latin letter and digit, from which the zoo is trained. With 100, members classify nearly all held-out
    images correctly."""
    test_images: int = 40
    """Images per Greek and Cyrillic letter, for the evaluation."""
    members: int = 8
    """Classifiers in the zoo: as many as fit when 43 Latin letters and digits are divided into disjoint sets of 5."""
    recipe: Recipe = STRONG.override(epochs=15, batch_size=64, flip=False)
    """Pre-training of the members. Batches of 64, because the training sets are small; no flips, because a mirrored
    letter is another letter. With more epochs members are hardly better, and PURER learns less from their images."""
    zoo_student: ZooStudentConfig = ZooStudentConfig(
        shot=5,
        iterations=12,
        snapshot_every=4,
        checkpoint_every=12,
        backbone="conv4",
        embedding="features",
        fit="ridge",
        mixed=3,
        members_per_step=1,
        teachers=None,
        student_steps=20,
        batch=128,
        mirror=False,
    )
    """Training of `zoo_student`. Its features embed images: with 8 members they are better than the predicted
    probabilities (83.1% against 79.8% on the held-out letters). All members are teachers of every image."""
    purer: PurerConfig = PurerConfig(
        shot=5,
        query=5,
        iterations=90,
        snapshot_every=30,
        checkpoint_every=45,
        learner=_LEARNER,
        outer_lr=0.01,
        pixel_lr=0.1,
        inversion=InversionWeights(batch_norm=0.1, total_variation=0.01),
        curriculum_weight=0.1,
        warm_up=40,
    )
    """Training of PURER."""
    free: FreeConfig = FreeConfig(
        shot=5,
        query=5,
        iterations=36,
        snapshot_every=12,
        checkpoint_every=18,
        learner=_LEARNER,
        outer_lr=0.005,
        inversion=InversionConfig(
            five=FiveConfig(
                width=32,
                latent=64,
                lr=0.003,
                latent_lr=0.01,
                outer_lr=0.003,
                weights=InversionWeights(batch_norm=0.1, total_variation=0.0, l2=0.0, jitter=2, wrap=False),
            )
        ),
        members_per_step=2,
        images_per_class=10,
        memory=100,
        warm_up=10,
        replay="fixed",
        replay_steps=4,
        replay_tasks=4,
    )
    """Training of FREE, on episodes of the same size as PURER's. The weight of the batch-norm term is small: with 0.3
    and 1 the members classify the generated images with low confidence. The disagreement term is off, to save time."""
    best_member: BestMemberConfig = BestMemberConfig(shot=5, iterations=3, images_per_class=5)
    """Choice of `best_member`, from a few images of three members, to save time."""
    query: int = 15
    """Query images per class in the evaluation."""
    episodes: int = 60
    """Episodes of the evaluation."""
    curve_episodes: int = 40
    """Episodes of each point of the learning curves."""
    shown: int = 6
    """Recovered images per class, and query images per class of the new task, that the report shows."""

    @property
    def trained(self) -> dict[str, TrainingConfig]:
        """Name -> settings of each method that is trained, in the order of the report."""
        return {ZooStudent.name: self.zoo_student, PURER.name: self.purer, FREE.name: self.free}

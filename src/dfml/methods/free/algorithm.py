"""FREE: recover a task from each member of a zoo in a few steps, and distil the members with aligned gradients.

Wei et al., "FREE: Faster and Better Data-Free Meta-Learning", CVPR 2024, arXiv 2405.00984. A meta-iteration:

1. FIVE (faster inversion via meta-generator): copies of one generator take a few steps on a few members each; the
   members' images go into the task memory.
2. BELL (better generalisation via meta-learner), distillation: the members are distilled into the learner one after the
   other, which aligns their gradients (`training/alignment.py`).
3. BELL, replay: the learner is meta-trained on tasks from the memory, which mix the classes of all members so far.

Differences from the released code: the images of every member are kept (the code keeps those of the last one only);
divergences are true KL divergences; the optimisers' state lasts for the whole run; no test images are used; the
distillation has a head and an Adam of its own; the disagreement reaches the images through the learner too; shifted
images are padded with the mean colour instead of black. See also the row FREE of docs/papers.md.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from dfml.errors import UsageError
from dfml.inversion.inverted_batch import RecoveredImages
from dfml.methods.base import Method
from dfml.methods.free.config import FreeConfig
from dfml.training.alignment import joint, mean_cosine, member_gradients, sequential
from dfml.training.loop import MetricDescription, TrainingConfig, TrainingRun
from dfml.training.recovered_tasks import require_tasks
from dfml.training.recovered_tasks_run import DistilledTasksRun, backbone_of
from dfml.zoo.zoo import Zoo


class FREE(Method):
    """Meta-training on tasks that a meta-learned generator recovers from the members (Wei et al., CVPR 2024)."""

    name: ClassVar[str] = "free"
    config_type: ClassVar[type[TrainingConfig]] = FreeConfig
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        # The released code, up to the differences that the module's docstring lists.
        "released": {"inversion": {"confirmed_only": False}},
        # Chosen on the validation classes of CIFAR-FS and on letters (docs/results/log/2026-11-20.md).
        "cpu": {
            "iterations": 200,
            "inversion": {
                "five": {
                    "width": 32,
                    "lr": 0.003,
                    "latent_lr": 0.01,
                    "outer_lr": 0.003,
                    "weights": {"batch_norm": 0.03},
                }
            },
            "replay": "fixed",
            "replay_steps": 8,
            "replay_tasks": 4,
            "snapshot_every": 20,
            "checkpoint_every": 20,
        },
    }
    config: FreeConfig

    def start(self, zoo: Zoo, device: torch.device) -> TrainingRun:
        """See `Method.start`."""
        config = self.config
        require_tasks(config, zoo, device)
        if 0 < config.iterations <= config.warm_up:
            raise UsageError(
                f"iterations {config.iterations} end within the warm_up of {config.warm_up}, which trains no learner; "
                "choose more iterations or a shorter warm_up"
            )
        return FreeRun(config, zoo, device)


class FreeRun(DistilledTasksRun):
    """The state of FREE: inversion engine, task memory, distillation, learner."""

    images_caption = "Newest images in FREE's task memory, recovered from the members during the meta-training."

    def __init__(self, config: FreeConfig, zoo: Zoo, device: torch.device) -> None:
        self.config = config
        super().__init__(config, zoo, device, FREE.name)

    def step(self, iteration: int) -> Mapping[str, float]:
        """One meta-iteration in the steps of the paper's algorithm: FIVE, task memory, BELL (distillation, replay)."""
        start = time.perf_counter()
        recovered, metrics = self._five(iteration)
        metrics["recovery_seconds"] = time.perf_counter() - start
        if iteration <= self.config.warm_up:
            return metrics
        self.tasks.add(recovered, iteration)
        if recovered and self.config.alignment != "none":
            metrics |= self._bell_distillation(recovered, iteration)
        metrics["alignment_seconds"] = time.perf_counter() - start - metrics["recovery_seconds"]
        return metrics | self.replay(iteration)

    def _five(self, iteration: int) -> tuple[dict[int, RecoveredImages], dict[str, float]]:
        """FIVE: recover images from some members, and update the meta-generator.

        Returns:
            Images by member, of the members whose inversion succeeded, and the mean losses.
        """
        # Without distillation nothing trains the distillation head, so its predictions mean nothing.
        trained = iteration > self.config.warm_up and self.config.alignment != "none"
        recovered = self.source.recover(
            self.source.sample_members(iteration, self.config.members_per_step),
            self.config.images_per_class,
            iteration,
            student=self.distillation.student_logits if trained else None,
            learner_weights=self.distillation.parameters.values(),
        )
        return recovered, dict(self.source.last_metrics)

    def _bell_distillation(self, recovered: Mapping[int, RecoveredImages], iteration: int) -> dict[str, float]:
        """BELL, distillation: distil the members into the learner with implicit gradient alignment."""
        config, weights = self.config, self.distillation.parameters
        losses = self.distillation_losses(recovered, iteration)
        if config.alignment == "sequential":
            update = sequential(weights, losses, lr=config.alignment_lr, optimiser=config.alignment_optimiser)
        else:
            update = joint(weights, losses, lr=config.alignment_lr, optimiser=config.alignment_optimiser)
        metrics = {"distillation_loss": update.losses.mean().item()}
        if config.cosine_every and iteration % config.cosine_every == 0 and len(losses) > 1:
            gradients, _ = member_gradients(weights, losses)
            metrics["cosine"] = mean_cosine([backbone_of(gradient) for gradient in gradients])
        self.distillation_step(update.pseudo_gradient)
        return metrics

    def describe_metrics(self) -> Mapping[str, MetricDescription]:
        """See `TrainingRun.describe_metrics`."""
        cosine = MetricDescription(
            "gradient cosine",
            "Mean cosine between the members' gradients with respect to the backbone, in [-1, 1].",
            logarithmic=False,
        )
        return {**super().describe_metrics(), "cosine": cosine}

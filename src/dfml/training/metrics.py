"""Descriptions of the metrics that several methods have: of an `ImageSource`, and of a distillation."""

from __future__ import annotations

from dfml.training.loop import MetricDescription

DISTILLATION_LOSS = MetricDescription(
    "distillation loss",
    "Distillation loss: KL divergence of the learner's predictions from the members' predictions.",
    panel="losses",
    headline=True,
)


def describe_inversion_metrics(*, disagreement: bool = False) -> dict[str, MetricDescription]:
    """Descriptions of the mean losses of an inversion run, for `TrainingRun.describe_metrics`.

    See `ImageSource.last_metrics`.

    Args:
        disagreement: Include the divergence between members and student.
    """
    descriptions = {
        "inversion_loss": MetricDescription(
            "cross-entropy",
            "Cross-entropy of the recovered images under the members they were recovered from, mean over members; "
            "lower is better.",
            headline=True,
        ),
        "batch_norm_distance": MetricDescription(
            "distance of BN statistics",
            "Distance between the batch-norm statistics of the recovered images and the running statistics of the "
            "members, mean over members; lower is better.",
        ),
    }
    if disagreement:  # methods with a student store their images, and so check them
        descriptions["confirmed"] = MetricDescription(
            "confirmed",
            "Fraction of all recovered images so far that their own member recognises.",
            percent=True,
        )
        descriptions["disagreement"] = MetricDescription(
            "disagreement",
            "Divergence between members and student on the recovered images; the inversion maximises it.",
        )
    return descriptions

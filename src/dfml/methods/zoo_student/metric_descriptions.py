"""How the report and the progress display show what `zoo_student` measures."""

from __future__ import annotations

from collections.abc import Mapping

from dfml.training.loop import MetricDescription
from dfml.training.metrics import describe_inversion_metrics


def describe_student_metrics() -> Mapping[str, MetricDescription]:
    """Descriptions of the metrics of a meta-iteration; see `TrainingRun.describe_metrics`."""
    return {
        "episodic_loss": MetricDescription(
            "episodic loss",
            "Episodic loss: cross-entropy in nats of nearest-mean classification of the query images by the "
            "student's embeddings, in episodes of the zoo's classes.",
            panel="losses",
            headline=True,
        ),
        "distillation_loss": MetricDescription(
            "distillation loss",
            "Distillation loss: KL divergence of the student's predictions from the members' predictions, in nats, "
            "times the squared temperature.",
            panel="losses",
            headline=True,
        ),
        **describe_inversion_metrics(disagreement=True),
    }

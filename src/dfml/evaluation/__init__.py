"""Few-shot accuracy of learners on labelled images of unseen classes, with confidence intervals."""

from dfml.evaluation.protocol import Evaluation, evaluate
from dfml.evaluation.snapshots import evaluate_snapshots

__all__ = ["Evaluation", "evaluate", "evaluate_snapshots"]

"""A learner and labelled images of unseen classes -> accuracy with a confidence interval."""

from dfml.evaluation.protocol import Evaluation, evaluate
from dfml.evaluation.snapshots import evaluate_snapshots

__all__ = ["Evaluation", "evaluate", "evaluate_snapshots"]

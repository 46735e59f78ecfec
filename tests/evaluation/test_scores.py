from __future__ import annotations

from dfml.evaluation import evaluate
from dfml.learners import MetaLearner
from dfml.learners.classifier import FewShotClassifier
from dfml.methods import METHODS
from tests.factories import PREPROCESSING, zoo

from .small import DATA, QUICK


def test_embedding_every_image_once_gives_the_accuracies_of_adapting_to_every_episode() -> None:
    learner = METHODS["zoo_embedding"]().fit(zoo(3), device="cpu")
    fast = evaluate(learner, DATA, **QUICK)

    class Slow(MetaLearner):
        kind = "slow"
        name, way, protocol, preprocessing = "slow", 3, "any", PREPROCESSING

        def fit_support(self, *arguments: object) -> FewShotClassifier:
            return learner.fit_support(*arguments)  # type: ignore[arg-type]

        state_dict = from_config = to = None  # type: ignore[assignment]

    slow = evaluate(Slow(), DATA, **QUICK)
    assert fast.accuracies == slow.accuracies

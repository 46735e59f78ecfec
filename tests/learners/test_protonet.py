from __future__ import annotations

import torch

from dfml.learners.prototypes import prototypes

from .small import WAY, gradient_learner, noise_episode


def test_scores_are_negative_squared_distances_to_the_prototypes() -> None:
    learner, episode = gradient_learner("strict", torch.float64, kind="protonet"), noise_episode(torch.float64)
    inputs = learner.preprocessing.normalise(episode.support_images)
    support, statistics = learner.network.features(learner.parameters, inputs)
    queries = learner.preprocessing.normalise(episode.query_images)
    query, _ = learner.network.features(learner.parameters, queries, statistics)
    centres = torch.stack([support[episode.support_labels == label].mean(dim=0) for label in range(WAY)])
    expected = (-(torch.cdist(query, centres) ** 2)).softmax(dim=1)
    classifier = learner.adapt(episode.support_images, episode.support_labels)
    torch.testing.assert_close(classifier.predict_proba(episode.query_images), expected)


def test_prototypes_are_class_means_of_uneven_classes_in_any_order() -> None:
    features = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 0.0], [7.0, 2.0]])
    expected = torch.tensor([[3.0, 4.0], [13 / 3, 4 / 3]])
    torch.testing.assert_close(prototypes(features, torch.tensor([1, 0, 1, 1]), 2), expected)

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from dfml.errors import LearnerError
from dfml.evaluation import evaluate
from dfml.learners.classifier import FewShotClassifier
from dfml.learners.embedding import EmbeddingClassifier, HeadFit, embedding_scores, episode_loss, fit_head
from dfml.learners.student import Student, StudentEmbedding
from dfml.learners.zoo_embedding import ZooEmbeddingLearner
from tests.factories import PREPROCESSING, coloured_dataset, images, load_episode, written_zoo

FITS: tuple[HeadFit, ...] = ("mean", "ridge")
LABELS = torch.tensor([0, 1, 0, 2, 1])

every_fit = pytest.mark.parametrize("fit", FITS)
supports = st.tuples(st.lists(st.integers(1, 6), min_size=2, max_size=5), st.integers(2, 30), st.integers(0, 2**32))


def support_set(shots: list[int], width: int, seed: int) -> tuple[Tensor, Tensor]:
    """Features of different lengths and labels in random order, with `shots` images of every class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(len(shots)).repeat_interleave(torch.tensor(shots))
    labels = labels[torch.randperm(len(labels), generator=generator)]
    features = torch.randn(len(labels), width, generator=generator, dtype=torch.float64)
    return features * (0.1 + 10 * torch.rand(len(labels), 1, generator=generator, dtype=torch.float64)), labels


@given(supports)
def test_ridge_solves_the_normal_equations_and_the_least_squares_problem(case: tuple[list[int], int, int]) -> None:
    """R2D2 (Bertinetto et al., ICLR 2019), weight 1, for uneven classes and more or fewer images than features."""
    features, labels = support_set(*case)
    way, width = len(case[0]), case[1]
    rows, targets = functional.normalize(features, dim=1), functional.one_hot(labels, way).double()
    found = fit_head(features, labels, way, "ridge")
    identity = torch.eye(width, dtype=torch.float64)
    torch.testing.assert_close(found.T, torch.linalg.solve(rows.T @ rows + identity, rows.T @ targets))
    zeros = torch.zeros(width, way, dtype=torch.float64)
    solution = torch.linalg.lstsq(torch.cat([rows, identity]), torch.cat([targets, zeros])).solution
    torch.testing.assert_close(found.T, solution)


@given(supports)
def test_mean_is_the_unit_norm_prototype_of_every_class(case: tuple[list[int], int, int]) -> None:
    features, labels = support_set(*case)
    found = fit_head(features, labels, len(case[0]), "mean")
    for label, row in enumerate(found):
        mean = features[labels == label].mean(dim=0)
        torch.testing.assert_close(row, mean / mean.norm())


@given(supports, st.sampled_from(FITS))
def test_order_of_images_and_numbering_of_classes_do_not_matter(case: tuple[list[int], int, int], fit: HeadFit) -> None:
    features, labels = support_set(*case)
    generator, way = torch.Generator().manual_seed(case[2]), len(case[0])
    shuffled, renamed = torch.randperm(len(labels), generator=generator), torch.randperm(way, generator=generator)
    found = fit_head(features[shuffled], renamed[labels[shuffled]], way, fit)
    torch.testing.assert_close(found[renamed], fit_head(features, labels, way, fit))


@pytest.mark.parametrize("way", [2, 5, 20])
def test_with_one_orthogonal_image_per_class_both_fits_rank_alike(way: int) -> None:
    generator = torch.Generator().manual_seed(way)
    basis = torch.linalg.qr(torch.randn(32, 32, generator=generator, dtype=torch.float64)).Q[:way]
    support = basis * torch.linspace(0.1, 9, way, dtype=torch.float64)[:, None]
    queries = torch.randn(50, 32, generator=generator, dtype=torch.float64)
    mean, ridge = (embedding_scores(queries, fit_head(support, torch.arange(way), way, fit)) for fit in FITS)
    assert torch.equal(mean.argsort(dim=1), ridge.argsort(dim=1))
    torch.testing.assert_close(mean, 10 * functional.cosine_similarity(queries[:, None], support[None], dim=2))


@pytest.mark.numeric
def test_ridge_ignores_a_noisy_direction_that_misleads_the_mean() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(2).repeat(30)
    signs = 2.0 * labels - 1.0
    # A weak direction separates the classes; in a strong, noisy one the class means differ by chance.
    informative, noisy = 0.3 * signs, 3.0 * torch.randn(60, generator=generator) + 0.5 * signs
    features = torch.stack([informative, noisy, torch.ones(60)], dim=1)
    queries = torch.stack([informative, 3.0 * torch.randn(60, generator=generator), torch.ones(60)], dim=1)
    accuracy = {
        fit: (embedding_scores(queries, fit_head(features, labels, 2, fit)).argmax(dim=1) == labels).float().mean()
        for fit in FITS
    }
    assert accuracy["ridge"] > 0.9 > 0.7 > accuracy["mean"]


@every_fit
def test_scores_do_not_depend_on_the_length_of_an_embedding(fit: HeadFit) -> None:
    features, labels = support_set([2, 3, 1], 8, 0)
    head = fit_head(features, labels, 3, fit)
    queries, _ = support_set([4], 8, 1)
    torch.testing.assert_close(embedding_scores(7.0 * queries, head), embedding_scores(queries, head))
    if fit == "ridge":
        torch.testing.assert_close(fit_head(0.2 * features, labels, 3, fit), head)


def student(fit: HeadFit, embedding: StudentEmbedding = "centred") -> Student:
    return Student.untrained("conv4", {}, (3, 2, 4), PREPROCESSING, embedding=embedding, fit=fit)


def zoo_embedding(folder: Path, fit: HeadFit, embedding: StudentEmbedding) -> ZooEmbeddingLearner:
    return ZooEmbeddingLearner(list(written_zoo(folder)), PREPROCESSING, representation=embedding, fit=fit)


@every_fit
@pytest.mark.parametrize(("kind", "embedding"), list(product(("student", "zoo"), get_args(StudentEmbedding))))
def test_a_saved_classifier_predicts_the_same_bits(
    kind: str, embedding: StudentEmbedding, fit: HeadFit, tmp_path: Path
) -> None:
    learner = student(fit, embedding) if kind == "student" else zoo_embedding(tmp_path / "zoo", fit, embedding)
    classifier = learner.adapt(images(5, 1), LABELS, ("ant", "bee", "cat"))
    expected = classifier.predict_proba(images(7, 2))
    classifier.save_pretrained(tmp_path / "classifier")
    again = FewShotClassifier.from_pretrained(tmp_path / "classifier")
    assert isinstance(again, EmbeddingClassifier)
    assert torch.equal(again.predict_proba(images(7, 2)), expected)
    assert (again.labels, again.preprocessing) == (("ant", "bee", "cat"), PREPROCESSING)
    again.save_pretrained(tmp_path / "copy")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "copy" / name).read_bytes() == (tmp_path / "classifier" / name).read_bytes()


def test_the_fit_belongs_to_the_learner_and_changes_its_predictions() -> None:
    mean, ridge = (student(fit).adapt(images(5, 1), LABELS) for fit in FITS)
    for each, fit in ((mean, "mean"), (ridge, "ridge")):
        assert isinstance(each, EmbeddingClassifier)
        torch.testing.assert_close(each.head, fit_head(student(fit).embed(images(5, 1)), LABELS, 3, fit))  # type: ignore[arg-type]
    assert not torch.allclose(mean.predict_proba(images(7, 2)), ridge.predict_proba(images(7, 2)), atol=1e-3)


@pytest.mark.parametrize("kind", ["maml", "unknown"])
def test_a_classifier_around_a_learner_that_does_not_embed_is_refused(kind: str, tmp_path: Path) -> None:
    student("mean").adapt(images(5, 1), LABELS).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    if kind == "maml":
        from dfml.learners import LearnerConfig, create_learner

        create_learner(LearnerConfig(), PREPROCESSING).save_pretrained(tmp_path / "maml")
        config["learner"] = json.loads((tmp_path / "maml" / "config.json").read_text())
    config["learner"]["kind"] = kind
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(LearnerError, match=rf"found a learner of the kind '{kind}'"):
        FewShotClassifier.from_pretrained(tmp_path)


@every_fit
@pytest.mark.numeric
def test_an_evaluation_fits_the_head_like_adapt(fit: HeadFit) -> None:
    learner, data = student(fit), coloured_dataset(classes=4, per_class=12)
    by_hand = []
    for index in range(6):
        task = load_episode(data, 3, 4, 5, 1, index)
        classifier = learner.adapt(task.support_images, task.support_labels)
        predicted = classifier.predict_proba(task.query_images).argmax(dim=1)
        by_hand.append((predicted == task.query_labels).double().mean().item())
    found = evaluate(learner, data, way=3, shot=4, query=5, episodes=6, seed=1)
    assert found.accuracies == pytest.approx(by_hand)


@given(st.integers(2, 4), st.integers(1, 3), st.integers(1, 3), st.integers(0, 3), st.integers(0, 2**32))
def test_episode_loss_is_the_cross_entropy_of_cosines_to_the_prototypes(
    way: int, shot: int, query: int, others: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(
        way * (shot + query) + others, 5, generator=generator, dtype=torch.float64
    ).requires_grad_()
    loss = episode_loss(embeddings, way, shot, query)
    centres = [functional.normalize(rows.mean(0), dim=0) for rows in embeddings[: way * shot].split(shot)]
    losses = []
    for label in range(way):
        for row in range(query):
            image = functional.normalize(embeddings[way * shot + label * query + row], dim=0)
            scores = torch.stack([torch.exp(10.0 * image @ mean) for mean in centres])
            losses.append(-torch.log(scores[label] / scores.sum()))
    torch.testing.assert_close(loss, torch.stack(losses).mean())
    (gradient,) = torch.autograd.grad(loss, embeddings)
    assert bool(gradient[: way * (shot + query)].any(dim=1).all())
    assert not bool(gradient[way * (shot + query) :].any())

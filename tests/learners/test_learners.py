from __future__ import annotations

from itertools import product
from pathlib import Path

import jaxtyping
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from dfml.errors import DataError, LearnerError, UsageError
from dfml.learners import LearnerConfig, MetaLearner, create_learner
from dfml.learners.classifier import FewShotClassifier
from dfml.learners.embedding import EmbeddingClassifier
from dfml.learners.gradient import EpisodeOutcome, GradientLearner
from dfml.learners.maml import MAML
from dfml.methods.base import Method
from dfml.methods.purer import PURER
from dfml.methods.zoo_embedding import ZooEmbedding
from dfml.methods.zoo_student import ZooStudent
from dfml.tasks.episode import Episode
from tests.factories import PREPROCESSING, SIZE, images, zoo

from .reference import query_loss_and_gradient, strict_logits

WAY = 3
KINDS = ("maml", "anil", "protonet")


def learner(protocol: str = "strict", dtype: torch.dtype = torch.float32, **settings: object) -> GradientLearner:
    config = LearnerConfig(**{"head_start": "random", **settings})  # type: ignore[arg-type]
    made = create_learner(config, PREPROCESSING, way=WAY, protocol=protocol, seed=1)  # type: ignore[arg-type]
    made.parameters = {name: value.to(dtype) for name, value in made.parameters.items()}
    made.stored = {name: value.to(dtype) for name, value in made.stored.items()}
    return made


def episode(dtype: torch.dtype = torch.float32, shot: int = 2) -> Episode:
    support, query = torch.arange(WAY).repeat_interleave(shot), torch.arange(WAY).repeat_interleave(3)
    return Episode(images(WAY * shot, 1, dtype=dtype), support, images(WAY * 3, 2, dtype=dtype), query)


def outcome_and_gradient(made: GradientLearner, task: Episode) -> tuple[EpisodeOutcome, dict[str, Tensor]]:
    parameters = {name: value.requires_grad_() for name, value in made.parameters.items()}
    outcome = made.episode_loss(parameters, made.stored, task)
    gradients = torch.autograd.grad(outcome.loss, list(parameters.values()), materialize_grads=True, allow_unused=True)
    return outcome, dict(zip(parameters, gradients, strict=True))


@pytest.mark.parametrize(("second_order", "steps"), list(product((True, False), (1, 3))))
@pytest.mark.parametrize(("kind", "adapted"), [("maml", None), ("anil", ("head.",))])
@pytest.mark.numeric
def test_maml_and_anil_equal_their_plain_twins(
    kind: str, adapted: tuple[str, ...] | None, second_order: bool, steps: int
) -> None:
    settings = {"kind": kind, "second_order": second_order, "inner_steps": steps, "inner_lr": 0.05}
    made, task = learner("paper", torch.float64, **settings), episode(torch.float64)
    outcome, gradient = outcome_and_gradient(made, task)
    loss, expected = query_loss_and_gradient(made, task, adapted)
    torch.testing.assert_close(outcome.loss, loss)
    for name, value in expected.items():
        # A convolution's bias has no effect before batch-norm: its gradient is zero up to rounding.
        torch.testing.assert_close(gradient[name], value, atol=1e-9, rtol=1e-6, msg=name)


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.numeric
def test_strict_rule_equals_its_plain_twin(steps: int) -> None:
    made = learner("strict", torch.float64, inner_steps=steps, test_inner_steps=steps, inner_lr=0.05)
    task = episode(torch.float64)
    expected = strict_logits(made, task).detach()
    classifier = made.adapt(task.support_images, task.support_labels)
    torch.testing.assert_close(classifier.predict_proba(task.query_images), expected.softmax(dim=1))
    outcome, _ = outcome_and_gradient(made, task)
    torch.testing.assert_close(outcome.loss.detach(), functional.cross_entropy(expected, task.query_labels))


def test_protonet_scores_are_negative_squared_distances_to_class_means() -> None:
    made, task = learner("strict", torch.float64, kind="protonet"), episode(torch.float64)
    inputs = made.preprocessing.normalise(task.support_images)
    support, statistics = made.network.features(made.parameters, inputs)
    query, _ = made.network.features(made.parameters, made.preprocessing.normalise(task.query_images), statistics)
    means = torch.stack([support[task.support_labels == label].mean(dim=0) for label in range(WAY)])
    expected = (-(torch.cdist(query, means) ** 2)).softmax(dim=1)
    found = made.adapt(task.support_images, task.support_labels).predict_proba(task.query_images)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.numeric
def test_strict_answers_do_not_depend_on_the_batch_and_paper_answers_do(kind: str) -> None:
    task = episode()
    for protocol, depends in (("strict", False), ("paper", True)):
        classifier = learner(protocol, kind=kind).adapt(task.support_images, task.support_labels)
        together = classifier.predict_proba(task.query_images)
        alone = torch.cat([classifier.predict_proba(image[None]) for image in task.query_images])
        assert torch.allclose(together, alone, atol=1e-5) is not depends


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_support_and_query_images(kind: str) -> None:
    task = episode()
    task.support_images.requires_grad_()
    task.query_images.requires_grad_()
    made = learner(kind=kind, second_order=False)
    parameters = {name: value.requires_grad_() for name, value in made.parameters.items()}
    outcome = made.episode_loss(parameters, made.stored, task, second_order=True)
    for gradient in torch.autograd.grad(outcome.loss, [task.support_images, task.query_images]):
        assert torch.all(gradient.abs().sum(dim=(1, 2, 3)) > 0)


def graph_nodes(made: GradientLearner, task: Episode) -> int:
    """Nodes of the graph behind the outer loss."""
    parameters = {name: value.requires_grad_() for name, value in made.parameters.items()}
    loss = made.episode_loss(parameters, made.stored, task).loss
    held, seen, queue = 0, set(), [loss.grad_fn]
    while queue:
        node = queue.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        held += 1
        queue += [parent for parent, _ in node.next_functions]
    return held


def test_first_order_and_adaptation_build_no_second_order_graph() -> None:
    task = episode()
    one, many = (graph_nodes(learner(second_order=False, inner_steps=steps), task) for steps in (1, 10))
    # Per step only the addition of a constant to each weight.
    assert many - one <= 9 * 2 * len(learner().parameters)
    assert graph_nodes(learner(second_order=True, inner_steps=10), task) > 10 * many
    classifier = learner(test_inner_steps=5).adapt(task.support_images, task.support_labels)
    assert not classifier.predict_proba(task.query_images).requires_grad
    assert not any(value.requires_grad for value in classifier.parameters.values())  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("protocol", "asked", "taken"), [("paper", None, 2), ("strict", None, 10), ("paper", 3, 3), ("strict", 3, 3)]
)
def test_adapts_in_as_many_steps_as_suit_the_protocol_unless_told(protocol: str, asked: int | None, taken: int) -> None:
    task = episode()
    made = learner(protocol, inner_steps=2, test_inner_steps=asked, inner_lr=0.05)
    plain = learner(protocol, inner_steps=2, test_inner_steps=taken, inner_lr=0.05)
    support = task.support_images, task.support_labels
    answers = [each.adapt(*support).predict_proba(task.query_images) for each in (made, plain)]
    assert torch.equal(*answers)
    assert made.test_inner_steps == taken


def test_adapting_leaves_the_learner_as_it_was() -> None:
    made, task = learner(inner_steps=2), episode()
    before = {name: value.clone() for name, value in made.parameters.items()}
    first = made.adapt(task.support_images, task.support_labels).predict_proba(task.query_images)
    second = made.adapt(task.support_images, task.support_labels).predict_proba(task.query_images)
    assert torch.equal(first, second)
    assert all(torch.equal(value, made.parameters[name]) for name, value in before.items())


@pytest.mark.parametrize("kind", KINDS)
def test_any_way_uneven_support_any_image_size(kind: str) -> None:
    labels = torch.tensor([4, 0, 1, 1, 2, 3, 1])
    classifier = learner(kind=kind).adapt(images(7, size=23), labels, ("p", "q", "r", "s", "t"))
    assert classifier.labels == ("p", "q", "r", "s", "t")
    found = classifier.predict_proba(torch.rand(3, 3, 40, 20, generator=torch.Generator().manual_seed(0)))
    assert found.shape == (3, 5)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(3))


def test_with_another_way_every_class_starts_from_the_mean_row() -> None:
    made = learner(kind="anil", test_inner_steps=1, inner_lr=1e-9)
    classifier = made.adapt(images(5), torch.arange(5))
    rows = classifier.parameters["head.weight"]  # type: ignore[attr-defined]
    torch.testing.assert_close(rows, made.parameters["head.weight"].mean(dim=0).expand(5, -1))


def test_from_a_zero_head_one_step_already_separates_classes() -> None:
    task = episode()
    made = learner("strict", kind="anil", head_start="zero", test_inner_steps=1)
    assert torch.all(made.parameters["head.weight"] == 0)
    classifier = made.adapt(task.support_images, task.support_labels)
    assert classifier.parameters["head.weight"].abs().sum() > 0  # type: ignore[attr-defined]


@pytest.mark.numeric
def test_shrinkage_draws_the_statistics_towards_the_stored_ones() -> None:
    task = episode()
    for share in (0.0, 0.25, 1.0):
        made = learner(statistics_shrinkage=share, test_inner_steps=1)
        made.stored = {name: torch.full_like(value, 2.0) for name, value in made.stored.items()}
        inputs = made.preprocessing.normalise(task.support_images)
        _, support = made.network.features(made.parameters, inputs)
        classifier = made.adapt(task.support_images, task.support_labels)
        for name, value in support.items():
            expected = (1 - share) * value + share * 2.0
            torch.testing.assert_close(classifier.statistics[name], expected)  # type: ignore[attr-defined]


@pytest.mark.parametrize(("kind", "protocol"), list(product(KINDS, ("strict", "paper"))))
@pytest.mark.numeric
def test_learner_and_classifier_survive_the_disk(kind: str, protocol: str, tmp_path: Path) -> None:
    made, task = learner(protocol, kind=kind, statistics_shrinkage=0.3), episode()
    made.stored = {name: value + 0.5 for name, value in made.stored.items()}
    made.save_pretrained(tmp_path / "learner")
    loaded = MetaLearner.from_pretrained(tmp_path / "learner")
    assert (type(loaded), loaded.name, loaded.way, loaded.protocol) == (type(made), made.name, WAY, protocol)
    classifier = made.adapt(task.support_images, task.support_labels, ("x", "y", "z"))
    again = loaded.adapt(task.support_images, task.support_labels, ("x", "y", "z"))
    again.save_pretrained(tmp_path / "classifier")
    last = FewShotClassifier.from_pretrained(tmp_path / "classifier")
    assert last.labels == ("x", "y", "z")
    # The same bits up to memory layout, which decides the order of a convolution's sums.
    torch.testing.assert_close(last.predict_proba(task.query_images), classifier.predict_proba(task.query_images))


def test_any_timm_network_can_be_a_backbone() -> None:
    made = create_learner(LearnerConfig(backbone="test_resnet"), PREPROCESSING, way=WAY, protocol="strict")
    task = episode()
    outcome, gradient = outcome_and_gradient(made, task)
    assert torch.isfinite(outcome.loss)
    assert sum(value.abs().sum() for name, value in gradient.items() if name.startswith("backbone.")) > 0
    assert made.adapt(task.support_images, task.support_labels).predict(task.query_images).shape == (9,)


@pytest.mark.parametrize("method", [PURER, ZooStudent])
def test_a_backbone_of_one_size_is_built_for_the_images_that_there_are(method: type[Method]) -> None:
    section = {"purer": "learner", "zoo_student": None}[method.name]
    chosen = {"backbone": "vit_tiny_patch16_224"}
    run = method(way=2, iterations=1, **({section: chosen} if section else chosen)).begin(zoo(2), torch.device("cpu"))
    support = images(4), torch.tensor([0, 0, 1, 1])
    assert run.learner().adapt(*support).predict_proba(images(3)).shape == (3, 2)


@pytest.mark.parametrize("method", [PURER, ZooStudent])
def test_a_backbone_that_cannot_take_the_images_is_refused_before_anything_is_computed(method: type[Method]) -> None:
    section = {"purer": "learner", "zoo_student": None}[method.name]
    chosen = {"backbone": "convnext_atto"}
    with pytest.raises(UsageError, match="'convnext_atto' cannot learn from images of 16 x 16 pixels"):
        method(way=2, **({section: chosen} if section else chosen)).begin(zoo(2), torch.device("cpu"))


@pytest.mark.parametrize(
    ("count", "labels", "message"),
    [
        (0, [], "one label an image"),
        (3, [0, 1], "one label an image"),
        (2, [0, 2], "without gaps"),
        (2, [-1, 0], "count from 0"),
    ],
)
def test_a_support_set_that_cannot_be_adapted_to_is_refused(count: int, labels: list[int], message: str) -> None:
    with pytest.raises(LearnerError, match=message):
        learner().adapt(images(count), torch.tensor(labels, dtype=torch.int64))


@pytest.mark.parametrize("kind", [*KINDS, "zoo_embedding"])
def test_bytes_are_refused_where_floats_are_meant(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # users have no annotations checked
    made = ZooEmbedding().fit(zoo(2), device="cpu") if kind == "zoo_embedding" else learner(kind=kind)
    support, labels = images(4), torch.tensor([0, 0, 1, 1])
    in_bytes = (255 * support).to(torch.uint8)
    with pytest.raises(DataError, match="divide bytes by 255"):
        made.adapt(in_bytes, labels)
    with pytest.raises(DataError, match="divide bytes by 255"):
        made.adapt(support, labels).predict(in_bytes)


def test_what_is_no_learner_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LearnerError, match="expected a saved learner"):
        MetaLearner.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"kind": "unheard of"}')
    with pytest.raises(LearnerError, match="kind 'unheard of', which is not dfml's own"):
        MetaLearner.from_pretrained(tmp_path)
    with pytest.raises(LearnerError, match="few-shot classifier"):
        FewShotClassifier.from_pretrained(tmp_path)


def test_initial_weights_depend_on_the_seed_only() -> None:
    torch.manual_seed(1)
    first = create_learner(LearnerConfig(), PREPROCESSING, seed=7).parameters
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second = create_learner(LearnerConfig(), PREPROCESSING, seed=7).parameters
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = create_learner(LearnerConfig(), PREPROCESSING, seed=8).parameters
    assert not torch.equal(first["backbone.blocks.0.conv.weight"], other["backbone.blocks.0.conv.weight"])
    assert PREPROCESSING.size == SIZE


def test_a_kind_belongs_to_one_class() -> None:
    with pytest.raises(
        TypeError, match=r"Thief: expected a `kind` of its own, found 'maml', which is dfml\.learners\.maml\.MAML"
    ):
        type("Thief", (MAML,), {"kind": "maml"})
    assert MetaLearner._kinds["maml"] is MAML
    with pytest.raises(TypeError, match="found 'embedding'"):
        type("Thief", (EmbeddingClassifier,), {"kind": "embedding"})
    type("Child", (EmbeddingClassifier,), {})  # without a kind of its own, it is saved as its parent
    assert FewShotClassifier._kinds["embedding"] is EmbeddingClassifier

    body = {"kind": "mine", "__module__": "__main__"}
    type("Mine", (MAML,), body)
    again = type("Mine", (MAML,), body)  # a notebook's cell, run again
    try:
        assert MetaLearner._kinds["mine"] is again
    finally:
        del MetaLearner._kinds["mine"]

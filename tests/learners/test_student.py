from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from dfml.images import resize_and_crop
from dfml.learners.base import MetaLearner
from dfml.learners.embedding import EmbeddingClassifier
from dfml.learners.student import MemberOutputs, Student, StudentEmbedding
from dfml.training.distillation import divergence
from dfml.zoo import Preprocessing
from tests.factories import PREPROCESSING, images

OUTPUTS = [3, 2, 5, 2, 3]
LABELS = torch.tensor([0, 1, 0, 2, 1])

every_backbone = pytest.mark.parametrize("backbone", ["conv4", "fewshot_resnet10"])
every_embedding = pytest.mark.parametrize("embedding", get_args(StudentEmbedding))


def student(backbone: str = "conv4", *, seed: int = 0, **settings: Any) -> Student:
    """Student whose running statistics differ from 0 and 1, so that using batch statistics would change its output."""
    made = Student.untrained(backbone, {}, OUTPUTS, PREPROCESSING, seed=seed, **settings)
    made.network.train()
    with torch.no_grad():
        for index in range(3):
            made.logits(images(16, seed=index))
    made.network.eval()
    return made


def normal(count: int, outputs: int, seed: int) -> Tensor:
    return 3.0 * torch.randn(count, outputs, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@st.composite
def zoos(draw: st.DrawFn) -> tuple[list[int], Tensor, Tensor, Tensor]:
    """Outputs of members, teacher logits with gaps, student logits, and the queried members: images x members."""
    outputs = draw(st.lists(st.integers(1, 5), min_size=1, max_size=6))
    count, seed = draw(st.integers(1, 4)), draw(st.integers(0, 2**32))
    teacher, student_logits = (normal(count, sum(outputs), seed + index) for index in range(2))
    flags = draw(st.lists(st.booleans(), min_size=count * len(outputs), max_size=count * len(outputs)).filter(any))
    queried = torch.tensor(flags).view(count, len(outputs))
    teacher[~queried.repeat_interleave(torch.tensor(outputs), dim=1)] = math.nan
    return outputs, teacher, student_logits, queried


@given(zoos(), st.floats(0.5, 8.0))
def test_divergence_is_the_mean_of_a_loop_over_images_and_queried_members(
    case: tuple[list[int], Tensor, Tensor, Tensor], temperature: float
) -> None:
    outputs, teacher, logits, queried = case
    logits.requires_grad_()
    found = MemberOutputs(outputs).divergence(teacher, logits, temperature)
    (gradient,) = torch.autograd.grad(found, logits)
    each = [
        divergence(of_member[None], of_student[None], temperature)
        for row, flags in enumerate(queried.tolist())
        for of_member, of_student, flag in zip(
            torch.split(teacher[row], outputs), torch.split(logits[row], outputs), flags, strict=True
        )
        if flag
    ]
    mean = torch.stack(each).mean()
    torch.testing.assert_close(found, mean)
    torch.testing.assert_close(gradient, torch.autograd.grad(mean, logits)[0])
    assert torch.all(gradient[teacher.isnan()] == 0)


def test_divergence_has_the_bits_of_the_written_out_expression() -> None:
    teacher, logits = normal(8, 15, 0).float(), normal(8, 15, 1).float().requires_grad_()
    teacher[:3, :3] = math.nan
    total, count = logits.new_zeros(()), logits.new_zeros(())
    for columns in MemberOutputs(OUTPUTS)._columns:
        known = ~teacher[:, columns][..., 0].isnan()
        p = functional.log_softmax(teacher[:, columns].nan_to_num() / 4.0, dim=-1)
        q = functional.log_softmax(logits[:, columns] / 4.0, dim=-1)
        total = total + (functional.kl_div(q, p, reduction="none", log_target=True).sum(dim=-1) * known).sum()
        count = count + known.sum()
    expected = 4.0**2 * total / count
    found = MemberOutputs(OUTPUTS).divergence(teacher, logits, 4.0)
    assert torch.equal(found, expected)
    assert torch.equal(*(torch.autograd.grad(value, logits)[0] for value in (found, expected)))


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("log_softmax", lambda group: functional.log_softmax(group, dim=1)),
        ("centred_probabilities", lambda group: functional.softmax(group / 2, dim=1) - 1 / group.shape[1]),
    ],
)
@given(case=zoos())
def test_functions_of_all_outputs_equal_those_of_every_member(
    name: str, function: Callable[[Tensor], Tensor], case: tuple[list[int], Tensor, Tensor, Tensor]
) -> None:
    outputs, _, logits, _ = case
    logits.requires_grad_()
    found = getattr(MemberOutputs(outputs), name)(logits)
    expected = torch.cat([function(group) for group in torch.split(logits, outputs, dim=1)], dim=1)
    torch.testing.assert_close(found, expected)
    weights = normal(len(logits), sum(outputs), 1)
    gradients = [torch.autograd.grad((value * weights).sum(), logits)[0] for value in (found, expected)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_log_probabilities_teach_the_same_as_logits_also_in_half_precision(temperature: float) -> None:
    outputs, teacher, logits = MemberOutputs(OUTPUTS), normal(8, 15, 0), normal(8, 15, 1)
    expected = outputs.divergence(teacher, logits, temperature)
    torch.testing.assert_close(outputs.divergence(outputs.log_softmax(teacher), logits, temperature), expected)
    stored = outputs.log_softmax(teacher).half().float()
    torch.testing.assert_close(
        outputs.divergence(stored, logits.float(), temperature), expected.float(), rtol=0.01, atol=0
    )
    assert outputs.divergence(teacher, teacher + 3.0, temperature).abs() < 1e-12


@every_backbone
def test_random_weights_depend_on_the_seed_only(backbone: str) -> None:
    before = torch.random.get_rng_state()
    first, again, other = (
        Student.untrained(backbone, {}, OUTPUTS, PREPROCESSING, seed=seed).logits(images(3)) for seed in (0, 0, 1)
    )
    assert first.shape == (3, 15)
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)
    assert torch.equal(torch.random.get_rng_state(), before)


@every_backbone
@every_embedding
def test_a_saved_student_predicts_the_same_bits(backbone: str, embedding: str, tmp_path: Path) -> None:
    made = student(backbone, embedding=embedding, fit="mean", way=7, name="my student")
    made.save_pretrained(tmp_path / "student")
    again = MetaLearner.from_pretrained(tmp_path / "student")
    assert isinstance(again, Student)
    assert torch.equal(again.logits(images(4)), made.logits(images(4)))
    assert torch.equal(again.embed(images(4)), made.embed(images(4)))
    predictions = [each.adapt(images(5, 1), LABELS).predict_proba(images(6, 2)) for each in (made, again)]
    assert torch.equal(*predictions)
    for attribute in ("outputs", "embedding", "fit", "way", "name", "protocol", "preprocessing", "architecture"):
        assert getattr(again, attribute) == getattr(made, attribute)
    again.save_pretrained(tmp_path / "copy")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "copy" / name).read_bytes() == (tmp_path / "student" / name).read_bytes()


def test_config_and_state_dict_restore_a_learner_without_files() -> None:
    made = student(way=4, name="my student", fit="ridge")
    again = Student.from_config(made.get_config(), made.state_dict())
    assert (again.name, again.way, again.protocol, again.preprocessing) == ("my student", 4, "any", PREPROCESSING)
    assert isinstance(again, Student)
    assert torch.equal(again.embed(images(4)), made.embed(images(4)))


@every_backbone
@every_embedding
@pytest.mark.numeric
def test_predictions_do_not_depend_on_the_batch(backbone: str, embedding: str) -> None:
    made = student(backbone, embedding=embedding)
    classifier = made.adapt(images(5, 1), LABELS)
    assert isinstance(classifier, EmbeddingClassifier)
    queries = torch.cat([images(3, 2), torch.zeros(3, 3, 16, 16)])
    for function in (made.embed, classifier.scores):
        alone = torch.cat([function(image[None]) for image in queries])
        torch.testing.assert_close(function(queries), alone, rtol=1e-3, atol=1e-5)
    before = {name: value.clone() for name, value in made.network.state_dict().items()}
    classifier.predict_proba(queries)
    assert all(torch.equal(value, before[name]) for name, value in made.network.state_dict().items())


@every_backbone
def test_embeddings_are_probabilities_of_every_member_or_head_inputs(backbone: str) -> None:
    centred, probabilities, features = (
        student(backbone, embedding=embedding) for embedding in get_args(StudentEmbedding)
    )
    logits = probabilities.logits(images(4))
    torch.testing.assert_close(probabilities.embed(images(4)), probabilities.member_outputs.log_softmax(logits).exp())
    torch.testing.assert_close(centred.embed(images(4)), probabilities.member_outputs.centred_probabilities(logits))
    assert not any(each.embed(images(1)).requires_grad for each in (centred, probabilities, features))
    head = features.network.get_classifier()  # type: ignore[operator]
    torch.testing.assert_close(head(features.embed(images(4))), logits)


def test_images_are_normalised_by_the_preprocessing() -> None:
    plain = Preprocessing(16, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    other = Student.untrained("conv4", {}, OUTPUTS, plain)
    expected = other.logits(PREPROCESSING.normalise(images(4)))
    torch.testing.assert_close(Student.untrained("conv4", {}, OUTPUTS, PREPROCESSING).logits(images(4)), expected)


def test_gradients_of_logits_reach_images_and_weights() -> None:
    made, shown = student(), images(4).requires_grad_()
    inputs = [shown, *made.network.parameters()]
    gradients = torch.autograd.grad(made.logits(shown).square().sum(), inputs)
    assert all(bool((gradient != 0).any()) for gradient in (gradients[0], gradients[-1]))


@every_embedding
def test_one_pass_returns_logits_and_embeddings(embedding: str) -> None:
    made, shown = student(embedding=embedding), images(4)
    logits, embeddings = made.logits_and_embeddings(shown)
    torch.testing.assert_close(logits, made.logits(shown))
    torch.testing.assert_close(embeddings.detach(), made.embed(shown))
    weights = made.network.get_parameter("blocks.0.conv.weight")
    for part in (logits, embeddings):
        assert bool(torch.autograd.grad(part[:, 0].sum(), weights, retain_graph=True)[0].any())


def test_a_copy_is_in_evaluation_mode_and_unchanged_by_further_training() -> None:
    made = student()
    expected = made.embed(images(4))
    made.network.train()
    duplicate = made.copy()
    assert not any(layer.training for layer in duplicate.network.modules())
    assert made.network.training
    with torch.no_grad():
        made.logits(images(16, 5))
        for weight in made.network.parameters():
            weight.add_(1.0)
    assert torch.equal(duplicate.embed(images(4)), expected)
    assert not torch.allclose(made.embed(images(4)), expected)


def test_it_adapts_to_any_number_of_classes_and_images_of_any_size() -> None:
    made = student(way=5)
    for way, count in ((2, 3), (9, 9)):
        probabilities = made.adapt(images(count, size=20), torch.arange(count) % way).predict_proba(images(4, size=24))
        assert probabilities.shape == (4, way)
        torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(4))


@pytest.mark.numeric
def test_distillation_from_part_of_the_teachers_logits_reaches_the_rest() -> None:
    made, shown = student(), images(24)
    teacher = MemberOutputs(OUTPUTS).log_softmax(student(seed=1).logits(shown).detach() * 5.0)
    queried = torch.rand(24, len(OUTPUTS), generator=torch.Generator().manual_seed(0)) < 0.5
    gaps = torch.where(queried.repeat_interleave(torch.tensor(OUTPUTS), dim=1), teacher, math.nan)
    optimiser = torch.optim.Adam(made.network.parameters(), lr=0.01)
    first = made.member_outputs.divergence(teacher, made.logits(shown), 1.0).item()
    for _ in range(25):
        weights = list(made.network.parameters())
        loss = made.member_outputs.divergence(gaps, made.logits(shown), 1.0)
        for weight, gradient in zip(weights, torch.autograd.grad(loss, weights), strict=True):
            weight.grad = gradient
        optimiser.step()
    assert made.member_outputs.divergence(gaps, made.logits(shown), 1.0) < 0.3 * first


def test_images_of_another_size_are_embedded_as_they_are_predicted() -> None:
    made = Student.untrained("conv4", {}, (3, 2), PREPROCESSING)
    larger = torch.rand(2, 3, 24, 20, generator=torch.Generator().manual_seed(0))
    assert torch.equal(made.embed(larger), made.embed(resize_and_crop(larger, PREPROCESSING.size)))

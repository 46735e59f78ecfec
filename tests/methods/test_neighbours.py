from __future__ import annotations

import json
import math
from itertools import product
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from dfml.errors import ConfigError, LearnerError, RunError, UsageError, ZooError
from dfml.images import fit_images
from dfml.learners.base import MetaLearner
from dfml.learners.classifier import FewShotClassifier
from dfml.learners.embedding import HeadFit, embedding_scores, fit_head
from dfml.learners.gradient import GradientLearner
from dfml.methods import METHODS, find_method
from dfml.methods.best_member import BestMember, BestMemberRun, linear_cka
from dfml.methods.zoo_embedding import Opinion, ZooEmbedding, ZooEmbeddingLearner
from dfml.training.checkpoint import State
from dfml.training.folder import RunFolder
from dfml.zoo import Preprocessing, PretrainedClassifier, Zoo
from dfml.zoo.writer import write_member
from tests.factories import PREPROCESSING, SIZE, images, member, written_zoo, zoo

CPU = torch.device("cpu")
LABELS = torch.tensor([0, 1, 0, 1, 1])
LARGER = Preprocessing(24, (0.1, 0.2, 0.3), (0.5, 0.4, 0.3))
LEAVES: dict[str, Any] = {"inversion": {"engine": "ei", "ei": {"start": "leaves", "steps": 0}}}
QUICK: dict[str, Any] = {"iterations": 4, "images_per_class": 3, "inversion": {"ei": {"steps": 2}}}


def test_average_is_the_mean_of_weights_and_heads() -> None:
    members = zoo(3)
    learner = METHODS["average"](way=3).fit(members, device="cpu")
    assert isinstance(learner, GradientLearner)
    for name, mine in (("backbone.blocks.2.norm.weight", "blocks.2.norm.weight"), ("head.weight", "head.weight")):
        mean = torch.stack([m.network.state_dict()[mine] for m in members]).mean(dim=0)
        torch.testing.assert_close(learner.parameters[name], mean)
    assert learner.config.test_inner_steps == 10


def test_average_says_why_it_cannot_run() -> None:
    other = member(0, preprocessing=Preprocessing(32, PREPROCESSING.mean, PREPROCESSING.std))
    with pytest.raises(ZooError, match="needs a member with 5 outputs"):
        METHODS["average"](way=5).fit(zoo(), device="cpu")
    from dfml.backbones import create_backbone
    from dfml.zoo import PretrainedClassifier

    resnet = PretrainedClassifier(create_backbone("fewshot_resnet10", 3, seed=0), ("a", "b", "c"), PREPROCESSING)
    with pytest.raises(ZooError, match=r"architecture conv4, but member-001 differs"):
        METHODS["average"](way=3).fit(Zoo.of([other, resnet]), device="cpu")


def test_random_init_uses_nothing_of_the_members_weights() -> None:
    first, second = (METHODS["random_init"](way=3).fit(z, device="cpu") for z in (zoo(2), zoo(3)))
    assert isinstance(first, GradientLearner)
    assert isinstance(second, GradientLearner)
    assert all(torch.equal(value, second.parameters[name]) for name, value in first.parameters.items())


def test_zoo_embedding_is_the_nearest_class_mean_of_all_softmax_outputs() -> None:
    members = zoo(4)
    learner = METHODS["zoo_embedding"]().fit(members, device="cpu")
    support, queries = images(5, 1), images(7, 2)

    def embed(batch: torch.Tensor) -> torch.Tensor:
        return torch.cat([m.network(m.preprocessing.normalise(batch)).softmax(dim=1) for m in members], dim=1)

    means = torch.stack([embed(support)[label == LABELS].mean(dim=0) for label in range(2)])
    expected = torch.cosine_similarity(embed(queries)[:, None], means[None], dim=2)
    found = learner.adapt(support, LABELS).predict_proba(queries)
    torch.testing.assert_close(found, (10 * expected).softmax(dim=1))
    alone = torch.cat([learner.adapt(support, LABELS).predict_proba(image[None]) for image in queries])
    torch.testing.assert_close(found, alone)


def test_zoo_embedding_saves_references_and_notices_a_changed_member(tmp_path: Path) -> None:
    members = written_zoo(tmp_path / "zoo")
    learner = METHODS["zoo_embedding"]().fit(members, out=tmp_path / "learner", device="cpu")
    expected = learner.adapt(images(5, 1), LABELS).predict_proba(images(3, 2))
    loaded = MetaLearner.from_pretrained(tmp_path / "learner")
    classifier = loaded.adapt(images(5, 1), LABELS)
    torch.testing.assert_close(classifier.predict_proba(images(3, 2)), expected)
    classifier.save_pretrained(tmp_path / "classifier")
    again = FewShotClassifier.from_pretrained(tmp_path / "classifier")
    torch.testing.assert_close(again.predict_proba(images(3, 2)), expected)
    weights = tmp_path / "zoo" / "m1" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\0")
    with pytest.raises(LearnerError, match=r"m1 has moved or changed"):
        MetaLearner.from_pretrained(tmp_path / "learner")
    with pytest.raises(LearnerError, match="save it first"):
        METHODS["zoo_embedding"]().fit(zoo(), out=tmp_path / "other", device="cpu")


def test_methods_are_found_by_name() -> None:
    assert find_method("purer") is METHODS["purer"]
    with pytest.raises(UsageError, match=r"unknown method 'purr'; choose one of purer"):
        find_method("purr")


def opinion_by_hand(classifier: PretrainedClassifier, shown: Tensor, opinion: Opinion) -> Tensor:
    inputs = classifier.preprocessing.normalise(fit_images(shown, classifier.preprocessing.size))
    network: Any = classifier.network
    logits: Tensor = network(inputs)
    if opinion == "features":
        features: Tensor = network.forward_head(network.forward_features(inputs), pre_logits=True)
        torch.testing.assert_close(network.get_classifier()(features), logits)
        return features / torch.linalg.vector_norm(features, dim=1, keepdim=True)
    if opinion == "leanings":
        weights = (logits / 2).exp()
        return weights / weights.sum(dim=1, keepdim=True) - 1 / len(classifier.labels)
    return logits.softmax(dim=1) if opinion == "softmax" else logits


@pytest.mark.parametrize(("opinion", "fit"), list(product(get_args(Opinion), ("mean", "ridge"))))
def test_zoo_embedding_asks_for_the_opinion_and_fits_the_head_that_were_chosen(opinion: Opinion, fit: HeadFit) -> None:
    members = Zoo.of([member(0), member(1, ("d", "e"), LARGER), member(2)])
    learner = ZooEmbedding(opinion=opinion, fit=fit).fit(members, device="cpu")
    assert isinstance(learner, ZooEmbeddingLearner)

    def embed(shown: Tensor) -> Tensor:
        return torch.cat([opinion_by_hand(each, shown, opinion) for each in members], dim=1)

    torch.testing.assert_close(learner.embed(images(5, 1)), embed(images(5, 1)))
    head = fit_head(embed(images(5, 1)), LABELS, 2, fit)
    expected = embedding_scores(embed(images(7, 2)), head).softmax(dim=1)
    torch.testing.assert_close(learner.adapt(images(5, 1), LABELS).predict_proba(images(7, 2)), expected)


def test_zoo_embedding_remembers_what_it_asks_for_and_how_it_fits(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"opinion": "features", "fit": "ridge", "way": 2}
    learner = ZooEmbedding(**settings).fit(written_zoo(tmp_path / "zoo"), out=tmp_path / "run", device="cpu")
    again = MetaLearner.from_pretrained(tmp_path / "run")
    assert isinstance(again, ZooEmbeddingLearner)
    assert (again.opinion, again.fit, again.way, again.name) == ("features", "ridge", 2, "zoo_embedding")
    answers = [each.adapt(images(5, 1), LABELS).predict_proba(images(3, 2)) for each in (learner, again)]
    assert torch.equal(*answers)
    with pytest.raises(ConfigError, match="setting 'opinion'"):
        ZooEmbedding(opinion="votes")
    with pytest.raises(ConfigError, match="setting 'fit'"):
        ZooEmbedding(fit="forest")


class Painter(nn.Module):
    """Sees only the brightness of some channels, and answers with what it sees; in timm's manner."""

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.channels = channels
        self.head = nn.Linear(len(channels) + 1, 2 * len(channels), bias=False)
        with torch.no_grad():
            self.head.weight.zero_()
            for index in range(len(channels)):
                self.head.weight[2 * index, index], self.head.weight[2 * index + 1, index] = 1.0, -1.0

    def get_classifier(self) -> nn.Module:
        return self.head

    def forward_features(self, inputs: Tensor) -> Tensor:
        seen = inputs.mean(dim=(2, 3))[:, list(self.channels)]
        return torch.cat([seen, torch.ones(len(seen), 1)], dim=1)

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        return features if pre_logits else self.head(features)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(inputs))


def painter(*channels: int, size: int = SIZE) -> PretrainedClassifier:
    labels = tuple(f"{sign} {channel}" for channel in channels for sign in ("more", "less"))
    return PretrainedClassifier(Painter(channels), labels, Preprocessing(size, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2)))


@pytest.mark.parametrize("place", [0, 1, 2, 3])
@pytest.mark.numeric
def test_best_member_is_the_one_that_sees_what_the_others_see_one_by_one(place: int) -> None:
    members = [painter(0), painter(1), painter(2, size=24)]
    members.insert(place, painter(0, 1, 2))
    learner = BestMember(**LEAVES, iterations=8, fit="ridge", way=3).fit(Zoo.of(members), device="cpu")
    assert isinstance(learner, ZooEmbeddingLearner)
    assert [each is members[place] for each in learner.members] == [True]
    assert (learner.name, learner.opinion, learner.fit, learner.way) == ("best_member", "features", "ridge", 3)
    expected = opinion_by_hand(members[place], images(4), "features")
    torch.testing.assert_close(learner.embed(images(4)), expected)


@pytest.mark.parametrize("place", [0, 2])
@pytest.mark.numeric
def test_best_member_heeds_nobody_whose_answers_or_features_are_not_finite(place: int) -> None:
    mute, blind, best = painter(0), member(0), painter(0, 1, 2)
    mute.network.head.weight.fill_(math.nan)  # type: ignore[union-attr,operator]
    blind.network.blocks[0].conv.weight.fill_(math.nan)  # type: ignore[union-attr,index]
    members = [painter(0), best, painter(1), painter(2)]
    members[place:place] = [blind, mute]
    learner = BestMember(**LEAVES, iterations=12).fit(Zoo.of(members), device="cpu")
    assert isinstance(learner, ZooEmbeddingLearner)
    assert learner.members[0] is best


@pytest.mark.numeric
def test_best_member_says_whom_it_chose_and_fails_when_it_had_nothing_to_choose_by() -> None:
    members = Zoo.of([painter(0, 1, 2), painter(0), painter(1), painter(2)])
    run = BestMember(**LEAVES, iterations=8).begin(members, CPU)
    with pytest.raises(RunError, match="no image could be recovered"):
        run.learner()
    for iteration in range(1, 9):
        run.step(iteration)
    (note,) = run.take_notes()
    assert note.startswith("member-000 agrees best with the whole zoo (linear CKA 0.")


@pytest.mark.numeric
def test_best_member_keeps_images_of_one_member_a_visit_with_the_answers_of_all() -> None:
    members = Zoo.of([member(0), member(1, ("d", "e"), LARGER), member(2, ("f", "g", "h", "i"))])
    run = BestMember(**QUICK).begin(members, CPU)
    assert isinstance(run, BestMemberRun)
    assert len(run.pool.images) == 4 * 3 * 4  # enough if every visit is to the member of most classes
    expected = 0
    for iteration in (1, 2, 3):
        (visited,) = run.source.draw(iteration, 1)
        expected += 3 * len(members[visited].labels)
        assert run.step(iteration)["inversion_loss"] > 0
        assert len(run.pool) == expected
    shown = run.pool.images[:expected].float() / 255
    answers = torch.cat([opinion_by_hand(each, shown, "logits").log_softmax(dim=1) for each in members], dim=1)
    torch.testing.assert_close(run.pool.answers[:expected].float(), answers, rtol=2e-3, atol=2e-3)
    assert torch.pdist(shown.flatten(1)).min() > 0


def test_best_member_goes_on_with_its_images_and_without_those_that_were_set_aside() -> None:
    broken = member(1, ("d", "e", "f"))
    broken.network.head.weight.fill_(math.nan)  # type: ignore[union-attr,operator]
    members = Zoo.of([member(0), broken, member(2)])
    straight, resumed = (BestMember(**{**QUICK, "iterations": 12}).begin(members, CPU) for _ in range(2))
    assert isinstance(straight, BestMemberRun)
    assert isinstance(resumed, BestMemberRun)
    for iteration in range(1, 9):
        straight.step(iteration)
    assert set(straight.source.health.set_aside) == {"member-001"}
    state = straight.state()
    resumed.restore(State({name: value.clone() for name, value in state.tensors.items()}, state.values))
    for iteration in range(9, 13):
        assert straight.step(iteration) == resumed.step(iteration)
    assert torch.equal(straight.pool.images, resumed.pool.images)
    assert set(resumed.source.health.set_aside) == {"member-001"}


def test_best_member_resumed_ends_with_the_same_bits(tmp_path: Path) -> None:
    written_zoo(tmp_path / "zoo")
    write_member(
        tmp_path / "zoo" / "m3",
        member(3, ("d", "e"), LARGER).network,
        architecture="conv4",
        labels=("d", "e"),
        preprocessing=LARGER,
        arguments={"img_size": 24},
    )
    members = Zoo.open(tmp_path / "zoo")
    settings = {**QUICK, "checkpoint_every": 2, "snapshot_every": 3}
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    for out in (straight, resumed):
        BestMember(**settings).fit(members, out=out, device="cpu")
    for path in sorted((resumed / "checkpoints" / "000004").iterdir()):  # as if it had been interrupted after 2
        path.unlink()
    (resumed / "config.json").unlink()
    learner = BestMember(**settings).fit(members, out=resumed, resume=True, device="cpu")
    for name in ("config.json", "checkpoints/000004/state.safetensors", "checkpoints/000004/state.json"):
        assert (straight / name).read_bytes() == (resumed / name).read_bytes()
    rows = [
        [{k: v for k, v in row.items() if "seconds" not in k} for row in RunFolder(out).read_metrics()]
        for out in (straight, resumed)
    ]
    assert rows[0] == rows[1]
    assert [row["iteration"] for row in rows[0]] == [1, 2, 3, 4]
    (reference,) = json.loads((straight / "config.json").read_text())["members"]
    assert Path(reference["path"]).parent == (tmp_path / "zoo").resolve()
    again = MetaLearner.from_pretrained(straight)
    answers = [each.adapt(images(5, 1), LABELS).predict_proba(images(3, 2)) for each in (learner, again)]
    assert torch.equal(*answers)


def cloud(count: int, width: int, seed: int) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


embeddings = st.tuples(st.integers(3, 12), st.integers(1, 6), st.integers(1, 6), st.integers(0, 2**32))


@given(embeddings, st.floats(0.01, 100.0))
def test_likeness_of_embeddings_does_not_see_rotation_scale_or_shift(
    case: tuple[int, int, int, int], scale: float
) -> None:
    count, width, other, seed = case
    first, second = cloud(count, width, seed), cloud(count, other, seed + 1)
    rotation = torch.linalg.qr(cloud(width, width, seed + 2)).Q
    found = linear_cka(first, second)
    assert -1e-12 <= found <= 1 + 1e-12
    torch.testing.assert_close(linear_cka(scale * first @ rotation + 3.0, second), found)
    torch.testing.assert_close(linear_cka(second, first), found)
    torch.testing.assert_close(linear_cka(first, scale * first @ rotation), torch.ones((), dtype=torch.float64))
    # Kornblith et al. 2019, eq. 4: of centred Gram matrices, images against images.
    centre = torch.eye(count, dtype=torch.float64) - 1.0 / count
    one, two = (centre @ each @ each.T @ centre for each in (first, second))
    torch.testing.assert_close(found, (one * two).sum() / (one.norm() * two.norm()))


def test_likeness_grows_with_what_two_embeddings_share() -> None:
    first, noise = cloud(4000, 3, 0), cloud(4000, 3, 1)
    values = [float(linear_cka(first, first + share * noise)) for share in (0.0, 0.5, 2.0)]
    assert values == sorted(values, reverse=True)
    assert linear_cka(first, noise) < 0.01
    assert float(linear_cka(first, first[:, :1])) == pytest.approx(1 / math.sqrt(3), abs=0.03)

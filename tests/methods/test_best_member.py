from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from dfml.errors import RunError
from dfml.learners.base import MetaLearner
from dfml.learners.zoo_embedding import ZooEmbeddingLearner
from dfml.methods.best_member import BestMember, BestMemberRun, linear_cka
from dfml.training.checkpoint import State
from dfml.training.run_folder import RunFolder
from dfml.zoo import CountedMember, Preprocessing, PretrainedClassifier, Zoo
from dfml.zoo.writer import write_member
from tests.factories import SIZE, images, member, written_zoo
from tests.methods.reference import member_representation

CPU = torch.device("cpu")
LABELS = torch.tensor([0, 1, 0, 1, 1])
LARGER = Preprocessing(24, (0.1, 0.2, 0.3), (0.5, 0.4, 0.3))
DEAD_LEAVES: dict[str, Any] = {
    "inversion": {"engine": "ei", "fallback": None, "ei": {"start": "dead_leaves", "steps": 0}}
}
QUICK: dict[str, Any] = {
    "iterations": 4,
    "images_per_class": 3,
    "inversion": {"fallback": None, "ei": {"steps": 2, "search_steps": 0}},
}


class BrightnessNetwork(nn.Module):
    """Its features are the mean brightness of some channels, and a constant one; with the methods of timm networks."""

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
        brightness = inputs.mean(dim=(2, 3))[:, list(self.channels)]
        return torch.cat([brightness, torch.ones(len(brightness), 1)], dim=1)

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        return features if pre_logits else self.head(features)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(inputs))


def brightness_member(*channels: int, size: int = SIZE) -> PretrainedClassifier:
    labels = tuple(f"{sign} {channel}" for channel in channels for sign in ("more", "less"))
    return PretrainedClassifier(
        BrightnessNetwork(channels), labels, Preprocessing(size, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    )


@pytest.mark.parametrize("place", [0, 1, 2, 3])
@pytest.mark.numeric
def test_the_member_whose_features_cover_those_of_all_others_is_chosen(place: int) -> None:
    members = [brightness_member(0), brightness_member(1), brightness_member(2, size=24)]
    members.insert(place, brightness_member(0, 1, 2))
    learner = BestMember(**DEAD_LEAVES, iterations=8, fit="ridge", way=3).fit(Zoo.of(members), device="cpu")
    assert isinstance(learner, ZooEmbeddingLearner)
    assert [each is members[place] for each in learner.members] == [True]
    assert (learner.name, learner.representation, learner.fit, learner.way) == ("best_member", "features", "ridge", 3)
    expected = member_representation(members[place], images(4), "features")
    torch.testing.assert_close(learner.embed(images(4)), expected)


@pytest.mark.parametrize("place", [0, 2])
@pytest.mark.numeric
def test_members_with_predictions_or_features_that_are_not_finite_are_ignored(place: int) -> None:
    no_predictions, no_features, best = brightness_member(0), member(0), brightness_member(0, 1, 2)
    no_predictions.network.head.weight.fill_(math.nan)  # type: ignore[union-attr,operator]
    no_features.network.blocks[0].conv.weight.fill_(math.nan)  # type: ignore[union-attr,index]
    members = [brightness_member(0), best, brightness_member(1), brightness_member(2)]
    members[place:place] = [no_features, no_predictions]
    learner = BestMember(**DEAD_LEAVES, iterations=12).fit(Zoo.of(members), device="cpu")
    assert isinstance(learner, ZooEmbeddingLearner)
    assert learner.members[0] is best


def test_a_member_that_only_predicts_is_compared_with_but_never_chosen() -> None:
    members = [CountedMember(brightness_member(0, 1, 2)), brightness_member(0), brightness_member(1, 2)]
    learner = BestMember(**DEAD_LEAVES, iterations=8).fit(Zoo.of(members), device="cpu")
    assert isinstance(learner, ZooEmbeddingLearner)
    assert any(learner.members[0] is each for each in members[1:])


@pytest.mark.numeric
def test_a_message_names_the_choice_and_without_images_there_is_an_error() -> None:
    members = Zoo.of([brightness_member(0, 1, 2), brightness_member(0), brightness_member(1), brightness_member(2)])
    run = BestMember(**DEAD_LEAVES, iterations=8).start(members, CPU)
    with pytest.raises(RunError, match="no images could be recovered"):
        run.learner()
    for iteration in range(1, 9):
        run.step(iteration)
    *_, message = run.pop_messages()  # the others are on members that do not recognise pictures of their only colour
    assert message.startswith("member-000 is most similar to the whole zoo (linear CKA 0.")


@pytest.mark.numeric
def test_every_step_stores_images_of_one_member_with_the_predictions_of_all() -> None:
    members = Zoo.of([member(0), member(1, ("d", "e"), LARGER), member(2, ("f", "g", "h", "i"))])
    run = BestMember(**QUICK).start(members, CPU)
    assert isinstance(run, BestMemberRun)
    assert len(run.buffer.images) == 4 * 3 * 4  # enough if every step samples the member with most classes
    expected = 0
    for iteration in (1, 2, 3):
        (sampled,) = run.source.sample_members(iteration, 1)
        expected += 3 * len(members[sampled].labels)
        assert run.step(iteration)["inversion_loss"] > 0
        assert len(run.buffer) == expected
    stored = run.buffer.images[:expected].float() / 255
    predictions = torch.cat(
        [member_representation(each, stored, "logits").log_softmax(dim=1) for each in members], dim=1
    )
    torch.testing.assert_close(run.buffer.log_probabilities[:expected].float(), predictions, rtol=2e-3, atol=2e-3)
    assert torch.pdist(stored.flatten(1)).min() > 0


def test_a_resumed_run_has_the_same_images_and_excluded_members() -> None:
    broken = member(1, ("d", "e", "f"))
    broken.network.head.weight.fill_(math.nan)  # type: ignore[union-attr,operator]
    members = Zoo.of([member(0), broken, member(2)])
    straight, resumed = (BestMember(**{**QUICK, "iterations": 12}).start(members, CPU) for _ in range(2))
    assert isinstance(straight, BestMemberRun)
    assert isinstance(resumed, BestMemberRun)
    for iteration in range(1, 9):
        straight.step(iteration)
    assert set(straight.source.failures.excluded) == {"member-001"}
    state = straight.state_dict()
    resumed.load_state_dict(State({name: value.clone() for name, value in state.tensors.items()}, state.values))
    for iteration in range(9, 13):
        assert straight.step(iteration) == resumed.step(iteration)
    assert torch.equal(straight.buffer.images, resumed.buffer.images)
    assert set(resumed.source.failures.excluded) == {"member-001"}


def test_a_resumed_run_ends_with_the_same_bits(tmp_path: Path) -> None:
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
    predictions = [each.adapt(images(5, 1), LABELS).predict_proba(images(3, 2)) for each in (learner, again)]
    assert torch.equal(*predictions)


def normal_points(count: int, width: int, seed: int) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


embeddings = st.tuples(st.integers(3, 12), st.integers(1, 6), st.integers(1, 6), st.integers(0, 2**32))


@given(embeddings, st.floats(0.01, 100.0))
def test_linear_cka_does_not_depend_on_rotation_scale_or_shift(case: tuple[int, int, int, int], scale: float) -> None:
    count, width, other, seed = case
    first, second = normal_points(count, width, seed), normal_points(count, other, seed + 1)
    rotation = torch.linalg.qr(normal_points(width, width, seed + 2)).Q
    found = linear_cka(first, second)
    assert -1e-12 <= found <= 1 + 1e-12
    torch.testing.assert_close(linear_cka(scale * first @ rotation + 3.0, second), found)
    torch.testing.assert_close(linear_cka(second, first), found)
    torch.testing.assert_close(linear_cka(first, scale * first @ rotation), torch.ones((), dtype=torch.float64))
    # Kornblith et al. 2019, eq. 4: of centred Gram matrices, images against images.
    centre = torch.eye(count, dtype=torch.float64) - 1.0 / count
    one, two = (centre @ each @ each.T @ centre for each in (first, second))
    torch.testing.assert_close(found, (one * two).sum() / (one.norm() * two.norm()))


def test_linear_cka_grows_with_what_two_embeddings_share() -> None:
    first, noise = normal_points(4000, 3, 0), normal_points(4000, 3, 1)
    values = [float(linear_cka(first, first + share * noise)) for share in (0.0, 0.5, 2.0)]
    assert values == sorted(values, reverse=True)
    assert linear_cka(first, noise) < 0.01
    assert float(linear_cka(first, first[:, :1])) == pytest.approx(1 / math.sqrt(3), abs=0.03)

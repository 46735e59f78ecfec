from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dfml.backbones import create_backbone
from dfml.errors import ConfigError, ZooError
from dfml.learners.base import MetaLearner
from dfml.learners.gradient_based import GradientLearner
from dfml.methods.average import Average
from dfml.methods.ot_fusion import Metric, OTFusion
from dfml.zoo import Preprocessing, PretrainedClassifier, Zoo
from tests.factories import PREPROCESSING, SIZE, images, member, written_zoo, zoo
from tests.methods.ot_fusion.networks import permuted, random_network

METRICS: tuple[Metric, ...] = ("weights", "activations")
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])
RESNETS = ("fewshot_resnet10", "fewshot_resnet18")
seeds = st.integers(0, 2**32)


def permuted_member(of: PretrainedClassifier, seed: int) -> PretrainedClassifier:
    return PretrainedClassifier(permuted(of.network, seed), of.labels, of.preprocessing)


def fuse(members: Zoo, **settings: Any) -> GradientLearner:
    fused = OTFusion(way=3, **settings).fit(members, device="cpu")
    assert isinstance(fused, GradientLearner)
    return fused


def predictions(learner: MetaLearner) -> Tensor:
    return learner.adapt(images(6, 1), LABELS).predict_proba(images(7, 2))


@pytest.mark.numeric
@pytest.mark.parametrize("metric", METRICS)
@given(seed=seeds)
@settings(max_examples=10)
def test_permuted_copies_of_a_member_fuse_to_that_member(metric: Metric, seed: int) -> None:
    one = member(seed % 5)
    copies = Zoo.of([one, permuted_member(one, seed), permuted_member(one, seed + 1)])
    fused = fuse(copies, metric=metric, images=16)
    alone = Average(way=3).fit(Zoo.of([one]), device="cpu")
    assert isinstance(alone, GradientLearner)
    assert fused.parameters.keys() == alone.parameters.keys()
    for name, value in alone.parameters.items():
        torch.testing.assert_close(fused.parameters[name], value)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.numeric
def test_the_learner_adapts_as_the_member_does_and_the_plain_average_does_not(metric: Metric) -> None:
    one = member(0)
    copies = Zoo.of([one, *(permuted_member(one, seed) for seed in range(3))])
    expected = predictions(Average(way=3).fit(Zoo.of([one]), device="cpu"))
    torch.testing.assert_close(predictions(fuse(copies, metric=metric)), expected, rtol=1e-4, atol=1e-5)
    assert (predictions(Average(way=3).fit(copies, device="cpu")) - expected).abs().max() > 0.02


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("architecture", RESNETS)
@pytest.mark.numeric
def test_channels_that_a_shortcut_adds_are_matched_as_one(architecture: str, metric: Metric) -> None:
    one = PretrainedClassifier(random_network(architecture, 0), ("a", "b", "c"), PREPROCESSING)
    copies = Zoo.of([one, permuted_member(one, 1)])
    fused = fuse(copies, learner={"backbone": architecture}, metric=metric, images=16)
    for name, value in one.network.named_parameters():
        of_learner = name if name.startswith("head") else f"backbone.{name}"
        torch.testing.assert_close(fused.parameters[of_learner], value)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.numeric
def test_members_that_differ_a_little_are_matched_too(metric: Metric) -> None:
    one = member(0)
    near = permuted_member(one, 4)
    generator = torch.Generator().manual_seed(0)
    moved = {}
    for name, value in near.network.named_parameters():
        moved[name] = 0.02 * torch.randn(value.shape, generator=generator)
        value.add_(moved[name])
    fused = fuse(Zoo.of([one, near]), metric=metric)
    for name in ("blocks.0.conv.weight", "blocks.3.conv.weight", "blocks.3.norm.bias"):
        difference = fused.parameters[f"backbone.{name}"] - one.network.get_parameter(name)
        # Half of what was added, in another order.
        torch.testing.assert_close(difference.norm(), 0.5 * moved[name].norm(), rtol=1e-3, atol=1e-5)


def test_the_metrics_are_not_the_same() -> None:
    weights, activations = (fuse(zoo(3), metric=metric).parameters["head.weight"] for metric in METRICS)
    assert not torch.equal(weights, activations)


@pytest.mark.parametrize("metric", METRICS)
def test_heads_of_another_way_or_size_are_left_out_of_the_mean(metric: Metric) -> None:
    larger = Preprocessing(32, (0.1, 0.2, 0.3), (0.5, 0.4, 0.3))
    first, wide, big = member(0), member(1, ("d", "e", "f", "g")), member(2, preprocessing=larger)
    fused = fuse(Zoo.of([first, wide, big, member(3)]), metric=metric)
    pair = fuse(Zoo.of([first, member(3)]), metric=metric)
    assert fused.parameters["head.weight"].shape == (3, 32 * (SIZE // 16) ** 2)
    assert torch.equal(fused.parameters["head.bias"], pair.parameters["head.bias"])
    first_layer = "backbone.blocks.0.conv.weight"
    assert not torch.equal(fused.parameters[first_layer], pair.parameters[first_layer])


@pytest.mark.parametrize("metric", METRICS)
def test_the_result_is_reproducible_and_members_and_global_random_state_are_unchanged(
    metric: Metric, tmp_path: Path
) -> None:
    members = written_zoo(tmp_path / "zoo")
    before = {name: value.clone() for name, value in members[1].network.state_dict().items()}
    state = torch.get_rng_state()
    first = OTFusion(way=3, metric=metric, seed=1).fit(members, out=tmp_path / "run", device="cpu")
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in members[1].network.state_dict().items())
    again = OTFusion(way=3, metric=metric, seed=1).fit(members, device="cpu")
    assert torch.equal(predictions(first), predictions(again))
    loaded = MetaLearner.from_pretrained(tmp_path / "run")
    assert loaded.name == "ot_fusion"
    assert torch.equal(predictions(loaded), predictions(first))


def test_an_error_names_the_member_that_cannot_be_used() -> None:
    wide, resnet, foreign = (
        PretrainedClassifier(network, ("a", "b", "c"), PREPROCESSING)
        for network in (
            create_backbone("conv4_64", 3, img_size=SIZE),
            create_backbone("fewshot_resnet10", 3),
            timm.create_model("resnet10t", num_classes=3),
        )
    )
    for odd, match in ((wide, "differs in backbone.blocks"), (resnet, "differs in backbone"), (foreign, "is a ResNet")):
        with pytest.raises(ZooError, match=rf"^ot_fusion .* member-001 {match}.*use --method zoo_"):
            OTFusion(way=3).fit(Zoo.of([member(0), odd]), device="cpu")
    with pytest.raises(ZooError, match=r"architecture conv4_64, but member-000 .* set learner\.backbone"):
        OTFusion(way=3, learner={"backbone": "conv4_64"}).fit(zoo(), device="cpu")
    with pytest.raises(ZooError, match="a member with 5 outputs, but there is none"):
        OTFusion(way=5).fit(zoo(), device="cpu")
    blank = member(1)
    blank.network.get_parameter("blocks.1.norm.bias").fill_(torch.nan)
    with pytest.raises(ZooError, match="finite weights, but member-001 has others"):
        OTFusion(way=3).fit(Zoo.of([member(0), blank]), device="cpu")
    with pytest.raises(ConfigError, match="metric"):
        OTFusion(metric="names")

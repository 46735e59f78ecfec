"""The outer update of the meta-generator (FREE: Wei et al., CVPR 2024; FastDFKD: Fang et al., AAAI 2022)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from dfml.backbones.image_generator import create_generator
from dfml.inversion.engine import InversionRun
from dfml.inversion.generator_based import GeneratorInversionRun
from dfml.inversion.loss import InversionWeights, inversion_loss
from dfml.inversion.meta_generator import MetaGenerator
from dfml.inversion.views import View
from tests.factories import PREPROCESSING
from tests.inversion.small import SMALL, five, precision, run_round, small_engine, targets

NO_JITTER = InversionWeights(batch_norm=0.1, total_variation=0.01, l2=0.0, jitter=0)
OUTER = {"lr": 0.001, "betas": (0.5, 0.999)}


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    with precision(torch.float64):
        yield


def generator_run(inversion: InversionRun) -> GeneratorInversionRun:
    assert isinstance(inversion, GeneratorInversionRun)
    return inversion


def snapshot(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in weights.items()}


def adam(before: Mapping[str, Tensor], gradients: list[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Weights after torch's Adam has applied the gradients, one after the other."""
    weights = {name: value.clone().requires_grad_() for name, value in before.items()}
    optimiser = torch.optim.Adam(weights.values(), **OUTER)
    for gradient in gradients:
        for name, value in weights.items():
            value.grad = gradient[name]
        optimiser.step()
    return snapshot(weights)


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return all(torch.allclose(value, other[name], rtol=1e-9, atol=1e-12) for name, value in one.items())


def summed(inversion: InversionRun, part: str) -> dict[str, Tensor]:
    parts = [getattr(copy, part) for copy in generator_run(inversion).copies]
    return {name: sum(each[name].detach() for each in parts) for name in parts[0]}


@pytest.mark.numeric
def test_with_one_step_fomaml_is_the_gradient_of_the_summed_loss() -> None:
    engine = five(steps=1, weights=NO_JITTER)
    before = snapshot(engine.weights)
    inversion = generator_run(engine.start(targets([0, 1])))
    latents = [copy.latents.detach().clone() for copy in inversion.copies]
    network = create_generator(PREPROCESSING.size, latent=SMALL["latent"], width=SMALL["width"], seed=0)
    leaves = {name: value.clone().requires_grad_() for name, value in before.items()}
    total = torch.zeros(())
    for each, latent in zip(inversion.targets, latents, strict=True):
        pixels = PREPROCESSING.normalise(functional_call(network, leaves, (latent,)))
        total = total + inversion_loss(each.classifier, pixels, each.labels, PREPROCESSING, NO_JITTER, View()).total
    gradient = dict(zip(leaves, torch.autograd.grad(total, list(leaves.values())), strict=True))
    inversion.step()
    engine.learn(inversion)
    assert same(engine.weights, adam(before, [gradient]))
    assert engine.updates == 1


def reference_update(outer: str, steps: int) -> tuple[MetaGenerator, dict[str, Tensor], dict[str, Tensor]]:
    """An engine after one update, its weights before, and the expected gradient, put together step by step."""
    engine = five(steps=steps, weights=NO_JITTER, outer=outer)
    before = snapshot(engine.weights)
    inversion = engine.start(targets([0, 1]))
    each: list[dict[str, Tensor]] = []
    for _ in range(steps):
        inversion.step()
        each.append(summed(inversion, "last"))
    weights = summed(inversion, "weights")
    gradient = {
        "last": each[-1],
        "accumulated": {name: sum(found[name] for found in each) for name in before},
        "reptile": {name: 2 * before[name] - weights[name] for name in before},
    }[outer]
    engine.learn(inversion)
    return engine, before, gradient


@pytest.mark.parametrize("outer", ["last", "accumulated", "reptile"])
@pytest.mark.numeric
def test_the_outer_update_has_the_gradient_of_its_rule(outer: str) -> None:
    engine, before, gradient = reference_update(outer, steps=3)
    assert same(engine.weights, adam(before, [gradient]))
    assert not same(engine.weights, before)


def test_the_three_gradients_differ() -> None:
    gradients = [reference_update(outer, steps=3)[2]["project.weight"] for outer in ("last", "accumulated", "reptile")]
    assert not torch.allclose(gradients[0], gradients[1])
    assert not torch.allclose(gradients[1], gradients[2])


def test_without_an_outer_update_the_generator_does_not_change() -> None:
    engine = five(steps=2, outer="none")
    before = snapshot(engine.weights)
    engine.learn(run_round(engine, targets([0])))
    assert all(torch.equal(value, before[name]) for name, value in engine.weights.items())
    assert engine.updates == 0


@pytest.mark.numeric
def test_one_optimiser_lasts_for_all_rounds() -> None:
    """In the released code of FREE, every round has a new Adam, whose step does not depend on the gradient's size."""
    engine = five(steps=2, weights=NO_JITTER)
    start, between, gradients = snapshot(engine.weights), {}, []
    for number in (1, 2):
        between = snapshot(engine.weights)
        inversion = run_round(engine, targets([0, 1]), number)
        gradients.append(summed(inversion, "last"))
        engine.learn(inversion)
    assert same(engine.weights, adam(start, gradients))
    assert not same(engine.weights, adam(between, gradients[1:]))


def test_only_kept_targets_contribute_to_the_update() -> None:
    chosen = targets([0, 1, 2])
    engine, alone = (five(steps=2, weights=NO_JITTER) for _ in range(2))
    engine.learn(run_round(engine, chosen), kept=[2, 0])
    alone.learn(run_round(alone, [chosen[0], chosen[2]]))
    assert same(engine.weights, alone.weights)
    before = snapshot(engine.weights)
    engine.learn(run_round(engine, chosen), kept=[])
    assert same(engine.weights, before)
    assert engine.updates == 1


@pytest.mark.numeric
def test_the_first_layer_is_reset_once() -> None:
    engine, plain = five(steps=1, weights=NO_JITTER, reset_after=2), five(steps=1, weights=NO_JITTER)
    for number in range(2):
        assert same(engine.weights, plain.weights)
        for each in (engine, plain):
            each.learn(run_round(each, targets([0]), number))
    first = [name for name in engine.weights if name.startswith(("project.", "body.0."))]
    assert not torch.allclose(engine.weights["project.weight"], plain.weights["project.weight"])
    assert all(torch.equal(engine.weights[name], plain.weights[name]) for name in engine.weights if name not in first)
    between = snapshot(engine.weights)
    engine.learn(run_round(engine, targets([0]), 2))
    largest = max(float((engine.weights[name] - between[name]).detach().abs().max()) for name in between)
    assert largest < 10 * OUTER["lr"]


def test_a_round_starts_from_the_learned_weights_and_does_not_change_them() -> None:
    engine = five(steps=2)
    before = snapshot(engine.weights)
    inversion = run_round(engine, targets([0, 1]))
    assert all(torch.equal(value, before[name]) for name, value in engine.weights.items())
    engine.learn(inversion)
    started = generator_run(engine.start(targets([0, 1]), 1))
    for copy in started.copies:
        assert all(torch.equal(value, engine.weights[name]) for name, value in copy.weights.items())


def momentum_engine(**settings: Any) -> MetaGenerator:
    weights = InversionWeights(batch_norm=1.0, momentum=0.9, total_variation=0.0, l2=0.0, jitter=0)
    return five(**{"steps": 1, "weights": weights, "outer": "none", **settings})


def test_ema_statistics_of_a_member_are_kept_between_rounds_by_its_name() -> None:
    engine = momentum_engine()
    first = engine.start(targets([0]), 1)
    (earlier,) = first.step()
    engine.learn(first)
    (second,) = engine.start(targets([0]), 2).step()
    (fresh,) = momentum_engine().start(targets([0]), 2).step()
    for kept, old, new in zip(second.ema_statistics, earlier.ema_statistics, fresh.ema_statistics, strict=True):
        torch.testing.assert_close(kept, 0.9 * old + 0.1 * new)
    other = engine.start(targets([1]), 2).step()[0]
    assert torch.equal(other.ema_statistics[0], momentum_engine().start(targets([1]), 2).step()[0].ema_statistics[0])


def test_momentum_counts_rounds_not_steps() -> None:
    """The statistics of a step are averaged with those of earlier rounds, not with those of earlier steps."""
    engine = momentum_engine(steps=3)
    engine.learn(run_round(engine, targets([0])))
    inversion = engine.start(targets([0]), 2)
    inversion.step()
    inversion.step()
    (images,) = inversion.images()
    _, statistics = inversion.targets[0].classifier.logits_and_statistics(images)
    own = [part for layer in statistics for part in (layer.mean, layer.variance)]
    (third,) = inversion.step()
    for found_statistics, before, now in zip(third.ema_statistics, inversion.previous_statistics[0], own, strict=True):
        torch.testing.assert_close(found_statistics, 0.9 * before + 0.1 * now)


def test_codes_of_labels_do_not_depend_on_the_seed() -> None:
    """A generator of one run may be used with another seed."""
    codes = []
    for seed in (0, 1):
        both = [
            small_engine("five", seed=seed, label_input=share, latent=16).start(targets([0])) for share in (0.0, 2.0)
        ]
        plain, labelled = (generator_run(each).copies[0].latents for each in both)
        codes.append(labelled - plain)
    torch.testing.assert_close(*codes)


def test_labels_can_be_an_input_of_the_generator() -> None:
    """Latents of one output are similar for all members; without label input, latents are standard normal noise."""
    engine = five(label_input=3.0, latent=64)
    for copy in generator_run(engine.start(targets([0, 1], per_class=3))).copies:
        by_output = copy.latents.detach().view(3, 3, -1)
        within = (by_output - by_output.mean(1, keepdim=True)).norm(dim=2).mean()
        between = (by_output.mean(1) - by_output.mean((0, 1))).norm(dim=1).mean()
        assert between > 2 * within
    plain = generator_run(five(latent=64).start(targets([0], per_class=200))).copies[0].latents
    assert float(plain.detach().mean()) == pytest.approx(0.0, abs=0.02)
    assert float(plain.detach().std()) == pytest.approx(1.0, abs=0.02)

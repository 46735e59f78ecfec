"""What a round teaches the generator that all rounds start from: papers 2.2, and 2.9 (6)."""

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
from dfml.inversion.loss import InversionWeights, View, inversion_loss
from dfml.inversion.meta_generator import MetaGenerator
from tests.factories import PREPROCESSING
from tests.inversion.small import SMALL, five, precision, run_round, small_engine, targets

STILL = InversionWeights(batch_norm=0.1, total_variation=0.01, l2=0.0, jitter=0)
OUTER = {"lr": 0.001, "betas": (0.5, 0.999)}


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    with precision(torch.float64):
        yield


def at_work(inversion: InversionRun) -> GeneratorInversionRun:
    assert isinstance(inversion, GeneratorInversionRun)
    return inversion


def snapshot(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in weights.items()}


def adam(before: Mapping[str, Tensor], gradients: list[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """What torch's Adam makes of some gradients, one after the other."""
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
    parts = [getattr(copy, part) for copy in at_work(inversion).copies]
    return {name: sum(each[name].detach() for each in parts) for name in parts[0]}


@pytest.mark.numeric
def test_with_one_step_fomaml_is_the_gradient_of_the_summed_loss() -> None:
    engine = five(steps=1, weights=STILL)
    before = snapshot(engine.weights)
    inversion = at_work(engine.start(targets([0, 1])))
    latents = [copy.latents.detach().clone() for copy in inversion.copies]
    network = create_generator(PREPROCESSING.size, latent=SMALL["latent"], width=SMALL["width"], seed=0)
    leaves = {name: value.clone().requires_grad_() for name, value in before.items()}
    total = torch.zeros(())
    for each, drawn in zip(inversion.targets, latents, strict=True):
        pixels = PREPROCESSING.normalise(functional_call(network, leaves, (drawn,)))
        total = total + inversion_loss(each.classifier, pixels, each.labels, PREPROCESSING, STILL, View()).total
    gradient = dict(zip(leaves, torch.autograd.grad(total, list(leaves.values())), strict=True))
    inversion.step()
    engine.learn(inversion)
    assert same(engine.weights, adam(before, [gradient]))
    assert engine.updates == 1


def written_out(outer: str, steps: int) -> tuple[MetaGenerator, dict[str, Tensor], dict[str, Tensor]]:
    """An engine after one update, its weights before, and the update's gradient put together step by step."""
    engine = five(steps=steps, weights=STILL, outer=outer)
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
def test_the_outer_update_is_what_its_name_says(outer: str) -> None:
    engine, before, gradient = written_out(outer, steps=3)
    assert same(engine.weights, adam(before, [gradient]))
    assert not same(engine.weights, before)


def test_the_three_gradients_differ() -> None:
    gradients = [written_out(outer, steps=3)[2]["project.weight"] for outer in ("last", "accumulated", "reptile")]
    assert not torch.allclose(gradients[0], gradients[1])
    assert not torch.allclose(gradients[1], gradients[2])


def test_without_an_outer_update_the_generator_stays_as_it_was() -> None:
    engine = five(steps=2, outer="none")
    before = snapshot(engine.weights)
    engine.learn(run_round(engine, targets([0])))
    assert all(torch.equal(value, before[name]) for name, value in engine.weights.items())
    assert engine.updates == 0


@pytest.mark.numeric
def test_one_optimiser_lasts_for_all_rounds() -> None:
    """Papers 2.9 (6): as released, every round has a fresh Adam, whose step forgets how large the gradient is."""
    engine = five(steps=2, weights=STILL)
    start, between, gradients = snapshot(engine.weights), {}, []
    for number in (1, 2):
        between = snapshot(engine.weights)
        inversion = run_round(engine, targets([0, 1]), number)
        gradients.append(summed(inversion, "last"))
        engine.learn(inversion)
    assert same(engine.weights, adam(start, gradients))
    assert not same(engine.weights, adam(between, gradients[1:]))


def test_only_what_is_kept_is_learned_from() -> None:
    chosen = targets([0, 1, 2])
    engine, alone = (five(steps=2, weights=STILL) for _ in range(2))
    engine.learn(run_round(engine, chosen), kept=[2, 0])
    alone.learn(run_round(alone, [chosen[0], chosen[2]]))
    assert same(engine.weights, alone.weights)
    before = snapshot(engine.weights)
    engine.learn(run_round(engine, chosen), kept=[])
    assert same(engine.weights, before)
    assert engine.updates == 1


@pytest.mark.numeric
def test_the_first_layer_is_drawn_anew_once() -> None:
    engine, plain = five(steps=1, weights=STILL, reset_after=2), five(steps=1, weights=STILL)
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


def test_a_round_starts_from_what_was_learned_and_leaves_it_alone() -> None:
    engine = five(steps=2)
    before = snapshot(engine.weights)
    inversion = run_round(engine, targets([0, 1]))
    assert all(torch.equal(value, before[name]) for name, value in engine.weights.items())
    engine.learn(inversion)
    started = at_work(engine.start(targets([0, 1]), 1))
    for copy in started.copies:
        assert all(torch.equal(value, engine.weights[name]) for name, value in copy.weights.items())


def momentum_engine(**settings: Any) -> MetaGenerator:
    weights = InversionWeights(batch_norm=1.0, momentum=0.9, total_variation=0.0, l2=0.0, jitter=0)
    return five(**{"steps": 1, "weights": weights, "outer": "none", **settings})


def test_statistics_of_a_member_are_remembered_from_visit_to_round_by_its_name() -> None:
    engine = momentum_engine()
    first = engine.start(targets([0]), 1)
    (opening,) = first.step()
    engine.learn(first)
    (second,) = engine.start(targets([0]), 2).step()
    (fresh,) = momentum_engine().start(targets([0]), 2).step()
    for kept, old, new in zip(second.ema_statistics, opening.ema_statistics, fresh.ema_statistics, strict=True):
        torch.testing.assert_close(kept, 0.9 * old + 0.1 * new)
    other = engine.start(targets([1]), 2).step()[0]
    assert torch.equal(other.ema_statistics[0], momentum_engine().start(targets([1]), 2).step()[0].ema_statistics[0])


def test_momentum_counts_rounds_not_steps() -> None:
    """All steps of a round are drawn towards the rounds before it, not towards each other."""
    engine = momentum_engine(steps=3)
    engine.learn(run_round(engine, targets([0])))
    inversion = engine.start(targets([0]), 2)
    inversion.step()
    inversion.step()
    (images,) = inversion.images()
    _, statistics = inversion.targets[0].classifier.logits_and_statistics(images)
    own = [part for layer in statistics for part in (layer.mean, layer.variance)]
    (third,) = inversion.step()
    for seen, before, now in zip(third.ema_statistics, inversion.previous_statistics[0], own, strict=True):
        torch.testing.assert_close(seen, 0.9 * before + 0.1 * now)


def test_codes_of_labels_do_not_depend_on_the_seed() -> None:
    """A generator of one run may be used with another seed."""
    codes = []
    for seed in (0, 1):
        both = [
            small_engine("five", seed=seed, label_input=share, latent=16).start(targets([0])) for share in (0.0, 2.0)
        ]
        plain, told = (at_work(each).copies[0].latents for each in both)
        codes.append(told - plain)
    torch.testing.assert_close(*codes)


def test_labels_can_be_told_to_the_generator() -> None:
    """Images of one output start alike, whatever the member; without it, latents are plain noise."""
    engine = five(label_input=3.0, latent=64)
    for copy in at_work(engine.start(targets([0, 1], per_class=3))).copies:
        by_output = copy.latents.detach().view(3, 3, -1)
        within = (by_output - by_output.mean(1, keepdim=True)).norm(dim=2).mean()
        between = (by_output.mean(1) - by_output.mean((0, 1))).norm(dim=1).mean()
        assert between > 2 * within
    plain = at_work(five(latent=64).start(targets([0], per_class=200))).copies[0].latents
    assert float(plain.detach().mean()) == pytest.approx(0.0, abs=0.02)
    assert float(plain.detach().std()) == pytest.approx(1.0, abs=0.02)

"""CMI (Fang et al., IJCAI 2021): images of one round, and of earlier rounds, should differ."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from dfml import seeds
from dfml.inversion.cmi import ContrastiveInversion, random_crops
from dfml.inversion.engine import Target
from dfml.inversion.generator_based import GeneratorInversionRun
from dfml.inversion.loss import InversionWeights
from dfml.zoo import Preprocessing
from tests.factories import PREPROCESSING, images
from tests.inversion.small import conv, run_round, small_engine, target, targets


def cmi(**settings: object) -> ContrastiveInversion:
    engine = small_engine("cmi", **{"steps": 2, **settings})
    assert isinstance(engine, ContrastiveInversion)
    return engine


def started(engine: ContrastiveInversion, chosen: Target, number: int = 0) -> GeneratorInversionRun:
    inversion = engine.start([chosen], number)
    assert isinstance(inversion, GeneratorInversionRun)
    return inversion


def contrast(inversion: GeneratorInversionRun, shown: torch.Tensor) -> float:
    loss = inversion.extra_loss(0, shown)
    assert loss is not None
    return float(loss.detach())


@pytest.mark.numeric
def test_the_contrastive_loss_is_lower_for_different_images_than_for_equal_ones() -> None:
    inversion = started(cmi(contrast=1.0), target("member", conv(0)))
    colours = images(6, size=1).expand(6, 3, 16, 16)
    assert contrast(inversion, colours) < contrast(inversion, colours[:1].expand(6, 3, 16, 16)) - 0.05


@pytest.mark.numeric
def test_the_contrastive_loss_includes_images_of_earlier_rounds() -> None:
    """The loss image by image: each part is matched with its whole among current and earlier images."""
    engine, chosen = cmi(contrast=1.0), target("member", conv(0))
    engine.learn(run_round(engine, [chosen]))
    inversion, shown, state = started(engine, chosen, 1), images(5), engine.state_dict()
    local, whole = inversion.features(0, shown, inversion.done)  # type: ignore[attr-defined]

    def projected(features: torch.Tensor) -> torch.Tensor:
        return functional.relu(features @ state["member.head.0"].T) @ state["member.head.1"].T

    parts = projected(torch.cat([local, state["member.local"]]))
    wholes = projected(torch.cat([whole, state["member.whole"]]))
    losses = []
    for place, part in enumerate(parts):
        scores = torch.exp(functional.cosine_similarity(part[None], wholes) / engine.config.temperature)
        losses.append(-torch.log(scores[place] / scores.sum()))
    expected = torch.stack(losses[:5]).mean() + torch.stack(losses[5:]).mean()
    assert len(losses) == 5 + 6
    assert contrast(inversion, shown) == pytest.approx(float(expected), rel=1e-3)  # rounding errors are about 1e-5


@pytest.mark.numeric
def test_steps_lower_the_contrastive_loss() -> None:
    weights = InversionWeights(label=0.0, batch_norm=0.0, total_variation=0.0, l2=0.0, jitter=0)
    inversion = started(cmi(contrast=1.0, weights=weights), target("member", conv(0)))

    def current_contrast() -> float:
        """Contrastive loss of the current images, with the same crops at every call."""
        done, inversion.done = inversion.done, 999
        found = contrast(inversion, inversion.images()[0])
        inversion.done = done
        return found

    before = current_contrast()
    for _ in range(20):
        inversion.step()
    assert current_contrast() < before - 0.05


def test_the_memory_of_a_member_grows_by_the_rounds_images_up_to_the_bank() -> None:
    engine = cmi(bank=15)
    sizes = []
    for number in range(3):
        inversion = run_round(engine, targets([0, 1]), number)
        engine.learn(inversion, kept=[0])
        state = engine.state_dict()
        sizes.append((len(state["member 0.local"]), len(state["member 0.whole"]), len(state["member 1.local"])))
    assert sizes == [(6, 6, 0), (12, 12, 0), (15, 15, 0)]


def test_the_newest_images_stay_in_the_bank() -> None:
    small, large = cmi(bank=6), cmi(bank=100)
    for number in range(2):
        for engine in (small, large):
            engine.learn(run_round(engine, targets([0]), number))
    assert torch.equal(small.state_dict()["member 0.whole"], large.state_dict()["member 0.whole"][-6:])
    assert not torch.equal(small.state_dict()["member 0.whole"], large.state_dict()["member 0.whole"][:6])


def test_the_memory_of_one_member_is_not_used_for_another() -> None:
    engine = cmi()
    engine.learn(run_round(engine, targets([0])))
    assert torch.equal(run_round(engine, targets([1]), 1).images()[0], run_round(cmi(), targets([1]), 1).images()[0])
    assert not torch.equal(
        run_round(engine, targets([0]), 1).images()[0], run_round(cmi(), targets([0]), 1).images()[0]
    )


def test_without_the_contrastive_term_nothing_is_stored() -> None:
    engine = cmi(contrast=0.0)
    inversion = run_round(engine, targets([0]))
    engine.learn(inversion)
    assert engine.state_dict() == {}
    assert isinstance(inversion, GeneratorInversionRun)
    assert inversion.extra_loss(0, images(6)) is None


def test_every_round_starts_from_another_generator_which_learning_does_not_change() -> None:
    engine = cmi(contrast=0.0)
    first, second = (started(engine, target("member", conv(0)), number).copies[0] for number in (0, 1))
    assert not torch.equal(first.weights["project.weight"], second.weights["project.weight"])
    engine.learn(run_round(engine, targets([0])))
    again = started(engine, target("member", conv(0)), 0).copies[0]
    assert torch.equal(first.weights["project.weight"], again.weights["project.weight"])


def test_members_of_another_size_have_features_too() -> None:
    larger = target("larger", conv(0, preprocessing=Preprocessing(24, PREPROCESSING.mean, PREPROCESSING.std)))
    engine = cmi()
    engine.learn(run_round(engine, [larger]))
    assert len(engine.state_dict()["larger.local"]) == 6


@given(st.floats(0.05, 0.95), st.integers(0, 10))
def test_a_crop_is_a_part_of_its_image(area: float, seed: int) -> None:
    """A white image stays white; of a horizontal ramp, the crop has the range of values of its width."""
    crops = random_crops(torch.ones(3, 3, 16, 16), (area, 1.0), seeds.generator(seed, "crops"))
    assert crops.shape == (3, 3, 16, 16)
    torch.testing.assert_close(crops, torch.ones_like(crops))
    ramp = ((torch.arange(16) + 0.5) / 16).expand(3, 3, 16, 16)
    exact = random_crops(ramp, (area, area), seeds.generator(seed, "crops"))
    assert ramp.min() - 1e-5 <= exact.min()
    assert exact.max() <= ramp.max() + 1e-5
    span = (exact[..., -1] - exact[..., 0]).abs()
    torch.testing.assert_close(span, torch.full_like(span, area**0.5 * 15 / 16), atol=1e-4, rtol=0)


def test_a_crop_of_the_full_area_is_shifted_by_an_eighth_at_most_and_mirrored_or_not() -> None:
    white = random_crops(torch.ones(200, 3, 16, 16), (1.0, 1.0), seeds.generator(0, "crops"))
    assert torch.all((white >= 0) & (white <= 1 + 1e-6))
    torch.testing.assert_close(white[..., 2:-2, 2:-2], torch.ones(200, 3, 12, 12))
    assert torch.any(white[..., 0, :] == 0)
    ramp = (torch.arange(16) / 15).expand(200, 3, 16, 16)
    crops = random_crops(ramp, (1.0, 1.0), seeds.generator(0, "crops"))
    rising = (crops[:, 0, 8, 12] > crops[:, 0, 8, 4]).float().mean()
    assert 0.25 < rising < 0.75  # 7 standard deviations


def test_every_image_has_a_crop_of_its_own() -> None:
    crops = random_crops(images(1).expand(4, 3, 16, 16), (0.25, 1.0), seeds.generator(0, "crops"))
    assert len({tuple(crop.flatten().tolist()) for crop in crops}) == 4


def test_crops_are_differentiable() -> None:
    shown = images(2, size=4, dtype=torch.float64).requires_grad_()

    def crop(inputs: torch.Tensor) -> torch.Tensor:
        return random_crops(inputs, (0.25, 1.0), seeds.generator(0, "crops"))

    assert torch.autograd.gradcheck(crop, (shown,))

"""Recipes: the settings of PURER and FREE, and overrides that are validated."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfml.errors import ConfigError, UsageError
from dfml.pretraining import PAPER, RECIPES, STRONG, Optimisation, Recipe, recipe_by_name
from dfml.pretraining.classifier_training import learning_rate


def test_the_paper_recipe() -> None:
    conv4, resnet = (PAPER.optimisation(name, batch_norm=True) for name in ("conv4_64", "fewshot_resnet10"))
    assert (conv4.optimiser, conv4.learning_rate, conv4.schedule, conv4.weight_decay) == ("adam", 0.01, "constant", 0)
    assert (resnet.optimiser, resnet.learning_rate, resnet.momentum, resnet.weight_decay) == ("sgd", 0.01, 0.9, 5e-4)
    assert (PAPER.epochs, PAPER.batch_size, PAPER.gradient_clip) == (60, 128, 50)
    assert (PAPER.crop_padding, PAPER.flip) == (0, False)
    rates = [learning_rate(resnet, 10 * epoch, 10, 100) for epoch in (0, 29, 30, 49, 50, 79, 80)]
    assert rates == pytest.approx([0.01, 0.01, 0.002, 0.002, 0.0004, 0.0004, 0.00008])
    assert {learning_rate(conv4, update, 10, 60) for update in range(600)} == {0.01}


def test_the_strong_recipe() -> None:
    assert (STRONG.epochs, STRONG.batch_size, STRONG.crop_padding, STRONG.flip) == (25, 128, 4, True)
    assert STRONG.optimisation("conv4", batch_norm=True).schedule == "one_cycle"


@pytest.mark.parametrize("recipe", RECIPES.values())
def test_networks_without_batch_norm_have_an_optimiser_of_their_own(recipe: Recipe) -> None:
    chosen = recipe.optimisation("any_name", batch_norm=False)
    assert (chosen.optimiser, chosen.learning_rate, chosen.schedule) == ("adamw", 0.001, "one_cycle")
    assert recipe.optimisation("any_name", batch_norm=True) == recipe.others
    assert recipe.optimisation("conv4_pyramid", batch_norm=True) == recipe.conv4


def test_the_crop_padding_of_large_images_is_in_proportion_to_their_size() -> None:
    assert [STRONG.padding(size) for size in (16, 28, 32, 39, 40, 48, 64, 84)] == [4, 4, 4, 4, 5, 6, 8, 10]
    assert [STRONG.padding(size) for size in range(32, 225)] == [size // 8 for size in range(32, 225)]
    assert {PAPER.padding(size) for size in (16, 32, 84)} == {0}


@pytest.mark.parametrize(("updates_per_epoch", "epochs"), [(19, 25), (7, 3), (1, 20)])
def test_one_cycle_rises_for_three_tenths_and_then_falls_to_almost_zero(updates_per_epoch: int, epochs: int) -> None:
    one_cycle = Optimisation(optimiser="adam", learning_rate=0.01, schedule="one_cycle")
    total = updates_per_epoch * epochs
    rates = [learning_rate(one_cycle, update, updates_per_epoch, epochs) for update in range(total)]
    peak = rates.index(max(rates))
    assert peak == pytest.approx(0.3 * (total - 1), abs=1)
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert rates[0] == pytest.approx(0.01 / 25)
    assert max(rates) == pytest.approx(0.01, rel=0.05)
    assert rates[-1] < 1e-6


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from(["constant", "steps", "one_cycle"]))
def test_learning_rates_stay_below_the_highest(updates_per_epoch: int, epochs: int, schedule: str) -> None:
    optimisation = Optimisation.model_validate(
        {"optimiser": "adam", "learning_rate": 0.5, "schedule": schedule, "step_epochs": (1, 3)}
    )
    rates = [learning_rate(optimisation, update, updates_per_epoch, epochs) for update in range(updates_per_epoch)]
    assert all(0 < rate <= 0.5 * (1 + 1e-12) for rate in rates)


def test_an_override_changes_what_it_names_only() -> None:
    short = PAPER.override(epochs=3, conv4={"optimiser": "sgd", "learning_rate": 0.1})
    assert (short.epochs, short.conv4.learning_rate, short.conv4.optimiser) == (3, 0.1, "sgd")
    assert short.override(epochs=60, conv4=PAPER.conv4) == PAPER
    assert PAPER.epochs == 60


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"epochs": 0}, "epochs"),
        ({"epoch": 3}, "epoch"),
        ({"epochs": "many"}, "epochs"),
        ({"batch_size": 1}, "batch_size"),
        ({"conv4": {"optimiser": "lion", "learning_rate": 0.1}}, "conv4.optimiser"),
        ({"conv4": {"optimiser": "adam", "learning_rate": float("nan")}}, "conv4.learning_rate"),
    ],
)
def test_an_impossible_override_is_one_line_that_names_the_setting(settings: dict[str, object], part: str) -> None:
    with pytest.raises(ConfigError, match=f"setting {part!r}: ") as caught:
        PAPER.override(**settings)
    assert "\n" not in str(caught.value)


def test_recipes_have_names() -> None:
    assert {name: recipe_by_name(name) for name in ("paper", "strong")} == RECIPES
    with pytest.raises(UsageError, match="expected one of paper, strong"):
        recipe_by_name("weak")

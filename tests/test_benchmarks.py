"""The summaries of the benchmarks are correct."""

from __future__ import annotations

import importlib
import statistics
from argparse import Namespace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfml.errors import UsageError
from dfml.inversion.meta_generator import FiveConfig, MetaGenerator
from dfml.methods.free import FREE, FreeConfig
from dfml.zoo import Zoo
from tests.factories import PREPROCESSING, member

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def summaries() -> ModuleType:
    return _module("recovery_figures")


def _module(name: str) -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        return importlib.import_module(name)


def _row(five: float, fixed: float, until: dict[str, tuple[float, float, bool]]) -> dict[str, Any]:
    level = {
        name: {"steps": steps, "seconds": seconds, "reached": reached}
        for name, (steps, seconds, reached) in until.items()
    }
    engines = {"FIVE, 5 steps": {"seconds": five}, "from scratch, 40 steps": {"seconds": fixed}}
    return {"engines": engines, "equal_agreement": {"50%": level}}


def test_first_step_at_or_above_a_level(summaries: ModuleType) -> None:
    assert summaries.first_at_least({0: 0.1, 5: 0.3, 2: 0.2, 10: 0.25}, 0.2) == 2
    assert summaries.first_at_least({0: 0.1, 5: 0.3}, 0.5) is None
    assert summaries.first_at_least({0: float("nan"), 5: 0.3}, 0.2) == 5


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=8))
def test_a_median_of_bounds_is_called_exact_only_where_it_is(pairs: list[tuple[int, int]]) -> None:
    """For any unknown values above their bounds."""
    bounds, excess = zip(*pairs, strict=True)
    median, exact = _module("recovery_figures").censored_median(bounds, [extra == 0 for extra in excess])
    truth = statistics.median(bound + extra for bound, extra in pairs)
    assert truth >= median
    assert not exact or truth == median


def test_a_median_is_a_lower_bound_where_half_of_the_values_are(summaries: ModuleType) -> None:
    assert summaries.censored_median([20, 30, 40, 40, 40], [True, True, True, False, False]) == (40, True)
    assert summaries.censored_median([20, 30, 40, 40, 40], [True, True, False, False, False]) == (40, False)


def test_headline_marks_lower_bounds(summaries: ModuleType) -> None:
    rows = [
        _row(1.0, 8.0, {"FIVE": (5, 1.0, True), "from scratch": (10, 2.0, True), "EI": (2, 0.5, True)}),
        _row(2.0, 20.0, {"FIVE": (5, 2.0, True), "from scratch": (40, 20.0, False), "EI": (2, 0.5, True)}),
        _row(1.0, 9.0, {"FIVE": (40, 8.0, False), "from scratch": (40, 9.0, False), "EI": (3, 0.8, True)}),
    ]
    figures = summaries.headline(rows, 40.0, 40)
    assert figures["fixed_ratio"] == 9.0
    assert figures["fixed_runs_to_pay_off"] == 5.0
    five, scratch, ei, pays_off = figures["equal_agreement"]["50%"].values()
    assert (five["steps"], five["seconds"], five["exact"], five["reached"]) == (5, 2.0, True, 2)
    assert (scratch["steps"], scratch["ratio"], scratch["exact"], scratch["reached"]) == (40, 4.5, False, 1)
    assert (ei["steps"], ei["ratio"], ei["exact"], ei["reached"]) == (2, 0.25, True, 3)
    assert pays_off == pytest.approx(40.0 / 7.0)


def test_no_ratio_to_a_level_that_five_does_not_reach(summaries: ModuleType) -> None:
    rows = [_row(1.0, 8.0, {"FIVE": (40, 9.0, False), "from scratch": (10, 2.0, True), "EI": (2, 0.5, True)})]
    level = summaries.headline(rows, 40.0, 40)["equal_agreement"]["50%"]
    assert level["from scratch"]["ratio"] is None
    assert level["runs_to_pay_off"] is None


def test_generators_of_other_members_are_refused(tmp_path: Path) -> None:
    """They may have been meta-trained on the members that are new now."""
    import torch
    from safetensors.torch import save_file

    load = _module("recovery_training").load_generators
    config = FiveConfig(width=4, latent=8)
    trained, fresh = (MetaGenerator(config, PREPROCESSING, seed=seed) for seed in (1, 2))
    tensors = {f"FIVE.{name}": value.detach().clone().contiguous() for name, value in trained.state_dict().items()}
    path, device = tmp_path / "generators.safetensors", torch.device("cpu")
    about = (
        '{"conditions": {"members": ["a", "b"]}, "training": {"FIVE": {"device": "cpu", "threads": 1, "seconds": 3.0}}}'
    )
    save_file(tensors, path, metadata={"about": about})
    with pytest.raises(UsageError, match="other members"):
        load(path, {"members": ["a", "c"]}, {"FIVE": fresh}, device)
    assert load(path, {"members": ["a", "b"]}, {"FIVE": fresh}, device)["FIVE"].seconds == 3.0
    assert all(torch.equal(value, fresh.weights[name]) for name, value in trained.weights.items())
    save_file(tensors, path)
    with pytest.raises(UsageError, match="found none"):
        load(path, {}, {"FIVE": fresh}, device)


def test_five_is_measured_with_the_settings_of_a_preset_of_free() -> None:
    """The generator from scratch has the same learning rates and losses; only the initialisation differs."""
    import torch

    create = _module("recovery").create_engines
    zoo, device = Zoo.of([member(0)]), torch.device("cpu")
    arguments: dict[str, Any] = {"seed": 0, "scratch_steps": 7, "outer": None, "label_input": None, "latent_draws": 4}
    published = create(zoo, device, Namespace(**arguments, preset=None, width=4))
    ours = create(zoo, device, Namespace(**arguments, preset="cpu", width=None))
    assert published["FIVE"].config == FiveConfig(width=4, latent_draws=4, weights=published["FIVE"].config.weights)
    five, scratch = ours["FIVE"].config, ours["from scratch"].config
    preset = FREE(**FREE.presets["cpu"]).config
    assert isinstance(preset, FreeConfig)
    weights = preset.inversion.five.weights.model_copy(update={"disagreement": 0.0})
    assert five == preset.inversion.five.model_copy(update={"weights": weights, "latent_draws": 4})
    for name in ("lr", "latent_lr", "latent_draws", "weights"):
        assert getattr(scratch, name) == getattr(five, name)
    assert five.lr != published["FIVE"].config.lr

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


def _row(
    five: float, fixed: float, scratch: tuple[float, float, bool], ei: tuple[float, float, bool]
) -> dict[str, Any]:
    equal = {
        name: {"steps": steps, "seconds": seconds, "reached": reached}
        for name, (steps, seconds, reached) in {"from scratch": scratch, "EI": ei}.items()
    }
    engines = {"FIVE, 5 steps": {"seconds": five}, "from scratch, 40 steps": {"seconds": fixed}}
    return {"engines": engines, "equal_cross_entropy": equal}


def test_first_step_at_or_below_a_level(summaries: ModuleType) -> None:
    assert summaries.first_at_most([3.0, 2.0, 1.0, 2.0, 0.5], 2.0) == 1
    assert summaries.first_at_most([3.0, 2.0, 1.0], 0.5) is None
    assert summaries.first_at_most([float("nan"), 2.0], 2.0) == 1


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


def test_headline_compares_member_by_member_and_marks_lower_bounds(summaries: ModuleType) -> None:
    rows = [
        _row(1.0, 8.0, (10, 2.0, True), (2, 0.5, True)),
        _row(2.0, 20.0, (40, 20.0, False), (2, 0.5, True)),
        _row(1.0, 9.0, (40, 9.0, False), (3, 0.8, True)),
    ]
    ratios = summaries.headline(rows, 40.0, 40)
    assert ratios["fixed_ratio"] == 9.0
    assert ratios["fixed_runs_to_pay_off"] == 5.0
    scratch, ei = ratios["from scratch"], ratios["EI"]
    assert (scratch["steps"], scratch["ratio"], scratch["exact"], scratch["reached"]) == (40, 9.0, False, 1)
    assert (ei["steps"], ei["ratio"], ei["exact"], ei["runs_to_pay_off"]) == (2, 0.5, True, None)


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
    arguments: dict[str, Any] = {"seed": 0, "scratch_steps": 7}
    published = create(zoo, device, Namespace(**arguments, preset=None, width=4))
    ours = create(zoo, device, Namespace(**arguments, preset="cpu", width=None))
    assert published["FIVE"].config == FiveConfig(width=4, weights=published["FIVE"].config.weights)
    five, scratch = ours["FIVE"].config, ours["from scratch"].config
    preset = FREE(**FREE.presets["cpu"]).config
    assert isinstance(preset, FreeConfig)
    weights = preset.inversion.five.weights.model_copy(update={"disagreement": 0.0})
    assert five == preset.inversion.five.model_copy(update={"weights": weights})
    assert (scratch.lr, scratch.latent_lr, scratch.weights) == (five.lr, five.latent_lr, five.weights)
    assert five.lr != published["FIVE"].config.lr

"""Weights are found in nested mappings; prefixes and tensors that belong to no layer are removed."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dfml.zoo.state_dicts import find_state_dict, shared_prefix, tidy

ONE = {"a.weight": torch.ones(2), "b.weight": torch.ones(3)}
TWO = {"a.weight": torch.zeros(2), "b.weight": torch.zeros(3)}


def test_a_usual_name_counts_more_than_size() -> None:
    larger = {"c.weight": torch.ones(1000)}
    found, entry = find_state_dict({"discriminator": larger, "ema": TWO, "model": ONE})
    assert found is not None
    assert (found["a.weight"] == 1).all()
    assert entry == "model"


def test_the_largest_of_unusual_names_counts() -> None:
    found, entry = find_state_dict(
        {"small": {"c.weight": torch.ones(1)}, "large": ONE, "optimizer_x": {"w": torch.ones(99)}}
    )
    assert entry == "large"
    assert found == ONE


def test_nested_keys_are_named() -> None:
    assert find_state_dict({"checkpoint": {"epoch": 1, "net": ONE}})[1] == "checkpoint.net"


@pytest.mark.parametrize(
    "content", [None, 3, [], {}, {"a": {"b": {"c": {"d": {"e": {"f": ONE}}}}}}, {1: torch.ones(1)}]
)
def test_what_holds_no_weights_gives_none(content: object) -> None:
    assert find_state_dict(content) == (None, "")


@pytest.mark.parametrize(
    ("names", "prefix"),
    [
        (["module.conv.weight", "module.fc.bias"], "module."),
        (["module.model.conv.weight", "module.model.fc.bias"], "module.model."),
        (["_orig_mod.model.1.weight", "_orig_mod.model.3.weight"], "_orig_mod.model."),
        (["conv.weight", "fc.bias"], ""),
        (["fc.weight", "fc.bias"], ""),
        (["module.fc.weight", "module.fc.bias"], "module."),
        (["net.0.weight", "net.0.bias"], "net."),
        (["0.weight", "0.bias"], ""),
        (["weight", "bias"], ""),
        ([], ""),
    ],
)
def test_the_prefix_that_all_names_share(names: list[str], prefix: str) -> None:
    assert shared_prefix(names) == prefix


@given(st.lists(st.sampled_from(["module", "model", "net"]), max_size=4))
def test_prefixes_of_any_depth_are_removed(parts: list[str]) -> None:
    wrapped = {".".join([*parts, name]): tensor for name, tensor in ONE.items()}
    assert set(tidy(wrapped)[0]) == set(ONE)


def test_what_tools_leave_beside_the_weights_is_left_out_and_named() -> None:
    extra = {
        "module.a.total_ops": torch.zeros(1),
        "total_params": torch.zeros(1),
        "n_averaged": torch.tensor(3),
        "criterion.weight": torch.ones(2),
    }
    kept, details = tidy({**{f"module.{name}": tensor for name, tensor in ONE.items()}, **extra})
    assert set(kept) == set(ONE)
    assert set(details["left_out"]) == set(extra)


def test_missing_counters_of_batch_norm_layers_are_filled_in() -> None:
    kept, _ = tidy({"bn.running_mean": torch.zeros(2), "bn.running_var": torch.ones(2), "fc.weight": torch.ones(2, 2)})
    assert kept["bn.num_batches_tracked"].dtype is torch.int64

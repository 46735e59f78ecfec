"""Bounds on what a configuration may ask for."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from dfml.errors import ZooMemberError
from dfml.zoo.bounds import MAX_MODULES, MAX_VALUE, TooManyModulesError, bounded_modules, check_arguments
from dfml.zoo.vetting import load_member, read_member_config
from tests.factories import ZooMaker, edit_config

MEMBER = Path("member")

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-MAX_VALUE, MAX_VALUE)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)


@given(PLAIN)
def test_plain_values_within_the_bounds_pass(arguments: object) -> None:
    check_arguments(MEMBER, arguments, "`model_args`")


@given(PLAIN, st.sampled_from([MAX_VALUE + 1, -MAX_VALUE - 1, 10**400, float("nan"), float("inf")]))
def test_one_value_beyond_the_bounds_is_found_wherever_it_stands(arguments: object, bad: float) -> None:
    with pytest.raises(ZooMemberError, match=r"found .* as `depth`"):
        check_arguments(MEMBER, {"a": arguments, "b": [{"depth": bad}, arguments]}, "`model_args`")


@pytest.mark.parametrize("many", [[0] * 200_000, [[[0] * 60] * 60] * 60], ids=["long", "wide"])
def test_too_many_values_are_refused(many: object) -> None:
    with pytest.raises(ZooMemberError, match="at most 100000 values"):
        check_arguments(MEMBER, {"depths": many}, "`model_args`")


def test_deep_nesting_is_refused() -> None:
    nested: object = 0
    for _ in range(50):
        nested = [nested]
    with pytest.raises(ZooMemberError, match="nested at most"):
        check_arguments(MEMBER, nested, "`model_args`")


def test_building_ends_at_the_first_module_too_many_and_no_hook_stays_behind() -> None:
    with pytest.raises(TooManyModulesError, match=f"more than {MAX_MODULES}"), bounded_modules():
        nn.Sequential(*(nn.Identity() for _ in range(MAX_MODULES + 1)))
    assert len(nn.Sequential(*(nn.Identity() for _ in range(MAX_MODULES + 1)))) == MAX_MODULES + 1


def test_a_network_of_fifty_thousand_layers_is_refused_within_seconds(zoo_maker: ZooMaker) -> None:
    folder, _ = zoo_maker.member(architecture="vit_tiny_patch16_224", arguments={"img_size": 16, "depth": 1}, size=16)
    edit_config(folder, model_args={"img_size": 16, "depth": 50_000})
    start = time.monotonic()
    with pytest.raises(ZooMemberError, match=f"more than {MAX_MODULES} modules"):
        load_member(read_member_config(folder))
    assert time.monotonic() - start < 30


def test_numbers_beyond_any_network_are_refused_before_anything_is_built(zoo_maker: ZooMaker) -> None:
    folder, _ = zoo_maker.member()
    edit_config(folder, model_args={"img_size": 16, "depth": 10**6})
    with pytest.raises(ZooMemberError, match=r"integers of at most 300000 in `model_args` in config.json"):
        read_member_config(folder)

"""Bounds on what a configuration may ask for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from dfml.errors import ZooMemberError
from dfml.zoo.bounds import (
    MAX_MODULES,
    MAX_VALUE,
    TooCostlyError,
    TooManyModulesError,
    bounded_modules,
    check_arguments,
    check_buffers,
    largest_tensor,
)
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


def test_a_network_of_fifty_thousand_layers_is_refused_before_it_is_built(zoo_maker: ZooMaker) -> None:
    folder, _ = zoo_maker.member(architecture="vit_tiny_patch16_224", arguments={"img_size": 16, "depth": 1}, size=16)
    edit_config(folder, model_args={"img_size": 16, "depth": 50_000})
    with pytest.raises(ZooMemberError, match=f"more than {MAX_MODULES} modules"):
        load_member(read_member_config(folder))


def test_numbers_beyond_any_network_are_refused_before_anything_is_built(zoo_maker: ZooMaker) -> None:
    folder, _ = zoo_maker.member()
    edit_config(folder, model_args={"img_size": 16, "depth": 10**6})
    with pytest.raises(ZooMemberError, match=r"integers of at most 300000 in `model_args` in config.json"):
        read_member_config(folder)


def test_the_largest_tensor_of_a_pass_is_counted_without_computing_it() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert largest_tensor(network, 16) == 8 * 16 * 16
    assert not any(parameter.is_meta for parameter in network.parameters())


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (nn.Conv2d(3, 64, 1), r"takes too much memory: .* found 1073741824"),
        (nn.Sequential(*[nn.ZeroPad2d(500)] * 40), "takes too much memory"),
        (nn.Sequential(*[nn.Conv2d(3, 3, 101, padding=50)] * 7), r"more than 1e\+13 operations"),
    ],
)
def test_an_image_that_costs_too_much_is_refused_without_paying_for_it(network: nn.Module, reason: str) -> None:
    with pytest.raises(TooCostlyError, match=reason):
        largest_tensor(network, 4096)


def test_a_network_whose_path_depends_on_values_is_not_counted() -> None:
    class Depends(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if float(x.sum()) > 0 else -x

    assert largest_tensor(Depends(), 16) is None


def test_what_a_network_keeps_between_passes_is_not_touched() -> None:
    class Keeps(nn.Module):
        kept: Tensor | None = None

        def forward(self, x: Tensor) -> Tensor:
            self.kept = x.new_ones(x.shape) if self.kept is None else self.kept
            return x + self.kept

    network = Keeps()
    largest_tensor(network, 16)
    assert network(torch.zeros(1, 3, 16, 16)).sum() == 3 * 16 * 16


def test_buffers_that_no_file_holds_are_bounded() -> None:
    class Positions(nn.Module):
        def __init__(self, count: int, *, stored: bool) -> None:
            super().__init__()
            self.register_buffer("index", torch.zeros(count, count), persistent=stored)

    with torch.device("meta"):
        check_buffers(Positions(100_000, stored=True))  # compared with the file
        check_buffers(Positions(1_000, stored=False))
        with pytest.raises(TooCostlyError, match="its buffers need 40000000000 bytes"):
            check_buffers(Positions(100_000, stored=False))

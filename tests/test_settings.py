from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import PositiveInt, ValidationError

from dfml.errors import ConfigError, UsageError
from dfml.settings import FrozenSettings, build_config, merge, override, read_assignment


class Section(FrozenSettings):
    steps: PositiveInt = 1
    lr: float = 0.5


class Whole(FrozenSettings):
    way: PositiveInt = 5
    section: Section = Section(steps=7)


def test_settings_are_immutable_and_finite() -> None:
    with pytest.raises(ValidationError):
        Whole().way = 3
    with pytest.raises(ConfigError, match=r"setting 'lr': .*finite"):
        build_config(Section, {"lr": float("nan")})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"way": 0}, r"setting 'way': .*greater than 0 \(found 0\)"),
        ({"shots": 3}, r"setting 'shots': unknown setting; known are way, section$"),
        ({"wai": 3}, r"setting 'wai': unknown setting; did you mean 'way'\? Known are way, section$"),
        (
            {"section": {"step": 3}},
            r"'section\.step': unknown setting; did you mean 'section\.steps'\? Known are steps",
        ),
        ({"section": 3}, r"setting 'section'"),
    ],
)
def test_the_first_wrong_setting_is_named(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build_config(Whole, settings)
    with pytest.raises(ConfigError, match=words):
        override(Whole(), settings)


def test_the_section_precedes_the_name_of_a_setting() -> None:
    with pytest.raises(ConfigError, match=r"setting 'purer\.section\.step': .*did you mean 'purer\.section\.steps'"):
        override(Whole(), {"section": {"step": 3}}, section="purer")
    with pytest.raises(ConfigError, match=r"setting 'purer\.way': .*greater than 0 \(found 0\)"):
        build_config(Whole, {"way": 0}, section="purer")


def test_an_override_changes_what_it_names_only() -> None:
    base = Whole(way=3, section=Section(steps=4, lr=0.25))
    assert override(base) == base
    assert override(base, {"section": {"lr": 1.0}}) == Whole(way=3, section=Section(steps=4, lr=1.0))
    assert override(base, {"section": {"lr": 1.0}}, {"section": {"lr": 2.0}, "way": 2}).section.lr == 2.0
    assert override(base, {"section": Section()}).section == Section()
    assert base.way == 3


@pytest.mark.parametrize("assignment", ["purer", "purer.way", "purer=3", "purer..way=3", "=3", ".way=3"])
def test_an_assignment_of_another_form_is_refused(assignment: str) -> None:
    with pytest.raises(UsageError, match=r"expected --set purer\.NAME=VALUE"):
        read_assignment(assignment, "purer")


def test_an_assignment_for_another_section_is_refused() -> None:
    with pytest.raises(UsageError, match=r"for purer, not free; write purer\.way="):
        read_assignment("free.way=3", "purer")
    with pytest.raises(ConfigError, match="not YAML"):
        read_assignment("purer.way=[", "purer")


_NAMES = st.from_regex("[a-z_]{1,8}", fullmatch=True)
_VALUES = st.one_of(st.integers(), st.booleans(), st.none(), st.floats(allow_nan=False), st.lists(st.integers()))


@given(path=st.lists(_NAMES, min_size=1, max_size=4), value=_VALUES)
def test_an_assignment_becomes_a_nested_mapping(path: list[str], value: Any) -> None:
    text = yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").strip()
    settings: Any = read_assignment(f"purer.{'.'.join(path)}={text}", "purer")
    for name in path:
        assert list(settings) == [name]
        settings = settings[name]
    assert settings == value


_TREES = st.recursive(st.integers(), lambda below: st.dictionaries(_NAMES, below, max_size=3), max_leaves=8)
_SETTINGS = st.dictionaries(_NAMES, _TREES, max_size=4)


@given(base=_SETTINGS, over=_SETTINGS)
def test_a_merge_keeps_all_of_the_upper_layer_and_the_rest_of_the_lower(base: Any, over: Any) -> None:
    def covers(whole: Any, part: Any) -> bool:
        if not isinstance(part, dict):
            return bool(whole == part)
        return isinstance(whole, dict) and all(key in whole and covers(whole[key], part[key]) for key in part)

    merged = merge(base, over)
    assert covers(merged, over)
    assert merged.keys() == base.keys() | over.keys()
    assert all(merged[key] == base[key] for key in base.keys() - over.keys())
    assert merge(merged, over) == merged


def test_a_message_shows_the_beginning_of_a_long_value() -> None:
    with pytest.raises(ConfigError) as caught:
        build_config(Section, {"steps": "x" * 10_000})
    assert len(str(caught.value)) < 400
    assert "xxx..." in str(caught.value)

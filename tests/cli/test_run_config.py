"""Settings come in layers, each over the one before, and every setting can be seen before it is used."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dfml.cli.run_config import RunFile, resolve
from dfml.errors import ConfigError
from dfml.methods import METHODS, PURER, Average
from dfml.settings import merge, read_assignment
from tests.cli.conftest import dfml, error


def shown(*arguments: str | Path) -> dict[str, Any]:
    """The settings as `--show-config` prints them."""
    result = dfml("train", "--show-config", *arguments)
    assert result.exit_code == 0, result.stderr
    return dict(yaml.safe_load(result.stdout))


def test_each_layer_overrides_the_one_before(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump({"method": "purer", "purer": {"iterations": 11, "warm_up": 12, "shot": 2}}))
    layers = ("--preset", "cpu", "--config", file, "--set", "purer.warm_up=13", "--set", "purer.shot=3", "--shot", "4")
    settings = shown("--method", "purer", *layers)["purer"]
    assert settings["way"] == 5  # default
    assert shown("--method", "purer", "--preset", "cpu")["purer"]["iterations"] == 3000  # preset
    assert settings["iterations"] == 11  # file over preset
    assert settings["warm_up"] == 13  # --set over file
    assert settings["shot"] == 4  # option over --set


@pytest.mark.parametrize(
    ("method", "preset"), [(name, each) for name, kind in METHODS.items() for each in kind.presets]
)
def test_every_preset_changes_what_it_names_and_nothing_else(method: str, preset: str) -> None:
    changed = METHODS[method].presets[preset]
    plain, settings = (shown("--method", method, *more)[method] for more in ((), ("--preset", preset)))
    assert settings == merge(plain, changed) != plain


@pytest.mark.parametrize("method", METHODS)
def test_every_setting_is_shown_with_its_meaning(method: str) -> None:
    result = dfml("train", "--show-config", "--method", method)
    lines = result.stdout.splitlines()[2:]
    bare = [line for before, line in pairwise(["#", *lines]) if "#" not in before and "#" not in line]
    assert bare == []
    assert not [line for line in lines if "  " in line.partition("#")[2].strip()]


def test_nested_settings_are_merged_not_replaced() -> None:
    settings = shown("--method", "average", "--set", "average.learner.kind=anil")["average"]
    assert settings["learner"]["kind"] == "anil"
    assert settings["learner"]["inner_steps"] == Average.config_type().model_dump()["learner"]["inner_steps"]


def test_settings_of_another_method_than_the_default_are_not_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("purer: {way: 4}\nfree: {way: 3}\n")
    assert "settings of purer, free, but names no method" in error(dfml("train", "--show-config", "--config", file), 2)
    assert shown("--config", file, "--method", "free")["free"]["way"] == 3
    file.write_text("purer: {way: 4}\nzoo_student: {way: 3}\n")
    assert shown("--config", file)["zoo_student"]["way"] == 3


@pytest.mark.parametrize("method", list(METHODS))
def test_what_is_shown_is_a_config_file_of_the_same_settings(method: str, tmp_path: Path) -> None:
    printed = dfml("train", "--show-config", "--method", method).stdout
    (tmp_path / "run.yaml").write_text(printed)
    assert shown("--config", tmp_path / "run.yaml") == yaml.safe_load(printed)
    assert yaml.safe_load(printed)[method] == METHODS[method].config_type().model_dump(mode="json")


def test_settings_are_shown_with_what_they_mean() -> None:
    printed = dfml("train", "--show-config", "--method", "purer").stdout
    assert "# Meta-iterations.\n  iterations: 60000\n" in printed
    assert "class.\n    kind: maml\n" in printed


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("- 1", "expected `method:`"),
        ("magic: {}", "unknown entry 'magic'"),
        ("purer: 3", "expected settings below 'purer'"),
        ("method: 3", "expected text for 'method'"),
        ("class_identity: 3", "must map member names"),
        ("method: [", "cannot be read as YAML"),
        ("zoo_student: {magic: 1}", "'magic': unknown setting"),
        ("method: magic", "unknown method 'magic'"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "run.yaml").write_text(content)
    assert words in error(dfml("train", "--show-config", "--config", tmp_path / "run.yaml"), 2)


def test_a_method_that_contradicts_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("method: average")
    assert "contradicts" in error(dfml("train", "--method", "purer", "--config", tmp_path / "run.yaml"), 2)


def test_an_unknown_nested_setting_is_named() -> None:
    with pytest.raises(ConfigError, match=r"learner\.magic"):
        resolve(PURER, None, RunFile(), ["purer.learner.magic=1"], {})


_NAMES = st.from_regex("[a-z_]{1,8}", fullmatch=True)
_VALUES = st.one_of(st.integers(), st.booleans(), st.none(), st.floats(allow_nan=False), st.lists(st.integers()))


@given(path=st.lists(_NAMES, min_size=1, max_size=4), value=_VALUES)
def test_an_assignment_says_where_and_what(path: list[str], value: Any) -> None:
    text = yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").strip()
    found: Any = read_assignment(f"purer.{'.'.join(path)}={text}", "purer")
    for name in path:
        assert list(found) == [name]
        found = found[name]
    assert found == value


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

"""Settings come in layers, each of which overrides those before, and `--show-config` prints all of them."""

from __future__ import annotations

from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any

import pytest
import yaml

from dfml.cli.run_config import RunFile, resolve
from dfml.errors import ConfigError
from dfml.methods import METHODS
from dfml.methods.average import Average
from dfml.methods.purer import PURER
from dfml.settings import merge
from dfml.training.loop import TrainingConfig
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
    assert settings == merge(plain, changed)
    # `released` holds what a paper's code has even where that is the default today: the default may change.
    assert settings != plain or preset == "released"


@pytest.mark.parametrize("method", METHODS)
def test_every_setting_is_printed_with_its_description(method: str) -> None:
    result = dfml("train", "--show-config", "--method", method)
    lines = result.stdout.splitlines()[2:]
    bare = [line for before, line in pairwise(["#", *lines]) if "#" not in before and "#" not in line]
    assert bare == []
    assert not [line for line in lines if "  " in line.partition("#")[2].strip()]


def test_nested_settings_are_merged_not_replaced() -> None:
    settings = shown("--method", "average", "--set", "average.learner.kind=anil")["average"]
    assert settings["learner"]["kind"] == "anil"
    assert settings["learner"]["inner_steps"] == Average.config_type().model_dump()["learner"]["inner_steps"]


def test_settings_of_another_method_than_the_default_are_not_ignored(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("purer: {way: 4}\nfree: {way: 3}\n")
    assert "settings of purer, free, but names no method" in error(dfml("train", "--show-config", "--config", file), 2)
    assert shown("--config", file, "--method", "free")["free"]["way"] == 3
    file.write_text("purer: {way: 4}\nzoo_student: {way: 3}\n")
    assert shown("--config", file)["zoo_student"]["way"] == 3


@pytest.mark.parametrize("method", list(METHODS))
def test_printed_settings_are_a_config_file_of_the_same_settings(method: str, tmp_path: Path) -> None:
    printed = dfml("train", "--show-config", "--method", method).stdout
    (tmp_path / "run.yaml").write_text(printed)
    assert shown("--config", tmp_path / "run.yaml") == yaml.safe_load(printed)
    assert yaml.safe_load(printed)[method] == METHODS[method].config_type().model_dump(mode="json")


def comment_above(printed: str, line: str) -> str:
    """The comment above a line, as one line."""
    above = printed[: printed.index(f"\n{line}\n")].splitlines()
    lines = list(takewhile(lambda text: text.lstrip().startswith("#"), reversed(above)))
    return " ".join(text.lstrip(" #") for text in reversed(lines))


def test_a_description_is_printed_above_its_setting() -> None:
    printed = dfml("train", "--show-config", "--method", "purer").stdout
    config = PURER.config_type()
    for section, name, line in (
        (TrainingConfig, "iterations", "  iterations: 60000"),
        (type(config.learner), "kind", "    kind: maml"),
    ):
        description = section.model_fields[name].description
        assert description
        assert comment_above(printed, line) == " ".join(description.split())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("- 1", "expected `method:`"),
        ("magic: {}", "unknown entry 'magic'"),
        ("purer: 3", "expected settings below 'purer'"),
        ("format_version: 0", "expected format version 1, found format version 0"),
        ("method: 3", "expected text for 'method'"),
        ("zoo: [a, 3]", "a path or a list of paths for 'zoo'"),
        ("class_identity: 3", "must map member names"),
        ("method: [", "cannot be read as YAML"),
        ("zoo_student: {magic: 1}", "'zoo_student.magic': unknown setting"),
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

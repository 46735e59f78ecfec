from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from dfml.errors import RunError
from dfml.methods.plugins import RUN_ENTRIES
from dfml.training.loop import TrainingConfig
from dfml.training.run_folder import CONFIG, RunFolder, describe, flatten
from tests.factories import zoo

ABOUT = {"method": "counting", "counting": {"iterations": 10, "weights": {"l2": 0.1}}}


def folder(tmp_path: Path) -> RunFolder:
    made = RunFolder(tmp_path / "run")
    made.create(ABOUT)
    return made


def test_a_folder_that_is_not_empty_is_refused(tmp_path: Path) -> None:
    folder(tmp_path)
    with pytest.raises(RunError, match=r"not empty; choose another folder \(--out\)$"):  # nothing to resume from
        RunFolder(tmp_path / "run").create(ABOUT)
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError, match="not empty"):
        RunFolder(tmp_path / "file").create(ABOUT)


def test_resuming_with_other_settings_is_refused_and_names_them(tmp_path: Path) -> None:
    run_folder = folder(tmp_path)
    run_folder.check(ABOUT)
    changed = {"method": "counting", "counting": {"iterations": 10, "weights": {"l2": 0.2}}}
    with pytest.raises(RunError, match=r"counting\.weights\.l2 0\.1 -> 0\.2.*\(--config .*run/config\.yaml\)"):
        run_folder.check(changed)
    with pytest.raises(RunError, match="no run to resume"):
        RunFolder(tmp_path / "elsewhere").check(ABOUT)


@pytest.mark.parametrize("version", [2, None, "1"])
def test_a_run_of_another_format_version_is_refused(tmp_path: Path, version: object) -> None:
    run_folder = folder(tmp_path)
    config: dict[str, Any] = yaml.safe_load((run_folder.path / CONFIG).read_text())
    assert config.pop("format_version") == 1
    (run_folder.path / CONFIG).write_text(
        yaml.safe_dump({**config, **({} if version is None else {"format_version": version})})
    )
    with pytest.raises(RunError, match=r"the run .*: expected format version 1, found .*version"):
        run_folder.check(ABOUT)


def test_the_config_names_method_zoo_members_and_classes(tmp_path: Path) -> None:
    members = zoo(2)
    assert "left_out" not in describe("counting", TrainingConfig(), members)
    members.left_out = {"bad": "damaged"}
    about = describe("counting", TrainingConfig(way=3), members, tmp_path / "start")
    assert about["left_out"] == ["bad"]
    assert list(about) == [*(name for name in RUN_ENTRIES if name != "format_version"), "counting"]
    assert about["members"].startswith("2 (")
    assert about["counting"]["way"] == 3
    run_folder = RunFolder(tmp_path / "run")
    assert run_folder.started_from() is None
    assert run_folder.left_out() == []
    run_folder.create(about)
    assert run_folder.started_from() == tmp_path / "start"
    assert run_folder.left_out() == ["bad"]
    assert describe("counting", TrainingConfig(), zoo(3))["members"] != about["members"]


def test_nested_mappings_are_flattened_to_dotted_names() -> None:
    assert flatten({"a": {"b": 1, "c": {"d": 2}}, "e": {}}) == {"a.b": 1, "a.c.d": 2, "e": {}}

"""Suites are read from files or by name, checked, and may extend each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dfml.benchmark import shipped_suites
from dfml.benchmark.cells import plan_cells
from dfml.benchmark.suite import Suite, ZooSpec, load_suite
from dfml.errors import ConfigError, UsageError
from tests.benchmark.small import suite, write

RESTRICTED = {"purer-tables", "free-tables", "multi-domain", "mh"}


@pytest.mark.parametrize("name", shipped_suites())
def test_a_shipped_suite_is_complete(name: str) -> None:
    loaded, _ = load_suite(name)
    digests = dict.fromkeys(loaded.zoos, "x")
    planned = plan_cells(loaded, digests)
    assert {each.cell.row for each in planned} == set(loaded.methods)
    assert all(each.measurements for each in planned)
    used = {zoo for scenario in loaded.scenarios.values() for zoo in scenario.zoos}
    used |= {spec.zoo for spec in loaded.methods.values() if spec.zoo}
    assert used == set(loaded.zoos)
    for spec in loaded.zoos.values():
        kinds = len(spec.data) * len(spec.arch)
        assert spec.members is None or spec.members >= 2 * kinds


def test_the_suites_of_the_papers_say_what_the_data_lack() -> None:
    for name in shipped_suites():
        loaded, _ = load_suite(name)
        if name.removesuffix("-full") in RESTRICTED:
            assert "100 of the 200 classes" in loaded.datasets["cub"].about
            assert "a third of the images" in loaded.datasets["miniimagenet"].about
    assert set(shipped_suites()) >= {*RESTRICTED, "smoke", "cifar-fs", "cpu-evening", "sh", "model-scale", "ways"}


def test_one_suite_has_many_ways_and_uneven_support() -> None:
    loaded, _ = load_suite("ways")
    assert {task.way for task in loaded.tasks} >= {10, 20}
    assert any(task.shot == (1, 5) for task in loaded.tasks)


def test_a_file_changes_the_suite_that_it_extends(tmp_path: Path) -> None:
    write(tmp_path / "base.yaml")
    own = tmp_path / "own.yaml"
    own.write_text(
        "extends: base.yaml\nepisodes: 9\nmethods: {average: null, random_init: {}}\nzoos: {letters: {seed: 5}}\n"
    )
    loaded, folder = load_suite(str(own))
    assert folder == tmp_path
    assert loaded.episodes == 9
    assert list(loaded.methods) == ["purer", "zoo_embedding", "random_init"]
    assert (loaded.zoos["letters"].seed, loaded.zoos["letters"].members) == (5, 2)
    own.write_text("extends: smoke\nepisodes: 7\n")
    assert load_suite(str(own))[0].episodes == 7


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("- 1", "expected entries such as"),
        ("zoos: [", "cannot be read as YAML"),
        ("extends: own.yaml", "extends itself"),
        ("extends: magic", "unknown suite 'magic'; choose one of"),
        ("extends: base.yaml\nepisode: 3", "unknown setting; did you mean"),
        ("extends: base.yaml\nepisodes: 1", "episodes"),
        ("extends: base.yaml\ntasks: [{way: 1}]", "tasks.0.way"),
        ("extends: base.yaml\nmethods: {purer: {setting: {}}}", "methods.purer.setting': unknown setting"),
        ("extends: base.yaml\nscenarios: {letters: {zoos: magic}}", "names the zoo 'magic'; known are letters"),
        ("extends: base.yaml\nscenarios: {letters: {methods: magic}}", "names the method 'magic'; known are purer"),
        ("extends: base.yaml\nmethods: {purer: {zoo: magic}}", "the method 'purer' names the zoo 'magic'"),
        ("extends: base.yaml\nzoos: {letters: {path: here}}", "has both `path` and `data`"),
        ("extends: base.yaml\nzoos: {letters: null}", "zoos"),
    ],
)
def test_a_wrong_suite_is_refused(tmp_path: Path, content: str, words: str) -> None:
    write(tmp_path / "base.yaml")
    (tmp_path / "own.yaml").write_text(content)
    with pytest.raises(ConfigError) as caught:
        load_suite(str(tmp_path / "own.yaml"))
    assert words in str(caught.value)
    assert "suite" in str(caught.value)


def test_an_unknown_suite_is_named() -> None:
    with pytest.raises(ConfigError, match=r"unknown suite 'magic'; choose one of .*smoke"):
        load_suite("magic")
    with pytest.raises(ConfigError, match="cannot be read as YAML"):
        load_suite("missing.yaml")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"methods": {"magic": {}}}, "unknown method 'magic'"),
        ({"methods": {"purer": {"preset": "magic"}}}, "unknown preset 'magic' of purer"),
        ({"methods": {"purer": {"settings": {"magic": 1}}}}, "'purer.magic': unknown setting"),
        ({"methods": {"purer": {"settings": {"shot": 0}}}}, "'purer.shot'"),
    ],
)
def test_wrong_methods_and_settings_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        plan_cells(suite(**changes), {"letters": "x"})
    assert words in str(caught.value)


def test_data_sets_of_a_zoo_have_sizes() -> None:
    assert ZooSpec(data=("a", "b@84"), size=48).sized_data == (("a", 48), ("b", 84))
    for wrong in ("a@", "a@big", "a@0"):
        with pytest.raises(ConfigError, match="NAME@SIZE"):
            assert ZooSpec(data=(wrong,)).sized_data


def test_a_dumped_suite_is_the_same_suite() -> None:
    for name in shipped_suites():
        loaded, _ = load_suite(name)
        assert Suite(**loaded.model_dump(mode="json")) == loaded

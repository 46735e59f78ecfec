"""`--class-identity behaviour` of `dfml zoo inspect` and `dfml train`."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from dfml.inversion import behaviour
from dfml.inversion.behaviour import BehaviourIdentity
from dfml.zoo import Zoo
from tests.cli.conftest import dfml, error, results
from tests.factories import member, write

MAPPING = {"m0": {"a": "one", "b": "m0/b", "c": "m0/c"}, "m1": {"0": "one", "1": "m1/1", "2": "m1/2"}}


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A zoo of two members; the inversion, which has tests of its own, is replaced by its result."""
    write(tmp_path / "zoo" / "m0", member(0))
    write(tmp_path / "zoo" / "m1", member(1, ("0", "1", "2")))

    def found(opened: Zoo, **_: object) -> BehaviourIdentity:
        assert opened.class_identity == "distinct"
        return BehaviourIdentity(MAPPING, (("m0/a", "m1/0", 0.91),), {})

    monkeypatch.setattr(behaviour, "identity_by_behaviour", found)
    return tmp_path / "zoo"


def test_inspect_lists_the_matches_and_writes_a_file_that_it_reads_again(zoo: Path, tmp_path: Path) -> None:
    file = tmp_path / "identity.yaml"
    shown = dfml("zoo", "inspect", zoo, "--class-identity", "behaviour", "--write-identity", file)
    assert shown.exit_code == 0
    assert "same class by behaviour: m0/a and m1/0 (score 0.91)" in shown.stdout
    assert "merged class one: m0, m1" in shown.stdout
    assert yaml.safe_load(file.read_text()) == MAPPING
    assert results("zoo", "inspect", zoo, "--class-identity", file)["merges"] == {"one": ["m0", "m1"]}


def test_a_rule_needs_no_file(zoo: Path, tmp_path: Path) -> None:
    message = error(dfml("zoo", "inspect", zoo, "--write-identity", tmp_path / "identity.yaml"), 2)
    assert "--class-identity behaviour or a file" in message


def test_a_training_keeps_the_classes_that_it_found(zoo: Path, tmp_path: Path) -> None:
    out = tmp_path / "learner"
    trained = dfml(
        *("train", zoo, "--out", out, "--method", "random_init", "--way", "2", "--class-identity", "behaviour")
    )
    assert trained.exit_code == 0, trained.stderr
    assert yaml.safe_load((out / "config.yaml").read_text())["class_identity"] == MAPPING

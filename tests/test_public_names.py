"""`import dfml` is light, and every public name is imported when it is first used."""

from __future__ import annotations

import subprocess
import sys
from itertools import chain
from pathlib import Path

import pytest

import dfml
from tests import factories


@pytest.mark.parametrize("name", dfml.__all__)
def test_a_public_name_is_there(name: str) -> None:
    assert getattr(dfml, name) is not None
    assert name in dir(dfml)


def test_every_public_name_has_a_home() -> None:
    assert set(dfml.__all__) == {*chain.from_iterable(dfml._HOMES.values()), "__version__"}


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="magic"):
        _ = dfml.magic  # type: ignore[attr-defined]


def test_training_evaluation_and_adaptation_in_python(tmp_path: Path) -> None:
    zoo = factories.zoo()
    learner = dfml.PURER(way=3, shot=1, query=2, iterations=2).fit(zoo)
    found = dfml.evaluate(learner, factories.coloured_dataset(), way=3, shot=1, query=2, episodes=3)
    assert 0 <= found.accuracy <= 1
    learner.save_pretrained(tmp_path)
    again = dfml.MetaLearner.from_pretrained(tmp_path)
    images = factories.images(3)
    labels = dfml.glyphs("test", per_class=1, size=16).labels[:3]
    classifier = again.adapt(images, labels)
    assert classifier.predict(images) == learner.adapt(images, labels).predict(images)


@pytest.mark.slow
def test_every_kind_of_learner_loads_after_a_bare_import(tmp_path: Path) -> None:
    factories.write(tmp_path / "zoo" / "member-000", factories.member(0))
    learner = dfml.ZooEmbedding().fit(dfml.Zoo.open(tmp_path / "zoo"), out=tmp_path / "learner")
    learner.adapt(factories.images(2), dfml.glyphs("test", per_class=1, size=16).labels[:2]).save_pretrained(
        tmp_path / "classifier"
    )
    check = (
        "import dfml, sys; assert 'torch' not in sys.modules; "
        "classifier = dfml.FewShotClassifier.from_pretrained(sys.argv[2]); "
        "print(classifier.kind, dfml.MetaLearner.from_pretrained(sys.argv[1]).kind)"
    )
    command = [sys.executable, "-c", check, str(tmp_path / "learner"), str(tmp_path / "classifier")]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    assert shown.stdout.split() == ["embedding", "zoo_embedding"]

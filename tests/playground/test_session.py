from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from PIL import Image

from dfml import FewShotClassifier
from dfml.errors import LearnerError
from dfml.learners import MetaLearner
from dfml.playground.session import MOST_CLASSES, MOST_IMAGES, PlaygroundSession
from tests.cli.conftest import results
from tests.playground.conftest import WriteImages


@pytest.fixture
def session(learner: MetaLearner, images: WriteImages) -> PlaygroundSession:
    """A session with two classes of three images."""
    opened = PlaygroundSession(learner)
    opened.set_class(0, "warm", images("red", 3))
    opened.set_class(1, " cold ", images("blue", 3))
    return opened


def test_two_classes_become_a_classifier_that_predicts_the_test_images(
    session: PlaygroundSession, images: WriteImages
) -> None:
    session.set_tests([*images("red", 2, "tests"), *images("blue", 1, "tests")])
    answer = session.answer()
    assert answer.problem is None
    assert answer.counts == {"warm": 3, "cold": 3}
    assert answer.seconds > 0
    assert [each.probabilities[0][0] for each in answer.predictions] == ["warm", "warm", "cold"]
    for each in answer.predictions:
        assert sum(probability for _, probability in each.probabilities) == pytest.approx(1, abs=1e-5)
        assert {near.label for near in each.nearest} == {each.probabilities[0][0]}
        assert each.nearest[0].similarity == max(near.similarity for near in each.nearest)


def test_the_answer_follows_when_classes_are_edited(session: PlaygroundSession, images: WriteImages) -> None:
    session.set_tests(images("green", 1, "tests"))
    assert session.answer().predictions[0].probabilities[0][0] in ("warm", "cold")
    session.set_class(2, "grass", images("green", 2))
    assert session.answer().predictions[0].probabilities[0][0] == "grass"
    session.set_class(2, "leaves", images("green", 2))
    assert session.answer().predictions[0].probabilities[0][0] == "leaves"
    session.remove_class(2)
    assert session.answer().counts == {"warm": 3, "cold": 3}


def test_an_image_unlike_all_classes_is_reported_and_one_of_a_class_is_not(
    session: PlaygroundSession, images: WriteImages
) -> None:
    session.set_tests([session.classes[0].images[0].path, *images("green", 1, "tests")])
    known, stranger = session.answer().predictions
    assert not known.unlike
    assert known.nearest[0].similarity == pytest.approx(1, abs=1e-5)
    assert stranger.unlike


def test_files_that_are_no_images_are_named_and_the_others_are_used(
    session: PlaygroundSession, images: WriteImages, tmp_path: Path
) -> None:
    (tmp_path / "letter.png").write_text("Dear Sir or Madam")
    (tmp_path / ".DS_Store").write_text("")
    Image.new("1", (10_001, 10_001)).save(tmp_path / "huge.png")
    files = [*images("red", 2), *(tmp_path / name for name in ("letter.png", ".DS_Store", "huge.png", "gone.png"))]
    problems = session.set_class(0, "warm", files)
    assert [problem.partition(" ")[0] for problem in problems] == ["letter.png", "huge.png", "gone.png"]
    assert "not a JPEG" in problems[0]
    assert "too many pixels" in problems[1]
    assert session.answer().counts == {"warm": 2, "cold": 3}


def test_images_beyond_the_limit_are_left_out_with_a_sentence(session: PlaygroundSession, images: WriteImages) -> None:
    problems = session.set_class(0, "warm", images("red", MOST_IMAGES + 2))
    assert problems == [f"Only the first {MOST_IMAGES} images of a class are used; 2 are left out."]
    assert session.answer().counts["warm"] == MOST_IMAGES


def test_without_images_there_is_a_hint_and_no_mistake(learner: MetaLearner) -> None:
    answer = PlaygroundSession(learner).answer()
    assert answer.is_start
    assert answer.problem == "Give two classes at least one image each."


def test_classes_that_make_no_classifier_are_explained_in_one_sentence(
    session: PlaygroundSession, images: WriteImages
) -> None:
    session.answer()
    session.set_class(1, "warm", images("blue", 1))
    assert session.answer().problem == "2 classes have the name warm; give each a name of its own."
    with pytest.raises(LearnerError, match="no classifier to save"):
        session.save(Path("never.zip"))
    session.set_class(1, " ", images("blue", 1))
    assert session.answer().problem == "A class with images has no name; give it one."
    session.set_class(1, "cold", [])
    assert session.answer().problem == "Only warm has images; a classifier needs at least two classes with images."
    session.set_class(1, "cold", images("blue", 1))
    assert session.answer().problem is None


def test_an_empty_class_is_left_out_with_a_note(session: PlaygroundSession) -> None:
    session.set_class(2, "dogs", [])
    answer = session.answer()
    assert answer.counts == {"warm": 3, "cold": 3}
    assert answer.notes == ["dogs has no images and is left out."]


def test_two_sessions_of_one_learner_do_not_mix(session: PlaygroundSession, images: WriteImages) -> None:
    other = PlaygroundSession(session.learner)
    other.set_class(0, "grass", images("green", 1))
    other.set_class(1, "sky", images("blue", 1))
    session.answer()
    other.answer()
    assert session.classifier is not None
    assert session.classifier.labels == ("warm", "cold")
    assert other.classifier is not None
    assert other.classifier.labels == ("grass", "sky")


def test_the_saved_folder_is_that_of_adapt(session: PlaygroundSession, images: WriteImages, tmp_path: Path) -> None:
    (test,) = images("red", 1, "tests")
    session.set_tests([test])
    predicted = session.answer().predictions[0].probabilities
    with zipfile.ZipFile(session.save(tmp_path / "saved.zip")) as archive:
        archive.extractall(tmp_path)
    assert FewShotClassifier.from_pretrained(tmp_path / "classifier").labels == ("warm", "cold")
    labels = results("predict", tmp_path / "classifier", test, "--top", "2")["predictions"][0]["labels"]
    assert [each["label"] for each in labels] == [label for label, _ in predicted]
    assert [each["probability"] for each in labels] == pytest.approx([value for _, value in predicted], abs=1e-5)


def test_places_are_taken_in_order_and_freed_when_a_class_is_removed(learner: MetaLearner) -> None:
    session = PlaygroundSession(learner)
    assert session.add_place() == 2
    session.remove_class(0)
    assert session.add_place() == 3  # below the others on the page
    while len(session.places) < MOST_CLASSES:
        assert session.add_place() is not None
    assert session.add_place() is None
    assert 0 in session.places


def test_a_session_knows_whether_an_event_changes_anything(session: PlaygroundSession) -> None:
    files = [image.path for image in session.classes[0].images]
    assert session.holds(0, "warm ", files)
    assert not session.holds(0, "hot", files)
    assert not session.holds(0, "warm", files[1:])
    assert session.holds(5, "Class 6", [])
    assert not session.holds(5, "Class 6", files)

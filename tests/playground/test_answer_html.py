from __future__ import annotations

import torch

from dfml.learners import MetaLearner
from dfml.playground.answer_html import message_html, predictions_html, recovered_html, status_html
from dfml.playground.session import PlaygroundSession
from tests.playground.conftest import WriteImages

HTML = "<img src=x onerror=alert(1)>"


def test_labels_and_file_names_are_escaped(learner: MetaLearner, images: WriteImages) -> None:
    session = PlaygroundSession(learner)
    session.set_class(0, HTML, images("red", 2))
    session.set_class(1, "cold", images("blue", 2))
    session.set_class(2, f"{HTML} 2", [])
    session.set_tests(images("red", 1, "tests"))
    answer = session.answer()
    pages = [
        status_html(answer, [f"{HTML} is left out."]),
        predictions_html(answer, 16),
        message_html(HTML),
        recovered_html(HTML, [(HTML, torch.rand(1, 3, 4, 4))]),
    ]
    assert not any(HTML in page for page in pages)
    assert all("&lt;img src=x" in page for page in pages)


def test_every_test_image_has_bars_and_the_images_that_speak_for_them(
    learner: MetaLearner, images: WriteImages
) -> None:
    session = PlaygroundSession(learner)
    for number in range(7):
        session.set_class(number, f"class {number}", images(("red", "blue", "green")[number % 3], 1, f"of-{number}"))
    session.set_tests(images("red", 2, "tests"))
    page = predictions_html(session.answer(), 16)
    assert page.count('class="prediction"') == 2
    assert page.count('class="bar"') == 2 * 5
    assert page.count("and 2 less probable classes") == 2
    assert page.count("<img") == 2 * (1 + 3)


def test_there_is_nothing_to_show_before_test_images_are_given(learner: MetaLearner) -> None:
    answer = PlaygroundSession(learner).answer()
    assert predictions_html(answer, 16) == ""
    assert "warn" not in status_html(answer)
    assert 'class="warn"' in status_html(answer, ["letter.png is left out."])

"""A zoo whose members hide their networks and count their queries."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dfml.errors import QueryLimitError
from dfml.zoo import CountedMember, Zoo
from dfml.zoo.black_boxes import black_boxes
from dfml.zoo.members import Differentiable, remaining_queries
from tests.factories import images, member, written_zoo


def test_members_predict_the_same_and_have_no_gradients(tmp_path: Path) -> None:
    zoo = written_zoo(tmp_path / "zoo")
    boxes = black_boxes(zoo)
    assert [boxes.name(index) for index in range(3)] == [zoo.name(index) for index in range(3)]
    assert boxes.classes == zoo.classes
    assert boxes.preprocessing() == zoo.preprocessing()
    shown = images(4)
    for box, plain in zip(boxes, zoo, strict=True):
        assert isinstance(box, CountedMember)
        assert not isinstance(box, Differentiable)
        torch.testing.assert_close(box.predict_proba(shown), plain.predict_proba(shown))
        assert box.queried == 4
        assert box.source == plain.source


def test_a_limit_is_that_of_each_member_and_an_own_one_stays() -> None:
    own = CountedMember(member(1), limit=3)
    boxes = black_boxes(Zoo.of([member(0), own]), limit=5)
    assert [remaining_queries(each) for each in boxes] == [5, 3]
    assert boxes[1] is own
    boxes[0].predict_proba(images(5))
    with pytest.raises(QueryLimitError):
        boxes[0].predict_proba(images(1))
    assert remaining_queries(member(0)) == float("inf")
    assert remaining_queries(black_boxes(Zoo.of([member(0)]))[0]) == float("inf")

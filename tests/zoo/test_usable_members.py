"""All bad members are found together; they end the work, or are left out."""

from __future__ import annotations

from pathlib import Path

import pytest

from dfml.errors import ZooError, ZooMemberError, ZooMembersError
from dfml.zoo import Zoo
from dfml.zoo.formats import CONFIG, WEIGHTS
from tests.factories import ZooMaker, edit_config


@pytest.fixture
def folders(zoo_maker: ZooMaker) -> list[Path]:
    """Four members: the second has a wrong configuration, the third damaged weights."""
    made = [zoo_maker.member(f"m{index}", labels=(f"a{index}", "bee"), seed=index)[0] for index in range(4)]
    edit_config(made[1], num_classes=7)
    (made[2] / WEIGHTS).write_bytes(b"damaged")
    return made


def test_the_error_lists_all_bad_members_whatever_is_wrong_with_them(zoo_maker: ZooMaker, folders: list[Path]) -> None:
    with pytest.raises(ZooMembersError, match="2 of 4 zoo members") as caught:
        Zoo.open(zoo_maker.path)
    assert [problem.path for problem in caught.value.problems] == folders[1:3]
    for problem in caught.value.problems:
        assert str(problem) in str(caught.value)


def test_bad_members_are_left_out_with_their_classes(zoo_maker: ZooMaker, folders: list[Path]) -> None:
    zoo = Zoo.open(zoo_maker.path, on_bad_member="skip")
    assert [zoo.name(index) for index in range(len(zoo))] == ["m0", "m3"]
    assert list(zoo.left_out) == ["m1", "m2"]
    assert "model.safetensors" in zoo.left_out["m2"]
    assert zoo.classes.names == ("a0", "bee", "a3")
    (folders[0] / WEIGHTS).unlink()
    assert zoo[0].labels == ("a0", "bee")  # what was read before is kept


def test_members_that_were_left_out_before_are_not_read_again(zoo_maker: ZooMaker, folders: list[Path]) -> None:
    zoo = Zoo.open(zoo_maker.path, leave_out=["m1", "m2", "no member"])
    assert [zoo.name(index) for index in range(len(zoo))] == ["m0", "m3"]
    assert list(zoo.left_out) == ["m1", "m2"]


def test_a_zoo_without_a_usable_member_is_an_error(zoo_maker: ZooMaker) -> None:
    for name in ("a", "b"):
        (zoo_maker.member(name)[0] / CONFIG).write_text("{")
    with pytest.raises(ZooError, match=r"none among 2: a: .*b: "):
        Zoo.open(zoo_maker.path, on_bad_member="skip")


def test_one_bad_member_is_an_error_of_its_own(zoo_maker: ZooMaker) -> None:
    folder = zoo_maker.member("a")[0]
    zoo_maker.member("b")
    (folder / CONFIG).write_text("{")
    with pytest.raises(ZooMemberError, match="not valid JSON") as caught:
        Zoo.open(zoo_maker.path)
    assert caught.value.path == folder


def test_a_message_tells_of_fifty_bad_members_and_counts_the_others() -> None:
    problems = [ZooMemberError(Path(f"bad-{index}"), "it is empty", "leave it out") for index in range(60)]
    message = str(ZooMembersError(problems, 61))
    assert message.startswith("60 of 61 zoo members cannot be used: zoo member bad-0: it is empty; leave it out | ")
    assert message.count("it is empty") == 50
    assert message.endswith(" | and 10 more: dfml zoo inspect")

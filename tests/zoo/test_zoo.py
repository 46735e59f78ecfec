"""A zoo has its members in order, loads them when they are first used, and holds a limited number in memory."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from dfml.backbones import create_backbone
from dfml.errors import ZooError, ZooMemberError, ZooMembersError
from dfml.images import resize_and_crop
from dfml.zoo import Preprocessing, PretrainedClassifier, Zoo
from dfml.zoo.formats import WEIGHTS
from tests.factories import PREPROCESSING, SIZE, ZooMaker, edit_config, images, member


def test_members_are_in_the_order_of_their_names(zoo_maker: ZooMaker) -> None:
    for name in ("c", "a", "b"):
        zoo_maker.member(name, labels=(f"{name}1", f"{name}2"))
    zoo = Zoo.open(zoo_maker.path)
    assert [zoo.name(index) for index in range(len(zoo))] == ["a", "b", "c"]
    assert [classifier.labels[0] for classifier in zoo] == ["a1", "b1", "c1"]
    assert zoo.classes.names == ("a1", "a2", "b1", "b2", "c1", "c2")


def test_a_single_member_is_a_zoo(zoo_maker: ZooMaker) -> None:
    folder, _ = zoo_maker.member()
    assert len(Zoo.open(folder)) == 1


def test_several_folders_become_one_zoo(tmp_path: Path) -> None:
    first, second = ZooMaker(tmp_path / "a"), ZooMaker(tmp_path / "b")
    first.member("m0", ("ant", "0"))
    first.member("m1", ("bee", "cat"))
    second.member("m0", ("ant", "0"), seed=1)
    zoo = Zoo.open([tmp_path / "b", tmp_path / "a"])
    assert [zoo.name(index) for index in range(3)] == ["b/m0", "a/m0", "a/m1"]
    # An equal label is one class; a placeholder is a class of its own, named after its member.
    assert zoo.classes.names == ("ant", "b/m0/0", "a/m0/0", "bee", "cat")
    assert zoo.digest() != Zoo.open([tmp_path / "a", tmp_path / "b"]).digest()
    assert zoo.source == f"{tmp_path / 'b'}, {tmp_path / 'a'}"
    member = Zoo.open([tmp_path / "a", tmp_path / "b" / "m0"])
    assert [member.name(index) for index in range(3)] == ["a/m0", "a/m1", "m0"]


def test_zoos_of_one_name_are_named_by_their_paths_and_none_is_opened_twice(tmp_path: Path) -> None:
    for parent in ("x", "y"):
        (tmp_path / parent).mkdir()
        ZooMaker(tmp_path / parent / "zoo").member("m")
    zoo = Zoo.open([tmp_path / "x" / "zoo", tmp_path / "y" / "zoo"])
    assert zoo.name(1) == f"{tmp_path / 'y' / 'zoo'}/m"
    with pytest.raises(ZooError, match="found one twice"):
        Zoo.open([tmp_path / "x" / "zoo", tmp_path / "y" / ".." / "x" / "zoo"])
    with pytest.raises(ZooError, match="found none"):
        Zoo.open([])


def test_weights_are_read_when_a_member_is_first_used(zoo_maker: ZooMaker) -> None:
    folder, _ = zoo_maker.member()
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(b"")
    zoo = Zoo.open(zoo_maker.path)
    with pytest.raises(ZooMemberError):
        zoo[0]
    (folder / WEIGHTS).write_bytes(content)
    assert zoo[0].labels == ("ant", "bee", "cat")
    (folder / WEIGHTS).unlink()
    assert zoo[0] is zoo[0]


def test_the_least_recently_used_member_is_dropped(zoo_maker: ZooMaker) -> None:
    for index in range(4):
        zoo_maker.member(f"member-{index:03d}", seed=index)
    zoo = Zoo.open(zoo_maker.path, max_resident=2)
    references = {index: weakref.ref(zoo[index]) for index in (0, 1)}
    assert zoo[0] is references[0]()
    references[2] = weakref.ref(zoo[2])  # 1 is the least recently used member
    gc.collect()
    assert [index for index, reference in references.items() if reference() is not None] == [0, 2]
    references[3] = weakref.ref(zoo[3])
    gc.collect()
    assert [index for index, reference in references.items() if reference() is not None] == [2, 3]


def test_a_member_loaded_again_is_the_same(zoo_maker: ZooMaker) -> None:
    for index in range(3):
        zoo_maker.member(f"member-{index:03d}", seed=index)
    images = torch.rand(4, 3, SIZE, SIZE)
    few, all_of_them = Zoo.open(zoo_maker.path, max_resident=1), Zoo.open(zoo_maker.path)
    for index in (0, 1, 2, 0, 2, 1):
        assert torch.equal(few[index].logits(images), all_of_them[index].logits(images))


def test_vetting_reports_all_bad_members(zoo_maker: ZooMaker) -> None:
    folders = [zoo_maker.member(f"member-{index:03d}", seed=index)[0] for index in range(4)]
    zoo = Zoo.open(zoo_maker.path)
    zoo.vet()
    for folder in folders[1:3]:
        (folder / WEIGHTS).write_bytes(b"broken")
    zoo = Zoo.open(zoo_maker.path)
    with pytest.raises(ZooMembersError, match=r"2 of 4 .*member-001.*member-002") as caught:
        zoo.vet()
    assert [problem.path for problem in caught.value.problems] == folders[1:3]
    assert [zoo.problem(index) is None for index in range(4)] == [True, False, False, True]


def test_members_that_can_be_batched_are_grouped(zoo_maker: ZooMaker) -> None:
    zoo_maker.member("a")
    zoo_maker.member("b", labels=("x", "y"))
    zoo_maker.member("c", architecture="fewshot_resnet10")
    zoo_maker.member("d", labels=("p", "q", "r"))
    zoo_maker.member("e", size=32)
    assert sorted(Zoo.open(zoo_maker.path).groups().values()) == [[0, 3], [1], [2], [4]]


def test_members_in_memory_are_grouped_and_named_too(zoo_maker: ZooMaker) -> None:
    for name, labels in (("a", ("x", "y")), ("b", ("x", "y", "z")), ("c", ("z", "u"))):
        zoo_maker.member(name, labels)
    zoo = Zoo.of(list(Zoo.open(zoo_maker.path)))
    assert sorted(zoo.groups().values()) == [[0, 2], [1]]
    assert zoo.name(2) == "member-002"
    assert zoo.classes.merges() == {"x": [0, 1], "y": [0, 1], "z": [1, 2]}
    assert zoo.problem(0) is None


def test_networks_that_differ_in_more_than_weights_are_never_stacked() -> None:
    pooled = [
        PretrainedClassifier(create_backbone("conv4", 3, seed=0, global_pool=pool), ("a", "b", "c"), PREPROCESSING)
        for pool in ("max", "avg", "max")
    ]
    assert list(Zoo.of(pooled).groups().values()) == [[0, 2], [1]]


def test_members_predict_any_number_of_images_of_any_size_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    classifier, shown = member(0), images(7, size=20)
    expected = classifier.logits(resize_and_crop(shown, classifier.size))
    batches: list[int] = []
    monkeypatch.setattr("dfml.zoo.pretrained._BATCH_PIXELS", 3 * classifier.size**2)
    classifier.network.register_forward_pre_hook(lambda _, inputs: batches.append(len(inputs[0])))
    torch.testing.assert_close(classifier.predict_logits(shown), expected)
    assert batches == [3, 3, 1]


def test_a_zoo_in_memory_needs_a_member() -> None:
    with pytest.raises(ZooError, match="at least one classifier"):
        Zoo.of([])


def test_one_preprocessing_for_all_is_the_most_common_size_and_the_average(zoo_maker: ZooMaker) -> None:
    for index, (size, mean) in enumerate([(16, 0.2), (32, 0.4), (32, 0.9)]):
        folder, _ = zoo_maker.member(f"m{index}", size=size)
        edit_config(folder, pretrained_cfg={"input_size": [3, size, size], "mean": [mean] * 3, "std": [0.1, 0.2, 0.3]})
    zoo = Zoo.open(zoo_maker.path)
    assert zoo.preprocessing() == Preprocessing(32, (0.5, 0.5, 0.5), (0.1, 0.2, 0.3))
    assert zoo.preprocessing(size=84).size == 84
    assert Zoo.of([zoo[1], zoo[0]]).preprocessing().size == 32  # a tie
    assert Zoo.of(list(zoo)).preprocessing() == zoo.preprocessing()

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dfml import seeds
from dfml.errors import UsageError
from dfml.training.task_memory import TaskMemory
from tests.factories import images

CPU = torch.device("cpu")
SIZE = 2


def flat(values: list[int]) -> Tensor:
    """One constant image per value, of brightness value / 255."""
    return (torch.tensor(values, dtype=torch.float32) / 255).view(-1, 1, 1, 1).expand(-1, 3, SIZE, SIZE)


def filled(counts: list[int], capacity: int = 8) -> TaskMemory:
    """Image i of class c has the value 20 c + i, for i below 20."""
    memory = TaskMemory(len(counts), capacity, SIZE, CPU)
    for index, count in enumerate(counts):
        memory.add(flat([20 * index + i for i in range(count)]), torch.full((count,), index))
    return memory


def values(shown: Tensor) -> list[int]:
    """The inverse of `flat`."""
    return (shown[:, 0, 0, 0] * 255).round().int().tolist()


@given(
    st.integers(1, 5),
    st.lists(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 255)), max_size=20), min_size=1, max_size=5),
)
def test_it_holds_the_same_images_as_plain_ring_buffers(capacity: int, calls: list[list[tuple[int, int]]]) -> None:
    memory, rings, counts = TaskMemory(3, capacity, SIZE, CPU), [[0] * capacity for _ in range(3)], [0, 0, 0]
    for call in calls:
        classes = torch.tensor([index for index, _ in call], dtype=torch.int64)
        memory.add(flat([value for _, value in call]), classes)
        for index, value in call:
            rings[index][counts[index] % capacity] = value
            counts[index] += 1
    assert memory.written.tolist() == counts
    expected = torch.tensor(rings, dtype=torch.uint8)[:, :, None, None, None].expand_as(memory.images)
    assert torch.equal(memory.images, expected)


def test_a_call_with_more_images_than_the_capacity_keeps_the_newest() -> None:
    memory = TaskMemory(2, 4, SIZE, CPU)
    memory.add(flat(list(range(11))), torch.tensor([1] * 10 + [0]))
    assert sorted(values(memory.images[1].float() / 255)) == [6, 7, 8, 9]
    assert memory.ready(4).tolist() == [1]
    assert memory.ready(1).tolist() == [0, 1]
    assert memory.ready(5).tolist() == []


def test_the_images_of_every_member_are_kept() -> None:
    """One call with 20 images per class of four members: all 400 are stored (the released code of FREE loses 300)."""
    memory = TaskMemory(20, 20, SIZE, CPU)
    of_member = [torch.arange(5 * member, 5 * member + 5).repeat(20) for member in range(4)]
    shown = images(400, size=SIZE)
    memory.add(shown, torch.cat(of_member))
    assert memory.ready(20).tolist() == list(range(20))
    for index in range(20):
        own = shown[torch.cat(of_member) == index]
        assert torch.all((memory.images[index].float() / 255 - own).abs() <= 1 / 510 + 1e-6)


def test_values_are_rounded_to_256_levels_and_clipped() -> None:
    memory, shown = TaskMemory(1, 100, 8, CPU), 1.4 * images(100, size=8) - 0.2
    memory.add(shown.requires_grad_(), torch.zeros(100, dtype=torch.int64))
    episode = memory.episode(1, 50, 50, seeds.generator(0))
    back = torch.cat([episode.support_images, episode.query_images])
    assert not back.requires_grad
    assert back.min() >= 0
    assert back.max() <= 1
    gaps = torch.cdist(back.flatten(1), shown.detach().clamp(0, 1).flatten(1), p=torch.inf)
    assert torch.all(gaps.min(dim=1).values <= 1 / 510 + 1e-6)
    assert len(set(gaps.argmin(dim=1).tolist())) == 100


@given(st.data())
def test_episodes_are_of_classes_with_enough_images_without_repetition(data: st.DataObject) -> None:
    counts = data.draw(st.lists(st.integers(0, 12), min_size=3, max_size=8))
    shot, query = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    memory = filled(counts)
    ready = [index for index, count in enumerate(counts) if count >= shot + query]
    way = data.draw(st.integers(1, 4))
    draw = torch.Generator().manual_seed(data.draw(st.integers(0, 2**32)))
    if len(ready) < way:
        with pytest.raises(UsageError, match=rf"needs {way} classes .* {len(ready)} of {len(counts)} hold that many"):
            memory.episode(way, shot, query, draw)
        return
    episode = memory.episode(way, shot, query, draw)
    support, queries = values(episode.support_images), values(episode.query_images)
    assert len({*support, *queries}) == way * (shot + query)
    pairs = zip([*support, *queries], torch.cat([episode.support_labels, episode.query_labels]).tolist(), strict=True)
    class_of = {(label, value // 20) for value, label in pairs}
    assert sorted(label for label, _ in class_of) == list(range(way))
    assert len({index for _, index in class_of}) == way
    assert {index for _, index in class_of} <= set(ready)
    for value in [*support, *queries]:  # among the newest, and not an empty slot
        assert max(0, counts[value // 20] - 8) <= value % 20 < counts[value // 20]


def test_an_episode_mixes_classes_of_different_members() -> None:
    memory = filled([4] * 6)  # two members of three classes each
    drawn = [memory.episode(3, 1, 1, seeds.generator(0, "task", index)) for index in range(40)]
    owners = [{value // 20 // 3 for value in values(episode.support_images)} for episode in drawn]
    assert sum(len(each) == 2 for each in owners) > 20  # 18 of 20 on average


def test_after_loading_the_same_images_are_sampled_and_overwritten() -> None:
    memory, resumed = filled([11, 3, 8, 5]), TaskMemory(4, 8, SIZE, CPU)
    resumed.load_state_dict({name: tensor.clone() for name, tensor in memory.state_dict().items()})
    for each in (memory, resumed):
        each.add(flat([250, 251, 252]), torch.tensor([0, 1, 0]))
    assert torch.equal(memory.images, resumed.images)
    first, second = (each.episode(3, 2, 2, seeds.generator(1, "replay")) for each in (memory, resumed))
    for one, other in ((first.support_images, second.support_images), (first.query_images, second.query_images)):
        assert torch.equal(one, other)


def test_an_error_says_how_many_images_are_missing() -> None:
    message = r"5 shot \+ 15 query = 20 images each, but 0 of 3 .*at most 8 are kept per class"
    with pytest.raises(UsageError, match=message):
        filled([19, 19, 19]).episode(3, 5, 15, seeds.generator(0))


def test_all_classes_and_images_are_sampled_equally_often() -> None:
    memory, counts = filled([4, 12, 1, 8]), torch.zeros(100)
    for index in range(2000):
        shown = memory.episode(2, 1, 1, seeds.generator(2, "task", index)).query_images
        counts += torch.bincount(torch.tensor(values(shown)), minlength=100)
    of_class = counts.view(-1, 20)[[0, 1, 3]]
    assert all(abs(a - b) < 220 for a, b in pairwise(of_class.sum(1).tolist()))  # 1333 each; 7 standard deviations
    assert torch.all(of_class[1][4:12] > 100)  # 167 each; 5 standard deviations
    assert torch.all(of_class[1][:4] == 0)


@given(st.integers(1, 5), st.integers(0, 12), st.integers(0, 8))
def test_the_newest_images_of_a_class_come_first(capacity: int, written: int, count: int) -> None:
    memory = TaskMemory(2, capacity, SIZE, CPU)
    for value in range(written):
        memory.add(flat([value, 200]), torch.tensor([1, 0]))
    found = memory.newest(1, count)
    assert values(found) == list(reversed(range(written)))[: min(count, capacity)]
    assert found.shape[1:] == (3, SIZE, SIZE)

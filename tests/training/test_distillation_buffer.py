from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dfml import seeds
from dfml.images import to_bytes
from dfml.training.checkpoint import State, load_checkpoint, save_checkpoint
from dfml.training.distillation_buffer import DistillationBuffer
from tests.factories import images

CPU = torch.device("cpu")
SIZE = 2


def constant_images(values: list[int]) -> Tensor:
    """One constant image per value, of brightness value / 255."""
    return torch.tensor(values, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, SIZE, SIZE)


def predictions(values: list[int]) -> Tensor:
    """Two log-probabilities that depend on the value; 16 bits represent them exactly."""
    return torch.tensor([[-value / 8, value / 4] for value in values]).view(-1, 2)


def filled(count: int, capacity: int = 8) -> DistillationBuffer:
    """Images of the values 0, 1, 2 ..., added one at a time, each with its value as its class."""
    buffer = DistillationBuffer(capacity, SIZE, 2, CPU)
    for value in range(count):
        buffer.add(constant_images([value]), predictions([value]), torch.tensor([value]))
    return buffer


def values(of: Tensor) -> list[int]:
    """The inverse of `constant_images`, for images in [0, 1]."""
    return (of[:, 0, 0, 0] * 255).round().int().tolist()


@given(st.integers(1, 5), st.lists(st.tuples(st.lists(st.integers(0, 255), max_size=12), st.booleans()), max_size=6))
def test_it_holds_the_same_images_as_a_plain_ring_buffer(capacity: int, calls: list[tuple[list[int], bool]]) -> None:
    buffer, count = DistillationBuffer(capacity, SIZE, 2, CPU), 0
    ring, classes = [0] * capacity, [-1] * capacity
    for call, known in calls:
        buffer.add(constant_images(call), predictions(call), torch.tensor(call, dtype=torch.int64) if known else None)
        for value in call:
            ring[count % capacity], classes[count % capacity] = value, value if known else -1
            count += 1
    assert buffer.written == count
    assert len(buffer) == min(count, capacity)
    assert torch.equal(buffer.images, constant_images(ring))
    assert torch.equal(buffer.log_probabilities.float(), predictions(ring))
    assert buffer.classes.tolist() == classes


def test_every_image_is_sampled_with_its_own_predictions() -> None:
    for count, kept in ((5, range(5)), (13, range(5, 13))):
        sampled, found = filled(count).sample(300, seeds.generator(0, "batch"))
        assert sampled.shape == (300, 3, SIZE, SIZE)
        assert sampled.dtype == found.dtype == torch.float32
        assert set(values(sampled)) == set(kept)
        assert torch.equal(found, predictions(values(sampled)))


def test_all_images_are_sampled_equally_often_and_independently() -> None:
    sampled = values(filled(8).sample(4000, seeds.generator(0, "batch"))[0])
    counts = torch.bincount(torch.tensor(sampled), minlength=8)
    assert torch.all((counts - 500).abs() < 110)  # 5 standard deviations
    repeated = sum(one == other for one, other in pairwise(sampled))
    assert abs(repeated - 500) < 110


def test_predictions_are_stored_in_half_precision_and_nan_stays_nan() -> None:
    buffer = DistillationBuffer(4, SIZE, 6, CPU)
    log_probabilities = (4.0 * torch.randn(4, 6, generator=seeds.generator(0, "probabilities"))).log_softmax(dim=1)
    log_probabilities[1, 2:4] = math.nan
    buffer.add(constant_images([1, 2, 3, 4]), log_probabilities.requires_grad_())
    sampled, found = buffer.sample(50, seeds.generator(0))
    torch.testing.assert_close(
        found, log_probabilities.detach()[[v - 1 for v in values(sampled)]], rtol=1e-3, atol=0, equal_nan=True
    )
    assert found.isnan().any()
    assert not found.requires_grad


def test_after_loading_the_same_images_are_sampled_and_overwritten(tmp_path: Path) -> None:
    buffer, resumed = filled(11), DistillationBuffer(8, SIZE, 2, CPU)
    save_checkpoint(tmp_path, 1, State(buffer.state_dict()))
    resumed.load_state_dict(load_checkpoint(tmp_path / "000001", CPU)[1].tensors)
    for each in (buffer, resumed):
        each.add(constant_images([250, 251]), predictions([250, 251]))
    assert resumed.classes.tolist() == [8, 9, 10, -1, -1, 5, 6, 7]
    assert (resumed.written, len(resumed)) == (13, 8)
    expected, found = (each.sample(40, seeds.generator(3, "batch", 7)) for each in (buffer, resumed))
    assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))
    assert {250, 251} < set(values(found[0]))
    assert not {3, 4} & set(values(found[0]))


@given(st.integers(0, 30), st.integers(1, 9), st.integers(1, 9))
def test_a_buffer_of_another_capacity_loads_the_newest_images(count: int, held: int, capacity: int) -> None:
    other = DistillationBuffer(capacity, SIZE, 2, CPU)
    other.load_state_dict(filled(count, held).state_dict())
    newest = list(range(count))[-min(held, capacity) :]
    assert len(other) == len(newest)
    other_values = values(other.images[: len(other)].float() / 255)
    assert sorted(other_values) == newest
    assert torch.equal(other.log_probabilities[: len(other)].float(), predictions(other_values))
    assert other.classes[: len(other)].tolist() == other_values
    other.add(constant_images([200]), predictions([200]))
    assert sorted(values(other.images[: len(other)].float() / 255)) == [*newest, 200][-capacity:]


def test_bytes_are_the_nearest_of_256_values() -> None:
    every = torch.arange(256, dtype=torch.uint8).repeat(3).view(1, 3, 16, 16)
    assert torch.equal(to_bytes(every.float() / 255), every)
    noise = 1.4 * images(20) - 0.2
    assert torch.all((to_bytes(noise).float() / 255 - noise.clamp(0, 1)).abs() <= 1 / 510 + 1e-6)


@given(st.lists(st.integers(-1, 3), max_size=20), st.integers(1, 4))
def test_slots_are_found_by_class(classes: list[int], at_least: int) -> None:
    """Only images that are still in the buffer; those of class -1 belong to no class."""
    buffer = DistillationBuffer(12, SIZE, 2, CPU)
    for value, label in enumerate(classes):
        buffer.add(constant_images([value]), predictions([value]), torch.tensor([label]))
    kept = list(enumerate(classes))[-12:]
    expected = [{value for value, label in kept if label == wanted} for wanted in range(4)]
    found = [set(values(buffer.get(slots)[0])) for slots in buffer.slots_by_class(at_least)]
    assert found == [members for members in expected if len(members) >= at_least]


@given(st.lists(st.integers(-1, 2), max_size=20), st.integers(0, 8))
def test_the_newest_images_of_a_class_come_first(classes: list[int], count: int) -> None:
    buffer = DistillationBuffer(7, SIZE, 2, CPU)
    for value, label in enumerate(classes):
        buffer.add(constant_images([value]), predictions([value]), torch.tensor([label]))
    kept = list(enumerate(classes))[-7:]
    for wanted in range(3):
        expected = [value for value, label in reversed(kept) if label == wanted][:count]
        assert values(buffer.newest(wanted, count)) == expected


def test_log_probabilities_below_the_range_of_16_bits_stay_finite() -> None:
    buffer = DistillationBuffer(2, 4, 2, torch.device("cpu"))
    images = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    buffer.add(images, torch.tensor([[0.0, -1e10], [torch.nan, torch.nan]]))
    _, stored = buffer.get(torch.arange(2))
    assert stored[0].tolist() == [0.0, -65504.0]
    assert bool(stored[1].isnan().all())  # not queried


def test_classes_of_images_from_one_member_are_forgotten() -> None:
    buffer = DistillationBuffer(4, 4, 2, torch.device("cpu"))
    images, predictions = torch.zeros(4, 3, 4, 4, dtype=torch.uint8), torch.zeros(4, 2)
    buffer.add(images, predictions, torch.tensor([5, 6, 7, -1]), torch.tensor([0, 1, 0, -1]))
    buffer.forget_classes(0)
    assert buffer.classes.tolist() == [-1, 6, -1, -1]

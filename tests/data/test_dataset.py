from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dfml.data.dataset import ImageDataset
from dfml.errors import DataError


def dataset(counts: list[int]) -> ImageDataset:
    """A data set whose image number i is filled with the value i, and whose class number k is named "class k"."""
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    images = torch.arange(len(labels), dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 2, 2)
    return ImageDataset(images, labels, tuple(f"class {k}" for k in range(len(counts))), "numbers")


counts = st.lists(st.integers(1, 5), min_size=1, max_size=8)


@given(counts)
def test_of_class_returns_the_indices_of_a_label(counts: list[int]) -> None:
    data = dataset(counts)
    assert len(data) == sum(counts)
    for label in range(len(counts)):
        assert torch.equal(data.of_class(label), (data.labels == label).nonzero().flatten())


@given(counts, st.data())
def test_select_numbers_classes_in_the_given_order(counts: list[int], draw: st.DataObject) -> None:
    data = dataset(counts)
    order = draw.draw(st.permutations(data.classes))[: draw.draw(st.integers(1, len(counts)))]
    chosen = data.select(order)
    assert chosen.classes == tuple(order)
    for label, name in enumerate(order):
        images = chosen.images[chosen.of_class(label)]
        assert torch.equal(images, data.images[data.of_class(data.classes.index(name))])


def test_an_unknown_class_is_named() -> None:
    data = dataset([1, 2])
    with pytest.raises(DataError, match="no class 'clas 1'; did you mean 'class 1'"):
        data.select(["class 0", "clas 1"])
    with pytest.raises(DataError, match="no class 'x'; it has class 0, class 1"):
        data.select(["x"])
    with pytest.raises(DataError, match="at least one class"):
        data.select([])
    with pytest.raises(DataError, match="names that differ"):
        data.select(["class 0", "class 0"])


@pytest.mark.parametrize("label", [-1, 2])
def test_of_class_refuses_a_label_out_of_range(label: int) -> None:
    with pytest.raises(IndexError, match="from 0 to 1"):
        dataset([1, 2]).of_class(label)


@pytest.mark.parametrize(
    ("labels", "classes", "message"),
    [
        ([1, 0], ("a", "b"), "ascending order"),
        ([0, 0], ("a", "b"), "each at least once"),
        ([0, 2], ("a", "b"), "labels 0 to 1"),
        ([0, 1], ("a", "a"), "names that differ"),
    ],
)
def test_inconsistent_labels_and_classes_are_refused(labels: list[int], classes: tuple[str, ...], message: str) -> None:
    images = torch.zeros(2, 3, 2, 2, dtype=torch.uint8)
    with pytest.raises(DataError, match=message):
        ImageDataset(images, torch.tensor(labels), classes, "numbers")

"""What an image costs is counted, once per architecture and image size."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dfml.backbones import create_backbone
from dfml.inversion import image_cost
from dfml.inversion.image_cost import bytes_per_image, image_operations, multiply_adds
from dfml.zoo import Preprocessing, PretrainedClassifier
from tests.factories import SIZE, member


@pytest.fixture(autouse=True)
def _nothing_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_cost, "_MEASURED", {})


def passes(classifier: PretrainedClassifier) -> list[int]:
    """Batch sizes of all passes through a member, recorded from now on."""
    sizes: list[int] = []
    classifier.network.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    return sizes


def linear(outputs: int = 5) -> PretrainedClassifier:
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.Flatten(), nn.Linear(4 * 64, outputs))
    labels = tuple(f"class {index}" for index in range(outputs))
    return PretrainedClassifier(network, labels, Preprocessing(8, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2)))


def test_multiply_adds_are_those_of_convolutions_and_matrix_products() -> None:
    assert multiply_adds(linear()) == 3 * 4 * 9 * 64 + 4 * 64 * 5


def test_bytes_are_those_of_the_tensors_that_the_backward_pass_needs() -> None:
    """The input of the convolution in normalised space; the linear layer's input is not needed for the images."""
    convolution_input = 4 * 3 * 64
    assert convolution_input <= bytes_per_image(linear(), 8) <= 4 * convolution_input
    assert bytes_per_image(member(), SIZE, torch.float32) > 4 * 2 * 32 * SIZE**2  # before and after batch-norm


def test_it_is_measured_once_for_members_of_one_architecture() -> None:
    first, second, other = member(0), member(1), member(2, ("a", "b"))
    counts = [passes(each) for each in (first, second, other)]
    expected = image_operations(first)
    assert counts[0] == [1, 2]  # one forward pass each for the operations and for the memory
    assert image_operations(first) == image_operations(second) == expected
    assert counts == [[1, 2], [], []]
    assert bytes_per_image(second, 2 * SIZE) > 0  # another size is measured
    image_operations(other)
    assert counts == [[1, 2], [2], [1, 2]]


def test_the_order_does_not_matter() -> None:
    classifiers = [member(0), linear(), member(1, architecture="fewshot_resnet10", arguments={})]
    costs = [image_operations(each) for each in classifiers]
    image_cost._MEASURED.clear()
    assert [image_operations(each) for each in reversed(classifiers)] == costs[::-1]


def test_a_larger_network_costs_more() -> None:
    sizes = Preprocessing(32, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))

    def cost(architecture: str, **arguments: int) -> int:
        network = create_backbone(architecture, 5, seed=0, **arguments)
        return image_operations(PretrainedClassifier(network, ("a", "b", "c", "d", "e"), sizes))

    conv, resnet = cost("conv4", img_size=32), cost("fewshot_resnet10")
    assert 5 * conv < resnet  # a step takes 17 times as long on one core, and 63 times the multiply-adds


def test_a_model_that_is_no_member_is_measured_without_its_weights() -> None:
    class Adapted(nn.Module):
        size = 8

        def __init__(self) -> None:
            super().__init__()
            self.inner = linear()

        def logits(self, images: Tensor) -> Tensor:
            return self.inner.logits(images)

        def logits_and_statistics(self, images: Tensor) -> tuple[Tensor, list[object]]:
            return self.inner.logits(images), []

    assert bytes_per_image(Adapted(), 8) == bytes_per_image(linear(), 8)  # type: ignore[arg-type]
    assert not any(entry[0] == "adapted" for entry in image_cost._MEASURED)

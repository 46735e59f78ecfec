"""The backbones of the few-shot literature, by name, beside timm's own networks."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional

from dfml.backbones import BACKBONES, create_backbone, register_with_timm
from dfml.backbones.conv4 import ConvBlock
from dfml.errors import UsageError

timm = register_with_timm()


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("architecture", "size", "expected"),
    [
        ("conv4", 32, 29541),
        ("conv4", 84, 32901),
        # Convolutions with bias, scale and shift of 64 channels, and a head over 2 x 2 pixels.
        ("conv4_64", 32, (3 * 9 + 1) * 64 + 3 * (64 * 9 + 1) * 64 + 4 * 2 * 64 + (4 * 64 + 1) * 5),
        ("conv4_pyramid", 32, sum((a * 9 + 3) * b for a, b in pairwise([3, 32, 64, 128, 256])) + (4 * 256 + 1) * 5),
    ],
)
def test_conv4_has_the_published_number_of_parameters(architecture: str, size: int, expected: int) -> None:
    assert parameters(create_backbone(architecture, 5, img_size=size)) == expected


def test_conv4_takes_one_width_for_all_blocks_or_one_for_each() -> None:
    wide = create_backbone("conv4_pyramid", 5, channels=[4, 6, 8, 10])
    assert wide.forward_features(torch.rand(1, 3, 32, 32)).shape == (1, 10, 2, 2)
    with pytest.raises(UsageError, match=r"one number or four, one per block, but is \[8, 16\]"):
        create_backbone("conv4_pyramid", 5, channels=[8, 16])


@pytest.mark.parametrize(("architecture", "blocks"), [("fewshot_resnet10", 1), ("fewshot_resnet18", 2)])
def test_few_shot_resnets_have_the_published_layers(architecture: str, blocks: int) -> None:
    expected, channels = 3 * 9 * 64 + 128, 64
    for width in (64, 128, 256, 512):
        for block in range(blocks):
            expected += 9 * channels * width + 9 * width * width + 4 * width
            if block == 0 and channels != width:
                expected += channels * width + 2 * width
            channels = width
    expected += 513 * 5
    network = create_backbone(architecture, 5)
    assert parameters(network) == expected
    assert network.forward_features(torch.rand(2, 3, 32, 32)).shape == (2, 512, 4, 4)


@pytest.mark.parametrize("architecture", ["fewshot_resnet10", "fewshot_resnet18"])
def test_the_stem_neither_rectifies_nor_pools(architecture: str) -> None:
    network = create_backbone(architecture, 5, seed=0).eval()
    stem = network.stem(torch.rand(2, 3, 16, 16))
    assert stem.shape == (2, 64, 16, 16)
    assert bool((stem < 0).any())


@pytest.mark.parametrize(
    ("architecture", "arguments"),
    [
        ("conv4", {"global_pool": "max"}),
        ("conv4", {"global_pool": "avg"}),
        ("conv4_64", {"global_pool": "max"}),
        ("conv4_pyramid", {"global_pool": "avg"}),
        ("fewshot_resnet10", {}),
        ("fewshot_resnet10", {"global_pool": "max"}),
    ],
)
@pytest.mark.parametrize("size", [(32, 32), (84, 84), (40, 24)])
def test_a_pooled_head_takes_any_size(architecture: str, arguments: dict[str, object], size: tuple[int, int]) -> None:
    network = create_backbone(architecture, 7, **arguments).eval()
    assert network(torch.rand(2, 3, *size)).shape == (2, 7)


def test_a_flatten_head_is_over_channel_row_column() -> None:
    network = create_backbone("conv4", 5, seed=0, img_size=32).eval()
    images = torch.rand(3, 3, 32, 32)
    features = network.forward_features(images)
    assert features.shape == (3, 32, 2, 2)
    expected = torch.einsum("nchw,kchw->nk", features, network.head.weight.view(5, 32, 2, 2)) + network.head.bias
    torch.testing.assert_close(network(images), expected)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("size", [32, 21])
def test_pooling_before_rectifying_changes_no_bit(training: bool, size: int) -> None:
    torch.manual_seed(0)
    block = ConvBlock(3, 8).train(training)
    with torch.no_grad():
        block.norm.weight.uniform_(-1, 1)
        block.norm.bias.uniform_(-1, 1)
    images = torch.randn(4, 3, size, size)
    expected = functional.max_pool2d(functional.relu(block.norm(block.conv(images))), 2)
    assert torch.equal(block(images), expected)


@pytest.mark.parametrize("architecture", ["conv4", "fewshot_resnet10"])
def test_initial_weights_have_the_published_distribution(architecture: str) -> None:
    network = create_backbone(architecture, 5, seed=0)
    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    for layer in layers:
        std = math.sqrt(2 / (layer.kernel_size[0] * layer.kernel_size[1] * layer.out_channels))
        assert float(layer.weight.detach().std()) == pytest.approx(std, rel=4 / math.sqrt(layer.weight.numel()))
        assert layer.bias is None or not layer.bias.any()
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert all(bool((norm.weight == 1).all()) and not norm.bias.any() for norm in norms)


@pytest.mark.parametrize("architecture", BACKBONES)
def test_a_seed_decides_the_weights_and_leaves_the_global_generator_alone(architecture: str) -> None:
    state = torch.get_rng_state()
    first, again, other = (create_backbone(architecture, 3, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    weights = [network.state_dict() for network in (first, again, other)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not torch.equal(weights[0]["head.weight"], weights[2]["head.weight"])


def test_the_names_are_in_timms_registry_and_timms_own_are_not_replaced() -> None:
    assert set(BACKBONES) == {"conv4", "conv4_64", "conv4_pyramid", "fewshot_resnet10", "fewshot_resnet18"}
    assert all(timm.is_model(name) for name in BACKBONES)
    theirs = timm.create_model("resnet18", num_classes=5)
    assert type(theirs).__module__ == "timm.models.resnet"
    assert parameters(theirs) == 11_689_512 - 513 * 1000 + 513 * 5
    assert type(create_backbone("resnet18", 5)) is type(theirs)


@pytest.mark.parametrize("architecture", BACKBONES)
def test_a_head_can_be_replaced_as_in_timm(architecture: str) -> None:
    network = timm.create_model(architecture, num_classes=5).eval()
    images = torch.rand(2, 3, 32, 32)
    features = network.forward_head(network.forward_features(images), pre_logits=True)
    assert features.shape == (2, network.num_features)
    assert network.get_classifier().out_features == 5
    network.reset_classifier(9)
    assert (network.num_classes, network(images).shape) == (9, (2, 9))
    network.reset_classifier(0)
    assert torch.equal(network(images), features)
    with pytest.raises(ValueError, match="pools with"):
        network.reset_classifier(5, global_pool="fast")


@pytest.mark.parametrize("name", ["resnet19", "", "hf-hub:timm/resnet18", "local-dir:/tmp", "timm/conv4"])
def test_an_unknown_name_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="unknown architecture"):
        create_backbone(name, 5)


@pytest.mark.parametrize("argument", ["pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"])
def test_arguments_that_load_pretrained_weights_are_refused(argument: str) -> None:
    with pytest.raises(UsageError, match=argument):
        create_backbone("conv4", 5, **{argument: True})


def test_a_checkpoint_is_never_opened(tmp_path: object) -> None:
    with pytest.raises(UsageError, match="checkpoint_path"):
        create_backbone("conv4", 5, checkpoint_path=f"{tmp_path}/weights.pth")


@pytest.mark.parametrize(
    ("architecture", "arguments"),
    [
        ("conv4", {"img_size": 15}),
        ("conv4", {"width": 3}),
        ("conv4", {"global_pool": "mean"}),
        ("fewshot_resnet10", {"global_pool": ""}),
        ("resnet18", {"block": "x"}),
        ("vit_tiny_patch16_224", {"num_heads": 0}),
    ],
)
def test_arguments_that_an_architecture_does_not_take_are_refused(
    architecture: str, arguments: dict[str, object]
) -> None:
    with pytest.raises(UsageError, match=f"{architecture}.*cannot be built") as caught:
        create_backbone(architecture, 5, **arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("architecture", BACKBONES)
def test_there_is_nothing_to_download(architecture: str) -> None:
    with pytest.raises(ValueError, match="no pre-trained weights"):
        timm.create_model(architecture, pretrained=True)

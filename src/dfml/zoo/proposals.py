"""Architectures that a state dict may belong to, proposed from the names and shapes of its tensors.

Every proposal has passed a strict comparison of names and shapes on the meta device. What such a comparison cannot see
(activations, pooling, forms of a shortcut without parameters) is listed with the proposal;
`dfml.inversion.proposal_scores` ranks proposals that differ in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from dfml.backbones.cifar_resnet import SHORTCUTS
from dfml.errors import ConfigError
from dfml.zoo.architectures import REPLACE, build_architecture
from dfml.zoo.checkpoint_files import Checkpoint
from dfml.zoo.fingerprints import Fingerprint, matching_fingerprints, same_sized_fingerprints
from dfml.zoo.layer_guesses import guess_layers, head_layers
from dfml.zoo.manifest import ManifestMember
from dfml.zoo.state_dicts import align

_MAX_BUILT = 12  # architectures that are built and compared
_TRACKED = "num_batches_tracked"


@dataclass(frozen=True)
class Proposal:
    """A network that the weights fit.

    Attributes:
        architecture: As in `ManifestMember.architecture`.
        arguments: As in `ManifestMember.arguments`.
        outputs: Number of outputs of the network.
        channels: Channels of its input.
        size: Side length of its input in pixels, where the shapes determine or suggest one; else None.
        match: As in `ManifestMember.match`.
        ambiguities: What the weights do not tell, in words; a proposal without any needs no confirmation.
    """

    architecture: str | list[Any]
    outputs: int
    arguments: dict[str, Any] = field(default_factory=dict)
    channels: int = 3
    size: int | None = None
    match: str = "names"
    ambiguities: tuple[str, ...] = ()

    def entry(self, path: str, **known: Any) -> ManifestMember:
        """An entry of the manifest with this network.

        Args:
            path: See `ManifestMember.path`.
            known: Further fields of the entry; they replace what is proposed.
        """
        proposed: dict[str, Any] = {
            "architecture": self.architecture,
            "arguments": self.arguments,
            "channels": self.channels,
            "match": self.match,
            "labels": max(2, self.outputs),
        }
        if self.size is not None:
            proposed["size"] = self.size
        if self.outputs == 1:
            proposed["output"] = "logit"
        return ManifestMember(path=path, **{**proposed, **known})


def propose(checkpoint: Checkpoint) -> list[Proposal]:
    """Propose architectures for weights, the most likely first.

    Names of torchvision and timm come first, also with another head, stem or number of input channels; then ResNets for
    CIFAR, networks of the same shapes in the same order under other names, and lists of layers for networks that are a
    plain sequence of convolutions and linear layers.

    Args:
        checkpoint: The weights.

    Returns:
        Proposals; empty if nothing fits.
    """
    state_dict = checkpoint.state_dict
    found = list(_by_names(state_dict))
    if not found:
        found = [*_cifar_resnets(state_dict), *_by_order(state_dict)]
    return found or [
        Proposal(
            guess.layers,
            guess.outputs,
            channels=guess.channels,
            size=guess.size,
            ambiguities=guess.ambiguities,
        )
        for guess in guess_layers(state_dict)
    ]


def _by_names(state_dict: Mapping[str, Tensor]) -> Iterator[Proposal]:
    """Networks of torchvision and timm whose tensors have the same names, the head aside."""
    fitting = set()
    for fingerprint in matching_fingerprints(state_dict)[:_MAX_BUILT]:
        if fingerprint.architecture in fitting:
            continue
        proposal = _adapted(fingerprint, state_dict)
        if proposal is not None:
            fitting.add(fingerprint.architecture)
            yield proposal


def _adapted(fingerprint: Fingerprint, state_dict: Mapping[str, Tensor]) -> Proposal | None:
    """A named architecture with the head, stem, channels and image size of the weights; None if it does not fit."""
    start = f"{fingerprint.head}."
    head = {name.removeprefix(start): state_dict[name] for name in state_dict if name.startswith(start)}
    weights = [tensor for name, tensor in head.items() if name.endswith("weight") and tensor.ndim > 1]
    if not weights:
        return None
    outputs = len(weights[-1])
    replace: dict[str, Any] = {}
    arguments: dict[str, Any] = {}
    ambiguities: tuple[str, ...] = ()
    channels, size = 3, None
    if "weight" not in head:
        layers = head_layers(head)
        if layers is None:
            return None
        replace[fingerprint.head] = layers
        ambiguities = (f"the activations and dropout of the head ({fingerprint.head})",)
    for _ in range(3):  # each round settles one difference
        network = _build(fingerprint.architecture, outputs, arguments, replace)
        if network is None:
            return None
        different = differences(network, state_dict)
        if not different:
            given = {**arguments, **({REPLACE: replace} if replace else {})}
            return Proposal(fingerprint.architecture, outputs, given, channels, size, ambiguities=ambiguities)
        name, expected, shape = different[0]
        timm = fingerprint.architecture.startswith("timm:")
        if len(expected) == len(shape) == 4 and expected[0] == shape[0] and shape[1] in (1, 3):
            channels = shape[1]
            if timm and expected[2:] == shape[2:]:
                arguments["in_chans"] = channels
                continue
            module = name.removesuffix(".weight")
            replace[module] = _convolution(network, module, shape)
            if expected[2:] != shape[2:]:
                ambiguities += (f"the stride of {module} and the pooling after it",)
        elif timm and "pos_embed" in name and (side := _image_size(network, name, expected, shape)):
            arguments["img_size"] = size = side
        else:
            return None
    return None


def _build(
    architecture: str, outputs: int, arguments: Mapping[str, Any], replace: Mapping[str, Any]
) -> nn.Module | None:
    try:
        given = {**arguments, **({REPLACE: dict(replace)} if replace else {})}
        return build_architecture(architecture, outputs, given, device="meta")
    except ConfigError:
        return None


def differences(
    network: nn.Module, state_dict: Mapping[str, Tensor], *, by_order: bool = False
) -> list[tuple[str, tuple[int, ...], tuple[int, ...]]]:
    """Differences between a network and weights, counters of batch-norm layers aside.

    Args:
        network: The network; may be on the meta device.
        state_dict: The weights, without prefixes.
        by_order: See `dfml.zoo.state_dicts.align`.

    Returns:
        Name, the network's shape and the weights' shape of every tensor that differs; an empty shape where one is
        missing (a scalar that is missing is left out).
    """
    expected = network.state_dict()
    found = align(state_dict, expected, by_order=by_order)
    names = [name for name in {**expected, **found} if not name.endswith(_TRACKED)]
    ours, theirs = ({name: tuple(tensor.shape) for name, tensor in each.items()} for each in (expected, found))
    shapes = [(name, ours.get(name, ()), theirs.get(name, ())) for name in names]
    return [each for each in shapes if each[1] != each[2]]


def _convolution(network: nn.Module, module: str, shape: tuple[int, ...]) -> str:
    """The first convolution with the weights' shape; with another kernel, stride 1 as for small images."""
    layer = network.get_submodule(module)
    stride, bias = layer.stride, layer.bias is not None
    assert isinstance(stride, tuple)
    same = tuple(layer.weight.shape[2:]) == shape[2:]  # type: ignore[index]
    step = stride[0] if same else 1
    return f"Conv2d({shape[1]}, {shape[0]}, {shape[2]}, {step}, {shape[2] // 2}, bias={bias})"


def _image_size(network: nn.Module, name: str, expected: tuple[int, ...], shape: tuple[int, ...]) -> int | None:
    """Side length of the images of a vision transformer with another number of position embeddings."""
    patch = getattr(getattr(network, "patch_embed", None), "patch_size", None)
    grid = getattr(getattr(network, "patch_embed", None), "grid_size", None)
    if not patch or not grid or len(expected) != 3 or len(shape) != 3 or expected[2] != shape[2]:
        return None
    tokens = shape[1] - (expected[1] - grid[0] * grid[1])
    side = round(max(tokens, 0) ** 0.5)
    return side * int(patch[0]) if side and side * side == tokens else None


def _cifar_resnets(state_dict: Mapping[str, Tensor]) -> Iterator[Proposal]:
    """ResNets for CIFAR of the depth that the number of convolutions says, with every form of shortcut that fits."""
    convolutions = [tensor for tensor in state_dict.values() if tensor.ndim == 4]
    heads = [tensor for tensor in state_dict.values() if tensor.ndim == 2]
    if len(heads) != 1 or len(convolutions) < 7:
        return
    channels, outputs = convolutions[0].shape[1], len(heads[0])
    for shortcut in SHORTCUTS:
        depth = len(convolutions) + 1 - (2 if shortcut == "B" else 0)
        arguments = {"shortcut": shortcut} | ({"in_channels": 1} if channels == 1 else {})
        network = _build(f"cifar_resnet:{depth}", outputs, arguments, {})
        for match in ("names", "order") if network is not None else ():
            if not differences(network, state_dict, by_order=match == "order"):  # type: ignore[arg-type]
                seen = () if shortcut == "B" else (f"the form of the shortcut ({', '.join(SHORTCUTS[:3])})",)
                yield Proposal(f"cifar_resnet:{depth}", outputs, arguments, channels, 32, match, seen)
                break


def _by_order(state_dict: Mapping[str, Tensor]) -> Iterator[Proposal]:
    """Networks of torchvision and timm that have the same shapes in the same order, under other names."""
    weights = [name for name in state_dict if state_dict[name].ndim in (2, 4)]
    if not weights:
        return
    last = weights[-1]
    head = last.rpartition(".")[0]
    for fingerprint in same_sized_fingerprints(state_dict, head)[:_MAX_BUILT]:
        outputs = len(state_dict[last])
        network = _build(fingerprint.architecture, outputs, {}, {})
        if network is not None and not differences(network, state_dict, by_order=True):
            unseen = "names differ: the order of its layers, activations and pooling"
            yield Proposal(fingerprint.architecture, outputs, match="order", ambiguities=(unseen,))

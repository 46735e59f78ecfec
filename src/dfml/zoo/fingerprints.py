"""Fingerprints of the architectures of timm and torchvision, to find those that a state dict may belong to.

A fingerprint is a checksum of the names of a network's tensors, the head's left out, and the number of their values.
`fingerprints.txt` has one line per architecture and head; building 1,400 networks to compare with would take a quarter
of an hour. `python -m dfml.zoo.fingerprints > src/dfml/zoo/fingerprints.txt` writes it for the installed releases.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

_TABLE = Path(__file__).with_name("fingerprints.txt")
_TRACKED = "num_batches_tracked"


@dataclass(frozen=True)
class Fingerprint:
    """An architecture whose tensors, the head's left out, have certain names.

    Attributes:
        architecture: Name, such as `timm:resnet18`.
        head: Name of the module that is left out: the last layer, or a part of the network that ends with it.
        digest: Checksum of the names of all other tensors, as eight hex digits.
        values: Number of values in these tensors.
    """

    architecture: str
    head: str
    digest: str
    values: int


def matching_fingerprints(state_dict: Mapping[str, Tensor]) -> list[Fingerprint]:
    """Architectures whose tensor names are those of a state dict, whatever its head.

    Args:
        state_dict: Tensors by name, without prefixes.

    Returns:
        Fingerprints, those first whose number of values is closest to the state dict's. Shapes are not compared.
    """
    names = list(state_dict)
    found = []
    for head, table in _by_head().items():
        body = [name for name in names if not is_below(name, head)]
        if len(body) < len(names):
            values = sum(state_dict[name].numel() for name in body if not name.endswith(_TRACKED))
            found += [(abs(each.values - values), each) for each in table.get(_digest(body), ())]
    return [each for _, each in sorted(found, key=_closest)]


def _closest(found: tuple[int, Fingerprint]) -> tuple[int, tuple[bool, int, str], int]:
    """Sort key: difference in values, architecture, and the last layer before a module that holds it."""
    difference, fingerprint = found
    return difference, _rank(fingerprint), -len(fingerprint.head)


def same_sized_fingerprints(state_dict: Mapping[str, Tensor], head: str) -> list[Fingerprint]:
    """Architectures that have as many values as a state dict, the head left out in both, whatever their names are.

    Args:
        state_dict: Tensors by name.
        head: Name of the state dict's last layer.
    """
    body = [tensor for name, tensor in state_dict.items() if not is_below(name, head) and not name.endswith(_TRACKED)]
    values = sum(tensor.numel() for tensor in body)
    tables = (each for table in _by_head().values() for entries in table.values() for each in entries)
    return sorted({each.architecture: each for each in tables if each.values == values}.values(), key=_rank)


def _rank(fingerprint: Fingerprint) -> tuple[bool, int, str]:
    """Networks of torchvision first, then those with short names: the plain form of several that are alike."""
    architecture = fingerprint.architecture
    return not architecture.startswith("torchvision:"), len(architecture), architecture


def is_below(name: str, module: str) -> bool:
    """Whether a tensor belongs to a module or one inside it."""
    return name.startswith(f"{module}.")


def _digest(names: Iterable[str]) -> str:
    return f"{zlib.crc32(chr(10).join(sorted(name for name in names if not name.endswith(_TRACKED))).encode()):08x}"


@lru_cache(maxsize=1)
def _by_head() -> dict[str, dict[str, list[Fingerprint]]]:
    """The table: head -> digest -> fingerprints."""
    table: dict[str, dict[str, list[Fingerprint]]] = {}
    for line in _TABLE.read_text(encoding="utf-8").splitlines():
        architecture, head, digest, values = line.split()
        each = Fingerprint(architecture, head, digest, int(values))
        table.setdefault(head, {}).setdefault(digest, []).append(each)
    return table


def fingerprints_of(architecture: str, network: nn.Module, heads: Iterable[str]) -> list[Fingerprint]:
    """Fingerprints of a network, one per head.

    Args:
        architecture: Its name.
        network: The network; its weights may be on the meta device.
        heads: Names of its last layer, and of modules that hold it.
    """
    shapes = {name: tensor for name, tensor in network.state_dict().items() if not name.endswith(_TRACKED)}
    found = []
    for head in heads:
        body = [name for name in shapes if not is_below(name, head)]
        if len(body) < len(shapes):
            values = sum(shapes[name].numel() for name in body)
            found.append(Fingerprint(architecture, head, _digest(body), values))
    return found


def installed_architectures() -> Iterator[tuple[str, nn.Module, list[str]]]:
    """Yield name, network on the meta device and heads of every architecture of timm and torchvision."""
    import torchvision

    from dfml.backbones import register_with_timm
    from dfml.zoo.architectures import build_architecture

    timm = register_with_timm()  # whose list then has dfml's own backbones too
    for name in timm.list_models():
        try:
            with torch.device("meta"):
                network = timm.create_model(name, pretrained=False)
        except (RuntimeError, ValueError, TypeError, NotImplementedError, AssertionError):
            continue  # networks that compute with their weights while they are built
        head = (getattr(network, "pretrained_cfg", None) or {}).get("classifier") or ()
        yield f"timm:{name}", network, [head] if isinstance(head, str) else list(head)
    for name in torchvision.models.list_models(module=torchvision.models):
        network = build_architecture(f"torchvision:{name}", 1000, device="meta")
        last = [each for each, layer in network.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)][-1]
        yield f"torchvision:{name}", network, list(dict.fromkeys([last, last.partition(".")[0]]))


if __name__ == "__main__":
    for description in installed_architectures():
        for each in fingerprints_of(*description):
            print(each.architecture, each.head, each.digest, each.values)

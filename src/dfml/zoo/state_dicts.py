"""State dicts in other people's files: where they are, and how their names and types become those of the network."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

_KEYS = (
    *("state_dict", "model_state_dict", "model_state", "model_dict", "model", "net", "network", "net_state_dict"),
    *("net_dict", "weights", "params", "parameters", "state", "module", "classifier", "student", "best_model"),
    *("best_model_state_dict", "best_state_dict", "model_weights", "ema", "model_ema", "ema_state_dict"),
    *("state_dict_ema", "ema_model", "params_ema"),
)
_NO_WEIGHTS = re.compile(
    r"optim|sched|scaler|(^|_)rng|history|callbacks|loops|(^|_)loss|(^|_)args?$|config|param_groups", re.IGNORECASE
)
_MAX_DEPTH, _MAX_TENSORS = 4, 200_000
# Tensors that tools leave beside the weights: a profiler's counters, the number of averaged models, metrics, losses.
_NO_LAYERS = re.compile(
    r"(.*\.)?(total_ops|total_params|n_averaged|num_averaged)"
    r"|(criterion|loss|loss_fn|loss_func\w*|(train|val|valid|test)_(acc|accuracy|metrics?|loss|f1)\w*|metrics?)\..*"
)
_TRACKED, _RUNNING = ".num_batches_tracked", ".running_var"


def find_state_dict(content: Any) -> tuple[dict[str, Tensor] | None, str]:
    """Find the weights in what a file holds.

    Args:
        content: Tensors by name, or mappings that hold such a mapping.

    Returns:
        The tensors and the keys that they are under, joined by dots; None where there are no named tensors. Of
        several mappings of tensors, one under a usual name such as `state_dict` counts, else the largest.
    """
    return _find(content, "", 0)


def _find(content: Any, where: str, depth: int) -> tuple[dict[str, Tensor] | None, str]:
    if not isinstance(content, Mapping) or depth > _MAX_DEPTH or len(content) > _MAX_TENSORS:
        return None, ""
    tensors = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}
    if any("." in key for key in tensors) or (tensors and len(tensors) == len(content)):
        return tensors, where
    found = []
    for key, value in content.items():
        if isinstance(key, str) and not _NO_WEIGHTS.search(key):
            weights, entry = _find(value, f"{where}.{key}" if where else key, depth + 1)
            if weights:
                rank = _KEYS.index(key) if key in _KEYS else len(_KEYS)
                found.append((rank, -sum(tensor.numel() for tensor in weights.values()), entry, weights))
    if not found:
        return None, ""
    _, _, entry, weights = min(found, key=lambda each: each[:3])
    return weights, entry


def tidy(weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Bring weights into the form in which networks load them.

    Args:
        weights: Tensors by name, as a file holds them.

    Returns:
        The tensors without what belongs to no network, without shared prefixes, floating-point ones as float32, with
        the `num_batches_tracked` of every batch-norm layer; and notes on what was done (see `Checkpoint.details`).
    """
    details: dict[str, Any] = {}
    left_out = [name for name in weights if _NO_LAYERS.fullmatch(name)]
    kept = {name: tensor for name, tensor in weights.items() if name not in set(left_out)}
    if left_out:
        details["left_out"] = left_out
    prefix = shared_prefix(kept)
    if prefix:
        details["prefix"] = prefix
        kept = {name.removeprefix(prefix): tensor for name, tensor in kept.items()}
    types = {tensor.dtype for tensor in kept.values() if tensor.is_floating_point()} - {torch.float32}
    if types:
        details["stored_as"] = ", ".join(sorted(str(each).removeprefix("torch.") for each in types))
    tidied: dict[str, Tensor] = {}
    for name, tensor in kept.items():
        tidied[name] = (tensor.float() if tensor.is_floating_point() else tensor).detach().contiguous()
        tracked = name.removesuffix(_RUNNING) + _TRACKED
        if name.endswith(_RUNNING) and tracked not in kept:
            tidied[tracked] = torch.tensor(0)
    return tidied, details


def shared_prefix(names: Iterable[str]) -> str:
    """The first parts of dotted names that all of them share, with the dot; empty if there are none.

    A prefix never ends in a number: the layers of a lone `nn.Sequential` keep its name out, and their numbers in.
    """
    parts = [name.split(".") for name in names]
    if not parts:
        return ""
    shortest = min(len(each) for each in parts)
    length = 0
    while length < shortest - 1 and len({each[length] for each in parts}) == 1 and not parts[0][length].isdecimal():
        length += 1
    # A single layer keeps its own name: `fc.weight` and `fc.bias` are not `weight` and `bias`.
    length = min(length, max(0, max(len(each) for each in parts) - 2)) if length == shortest - 1 else length
    return "".join(f"{part}." for part in parts[0][:length])


def align(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], *, by_order: bool = False) -> dict[str, Tensor]:
    """Give a file's tensors the names that a network has for them.

    Args:
        found: The file's tensors, without prefixes that all of their names share.
        expected: The network's state dict; its tensors may be on the meta device.
        by_order: Whether the names of both differ, and the file's n-th tensor is the network's n-th.

    Returns:
        The file's tensors, under the network's names where they correspond. Nothing is left out, so that a strict load
        still finds every difference.
    """
    if by_order:
        ordered = [name for name in found if not name.endswith(_TRACKED)]
        wanted = [name for name in expected if not name.endswith(_TRACKED)]
        if len(ordered) != len(wanted):
            return dict(found)
        renamed = {new: found[old] for old, new in zip(ordered, wanted, strict=True)}
        return renamed | {name: torch.tensor(0) for name in expected if name.endswith(_TRACKED)}
    prefix = shared_prefix(expected)
    return {f"{prefix}{name}": tensor for name, tensor in found.items()}

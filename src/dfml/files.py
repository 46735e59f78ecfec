"""Writing tensors: one way, one error."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write a safetensors file, from any device and memory layout.

    Raises:
        OSError: If it cannot be written (safetensors has an error of its own for a full disk).
    """
    try:
        plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        save_file(plain, path, metadata={"format": "pt"})
    except SafetensorError as error:
        raise OSError(f"{path}: {error}") from error


def shape_mismatch(
    found: Mapping[str, Tensor], expected: Mapping[str, Tensor], any_length: frozenset[str] = frozenset()
) -> str | None:
    """What the first tensor is that is missing or of another shape, in words; None if all fit. Others may be there."""
    for name, value in expected.items():
        held = found.get(name)
        rows = int(name in any_length)
        if held is None or held.ndim != value.ndim or held.shape[rows:] != value.shape[rows:]:
            is_held = "is missing" if held is None else f"has shape {tuple(held.shape)}"
            return f"{name} {is_held}, expected {tuple(value.shape)}"
    return None

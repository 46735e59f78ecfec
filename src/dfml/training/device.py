"""The device, the precision and the memory of a run."""

from __future__ import annotations

import ctypes
import sys
from contextlib import AbstractContextManager
from typing import Literal

import psutil
import torch

from dfml.errors import UsageError

Precision = Literal["auto", "float32", "bfloat16"]
"""Precision of the networks' computations; weights, statistics and losses stay float32. `auto`: bfloat16 if the
processor or the GPU multiplies it natively, else float32, because bfloat16 would be slower."""

# <malloc.h>: parameters of mallopt.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3


def select_device(name: str = "auto") -> torch.device:
    """Return the device with a given name, after a check that it works.

    Args:
        name: `auto` (a GPU of CUDA if there is one, else the CPU), or a name that `torch.device` takes, such as
            `cuda:1` or `mps`.

    Raises:
        UsageError: If torch does not know the name, or there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"device {name!r} cannot be used ({reason}); choose auto, cpu, cuda or mps") from error
    return device


def require_memory(size: int, device: torch.device, what: str) -> None:
    """Check that an allocation fits the free memory.

    Without this check the process would be killed hours later: the system provides memory only when it is written to.

    Args:
        size: Size of the allocation in bytes.
        device: Device of the allocation.
        what: Name of the allocation and the settings that determine its size; used in the error message.

    Raises:
        UsageError: If less than `size` is free.
    """
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    if size > free:
        raise UsageError(f"{what} takes {size / 2**30:.1f} GiB, {free / 2**30:.1f} are free; choose a smaller one")


def computing_in(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """A context in which networks compute in the given precision (torch's autocast)."""
    reduced = precision == "bfloat16" or (precision == "auto" and _multiplies_bfloat16(device))
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=reduced)


def _multiplies_bfloat16(device: torch.device) -> bool:
    """Whether the hardware multiplies bfloat16 natively."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # Older versions of torch have no `torch.cpu.get_capabilities`.
    features: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)() if device.type == "cpu" else {}
    return any(bool(features.get(name)) for name in ("avx512_bf16", "amx_bf16", "arm_bf16"))


def keep_freed_memory() -> None:
    """Make glibc reuse freed blocks instead of returning them to the system after every step.

    A training step allocates the same few blocks of about 10 MB again and again; by default each is mapped and zeroed
    every time. Reuse makes a PURER step on one CPU core about a third faster. It has no effect on systems without
    glibc, and none on peak memory.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_MMAP_THRESHOLD, 32 * 2**20)  # the largest value that glibc accepts
        libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        libc.mallopt(_TOP_PAD, 64 * 2**20)

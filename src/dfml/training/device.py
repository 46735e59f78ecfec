"""Where a run computes."""

from __future__ import annotations

import ctypes
import sys
from contextlib import AbstractContextManager
from typing import Literal

import psutil
import torch

from dfml.errors import UsageError

Precision = Literal["auto", "float32", "bfloat16"]
"""What networks compute in; weights, statistics and losses stay float32. `auto`: bfloat16 where the processor or the
GPU multiplies it natively, float32 elsewhere, where it would only be slower."""

# <malloc.h>: parameters of mallopt.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3


def select_device(name: str = "auto") -> torch.device:
    """`auto` is the first GPU if there is one; otherwise any name that torch knows.

    Raises:
        UsageError: If torch does not know the name, or has no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"device {name!r} cannot be used ({reason}); choose auto, cpu or cuda") from error
    return device


def require_memory(size: int, device: torch.device, what: str) -> None:
    """Refuse what would end in a killed process, hours later: memory is taken when it is first written to.

    Args:
        size: Bytes.
        device: Where they are needed.
        what: Takes them, and goes by which settings; for the message.

    Raises:
        UsageError: If fewer are free.
    """
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    if size > free:
        raise UsageError(f"{what} takes {size / 2**30:.1f} GiB, {free / 2**30:.1f} are free; choose a smaller one")


def computing_in(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """A context in which networks compute in a precision (torch's autocast)."""
    reduced = precision == "bfloat16" or (precision == "auto" and _multiplies_bfloat16(device))
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=reduced)


def _multiplies_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # Older versions of torch do not tell.
    able: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)() if device.type == "cpu" else {}
    return any(bool(able.get(name)) for name in ("avx512_bf16", "amx_bf16", "arm_bf16"))


def keep_freed_memory() -> None:
    """Let glibc reuse freed blocks instead of returning them to the system after every step.

    A training step allocates the same few blocks of some 10 MB again and again; by default each is mapped and zeroed
    anew. Reuse makes a PURER step on one CPU core about a third faster. No effect on other systems, nor on peak memory.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_MMAP_THRESHOLD, 32 * 2**20)  # the most that glibc accepts
        libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        libc.mallopt(_TOP_PAD, 64 * 2**20)

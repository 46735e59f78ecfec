"""Bounds on what a member's configuration may ask for, so that a hostile or damaged one fails within seconds.

A configuration can name a network of a million layers. Its numbers are checked before anything is built, and the
modules are counted while the network is built, on the `meta` device. What its buffers and one image take is counted
there too, before memory is allocated for them. Files whose cost no such count shows are tried in a child process
(`dfml.zoo.trial`).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from dfml.errors import ZooMemberError

MAX_VALUE = 300_000
"""Largest absolute value of an integer in the arguments of an architecture."""

MAX_VALUES = 100_000
"""Largest number of values in the arguments of an architecture, nested ones included."""

MAX_MODULES = 20_000
"""Largest number of modules of a network; a ConvNeXt-XL has about 500, a transformer of 1,000 blocks about 15,000."""

MAX_BUFFER_BYTES = 2**28
"""Largest size of the buffers of a network that no file holds; those of a Swin-L for 384 pixels have 1.5 MiB."""

MAX_ELEMENTS = 2**28
"""Largest number of values of one tensor in the forward pass of one image: 1 GiB of floats."""

MAX_OPERATIONS = 10**13
"""Largest number of operations in the forward pass of one image: minutes of one CPU core. A ViT-G at 518 pixels has
4e12."""

_MAX_NESTING = 16


class TooManyModulesError(Exception):
    """A network has more modules than `MAX_MODULES`."""


class TooCostlyError(Exception):
    """A network or an image of it takes more memory or operations than the bounds allow."""


def check_arguments(member: Path, arguments: Any, where: str) -> None:
    """Check the numbers in the arguments of an architecture.

    Args:
        member: The member's folder or file, for messages.
        arguments: Plain values as JSON has them, nested in any way.
        where: Where the arguments stand, for messages: "`model_args` in config.json".

    Raises:
        ZooMemberError: If an integer is beyond `MAX_VALUE`, a number is not finite, there are more values than
            `MAX_VALUES`, or they are nested too deeply.
    """
    pending, values = [(arguments, where, 0)], 0
    while pending:
        value, name, depth = pending.pop()
        values += 1
        reason = None
        if depth > _MAX_NESTING or values > MAX_VALUES:
            reason = f"expected at most {MAX_VALUES} values, nested at most {_MAX_NESTING} deep, in {where}, found more"
        elif isinstance(value, int) and abs(value) > MAX_VALUE:
            reason = f"expected integers of at most {MAX_VALUE} in {where}, found {_short(value)} as {name}"
        elif isinstance(value, float) and not math.isfinite(value):
            reason = f"expected finite numbers in {where}, found {value} as {name}"
        if reason:
            raise ZooMemberError(member, reason, "correct it, or remove the member")
        if isinstance(value, dict):
            pending += [(entry, f"`{_short(key)}`", depth + 1) for key, entry in value.items()]
        elif isinstance(value, list | tuple):
            pending += [(entry, name, depth + 1) for entry in value]


@contextmanager
def bounded_modules() -> Iterator[None]:
    """Context for building a network: it ends with an error at the first module beyond `MAX_MODULES`.

    Raises:
        TooManyModulesError: If more modules are registered within the context.
    """
    registered = 0

    def count(module: nn.Module, name: str, submodule: nn.Module | None) -> None:
        nonlocal registered
        registered += 1
        if registered > MAX_MODULES:
            raise TooManyModulesError(f"the network has more than {MAX_MODULES} modules")

    hook = register_module_module_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def check_buffers(network: nn.Module) -> None:
    """Check the size of the buffers that are computed when a network is built, and that no file holds.

    Args:
        network: A network on the `meta` device.

    Raises:
        TooCostlyError: If they have more than `MAX_BUFFER_BYTES`.
    """
    stored = network.state_dict(keep_vars=True)
    computed = [buffer for name, buffer in network.named_buffers() if name not in stored]
    size = sum(buffer.numel() * buffer.element_size() for buffer in computed)
    if size > MAX_BUFFER_BYTES:
        raise TooCostlyError(f"its buffers need {size} bytes of memory, expected at most {MAX_BUFFER_BYTES}")


def largest_tensor(network: nn.Module, size: int) -> int | None:
    """Number of values of the largest tensor in the forward pass of one image, counted without computing it.

    Args:
        network: The network, with or without memory for its weights.
        size: Height and width of the image.

    Returns:
        The number; None where the pass ends with an error, because a network is none for such images, or its path
        depends on the values of the image.

    Raises:
        TooCostlyError: If a tensor has more than `MAX_ELEMENTS` values, or the pass more than `MAX_OPERATIONS`.
    """
    counter = _CostCounter()
    try:
        # A copy: a network may keep tensors of a pass for the next one.
        without_memory = _copy_to_meta(network)
        with torch.no_grad(), counter:
            without_memory(torch.empty(1, 3, size, size, device="meta"))
    except TooCostlyError:
        raise
    except Exception:  # the pass itself follows, and its error says what is wrong
        return None
    return counter.largest


def _copy_to_meta(network: nn.Module) -> nn.Module:
    """A copy of a network whose tensors have no memory; those of the network are not copied."""
    copies: dict[int, Any] = {
        id(parameter): nn.Parameter(torch.empty_like(parameter, device="meta"), requires_grad=False)
        for parameter in network.parameters()
    }
    copies |= {id(buffer): torch.empty_like(buffer, device="meta") for buffer in network.buffers()}
    return copy.deepcopy(network, copies)


class _CostCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operations of what runs within it, and ends it where a bound is exceeded."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.largest, self._operations = 0, 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for each in tree_leaves(result):
            if isinstance(each, Tensor):
                self.largest = max(self.largest, each.numel())
                self._operations += each.numel()
        count = flop_registry.get(func.overloadpacket)
        if count is not None:
            self._operations += count(*args, **(kwargs or {}), out_val=result)
        if self.largest > MAX_ELEMENTS:
            raise TooCostlyError(
                f"one image takes too much memory: expected at most {MAX_ELEMENTS} values in a tensor, found "
                f"{self.largest}"
            )
        if self._operations > MAX_OPERATIONS:
            raise TooCostlyError(f"one image takes more than {MAX_OPERATIONS:.0e} operations")
        return result


def _short(value: object) -> str:
    text = repr(value) if not isinstance(value, str) else value
    return text if len(text) <= 40 else f"{text[:37]}..."

"""Contents of a pickle, found by reading its opcodes. Nothing is unpickled, so nothing in it can run.

The result describes a file in messages and decides how it is listed. It is no protection: an adversarial pickle can
hide names from it. Only `torch.load(..., weights_only=True)` decides what is loaded.
"""

from __future__ import annotations

import io
import pickletools
import re
from dataclasses import dataclass, field
from typing import Any

TORCH_MAGIC = 0x1950A86A20F9469CFC6C
"""The number that is the first pickle of a file of `torch.save` before torch 1.6."""

MAX_BYTES = 2**24
"""Bytes of a file that are read to find its pickles in; tensors are stored outside of them."""

_MAX_OPCODES = 2_000_000
_LEGACY_PICKLES = 4  # magic number, protocol version, system, object; the keys of the storages follow

_MEMO_WRITES = frozenset({"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"})
_MEMO_READS = frozenset({"GET", "BINGET", "LONG_BINGET"})
_FRAMING = frozenset({"PROTO", "FRAME"})
_CONSTRUCTORS = frozenset({"copy_reg._reconstructor", "copyreg._reconstructor"})
# What `weights_only=True` accepts, and containers of plain values.
_PLAIN = re.compile(
    r"collections\.(OrderedDict|Counter|defaultdict)|torch\._utils\._rebuild_\w+|torch\._tensor\._rebuild_\w+"
    r"|torch\.\w*Storage|torch\.storage\.\w+|torch\.nn\.parameter\.\w+|torch\.(Size|device|dtype|Tensor|[a-z]+\d+)"
    r"|torch\.serialization\._get_layout|(__builtin__|builtins)\.(set|frozenset|list|dict|tuple|int|long|float|bool|str"
    r"|unicode|bytearray|bytes|complex|slice|range|object)|_codecs\.encode"
)
_LAYERS = re.compile(r"torch\.nn\.(modules\.(?!loss\.)|quantized|intrinsic)|torch\.fx\.")
_MODEL_KEYS = ("model", "net", "network", "module", "classifier", "state_dict", "ema", "model_ema")


@dataclass(frozen=True)
class PickleContents:
    """What the opcodes of a pickle say.

    Attributes:
        names: Classes and functions that it names (`module.name`), in order of appearance.
        root: The class or function whose result is the whole object; None for a dictionary, a list or another value.
        entries: Dictionary keys that are directly followed by a name -> that name, for the first of each key.
        keys: Short strings in it, in order of appearance.
        complete: Whether it ends as a pickle must, within the bounds.
    """

    names: tuple[str, ...]
    root: str | None
    entries: dict[str, str] = field(default_factory=dict)
    keys: frozenset[str] = frozenset()
    complete: bool = True

    @property
    def foreign(self) -> tuple[str, ...]:
        """The names that `weights_only=True` does not accept."""
        return tuple(name for name in self.names if not _PLAIN.fullmatch(name))

    @property
    def is_module(self) -> bool:
        """Whether the object is a network, or holds one, and not only its weights."""
        foreign = self.foreign
        return self.root in foreign or any(_LAYERS.match(name) for name in foreign)

    @property
    def module_key(self) -> str | None:
        """Key under which the pickled network is; None if it is the whole object, or the key is not known."""
        if self.root in self.foreign:
            return None
        return next((key for key in _MODEL_KEYS if self.entries.get(key) in self.foreign), None)

    @property
    def module_class(self) -> str | None:
        """Class of the pickled network; None if there is none."""
        if not self.is_module:
            return None
        if self.root in self.foreign:
            return self.root
        key = self.module_key
        return self.entries[key] if key else next((n for n in self.foreign if _LAYERS.match(n)), self.foreign[0])


def read_pickle_contents(content: bytes) -> PickleContents:
    """Read the opcodes of a pickle, or of the four pickles that a file of `torch.save` before torch 1.6 begins with.

    Args:
        content: The pickle; the first `MAX_BYTES` of a file are enough.

    Raises:
        ValueError: If it does not begin with a pickle.
    """
    stream = io.BytesIO(content)
    contents, first = _read_one(stream)
    for _ in range(1, _LEGACY_PICKLES if first == TORCH_MAGIC else 1):
        if not contents.complete:
            break
        contents, _ = _read_one(stream)
    return contents


def _read_one(stream: io.BytesIO) -> tuple[PickleContents, object]:
    """Contents of one pickle, and its number if it is nothing but a number."""
    names: dict[str, None] = {}
    entries: dict[str, str] = {}
    memo: dict[int, str] = {}
    strings: list[str] = []  # the last ones that were pushed
    keys: set[str] = set()
    pushed: str | None = None  # the string that the last opcode pushed, memo opcodes aside
    number, root, started, complete, count = None, None, False, False, 0
    try:
        argument: Any
        for opcode, argument, _ in pickletools.genops(stream):
            count += 1
            if count > _MAX_OPCODES:
                break
            complete = opcode.name == "STOP"
            if opcode.name == "MARK":
                continue
            if opcode.name in _MEMO_WRITES:
                if pushed is not None:
                    memo[len(memo) if opcode.name == "MEMOIZE" else int(argument)] = pushed
                elif opcode.name == "MEMOIZE":
                    memo[len(memo)] = ""
                continue
            name = None
            if opcode.name in ("GLOBAL", "INST"):
                name = ".".join(str(argument).split(" ", 1))
            elif opcode.name == "STACK_GLOBAL" and len(strings) > 1:
                name = ".".join(strings[-2:])
                del strings[-2:]
            if name is not None:
                name = printable(name)
                if name in _CONSTRUCTORS:  # protocols 0 and 1: the class comes next
                    pushed = None
                    continue
                names[name] = None
                # Before torch 1.6 a class was saved as a tuple ("module", class, source).
                for key in strings[-2:] if strings[-1:] == ["module"] else strings[-1:]:
                    entries.setdefault(key, name)
                if not started:
                    root = name
            if isinstance(argument, str) and opcode.name not in ("GLOBAL", "INST"):
                pushed = printable(argument)
                keys.add(pushed)
            else:
                pushed = memo.get(int(argument)) if opcode.name in _MEMO_READS else None
            # A protocol 4 name is two strings; they say nothing of a key before them.
            strings = [*strings[-2:], pushed] if pushed is not None else []
            started = started or (opcode.name not in _FRAMING and pushed is None)
            number = argument if count <= 2 and isinstance(argument, int) else number
    except (ValueError, OverflowError, UnicodeError, IndexError, MemoryError) as error:
        if count == 0:
            raise ValueError(f"no pickle ({error})") from error
        complete = False
    return PickleContents(tuple(names), root, entries, frozenset(keys), complete), number


def printable(text: str, limit: int = 100) -> str:
    """Text of a stranger's file for a message: control characters replaced, at most `limit` characters."""
    return "".join(character if character.isprintable() else "?" for character in text[:limit])

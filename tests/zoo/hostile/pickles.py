"""Pickles whose opcodes run code, or cost more than the file that holds them."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch

from tests.zoo.hostile.cases import ANYTHING, Cases, canary

CASES = Cases()
ENTRY = "members:\n- {name: bad-entry, path: bad.pth, architecture: 'timm:resnet18', labels: 2, size: 32}\n"

_MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({"little_endian": True}, 2)


def text(value: str) -> bytes:
    """Opcode that pushes a text."""
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def data(value: bytes) -> bytes:
    """Opcode that pushes bytes."""
    return b"B" + struct.pack("<I", len(value)) + value


def zipped(zoo: Path, opcodes: bytes, *, entries: dict[str, bytes] | None = None) -> None:
    """A file as torch.save writes it, whose pickle is these opcodes; it is a bare file, and the file of an entry."""
    with zipfile.ZipFile(zoo / "bad.pth", "w") as archive:
        archive.writestr("archive/data.pkl", opcodes)
        archive.writestr("archive/version", b"3\n")
        archive.writestr("archive/byteorder", b"little")
        for name, content in (entries or {"archive/data/0": bytes(64)}).items():
            archive.writestr(name, content)
    (zoo / "zoo.yaml").write_text(ENTRY)
    # The bare file is looked at too, as another file of the same content.
    (zoo / "bad-bare.pth").write_bytes((zoo / "bad.pth").read_bytes())


def legacy(zoo: Path, opcodes: bytes) -> None:
    """A file as torch.save wrote it before torch 1.6."""
    (zoo / "bad.pth").write_bytes(_MAGIC + opcodes + pickle.dumps([], 2))
    (zoo / "zoo.yaml").write_text(ENTRY)
    (zoo / "bad-bare.pth").write_bytes((zoo / "bad.pth").read_bytes())


def tensor(
    name: str = "fc.weight", *, size: bytes = b"K\x04\x85", stride: bytes = b"K\x01\x85", offset: int = 0
) -> bytes:
    """Opcodes that push a name and a tensor of the storage `0`, which has 16 numbers."""
    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"K\x10tQ"
    return (
        text(name)
        + b"ctorch._utils\n_rebuild_tensor_v2\n("
        + storage
        + b"J"
        + struct.pack("<i", offset)
        + size
        + stride
        + b"\x89ccollections\nOrderedDict\n)RtR"
    )


def command(zoo: Path) -> str:
    """A command that makes the canary."""
    return f"touch {canary(zoo)}"


REFUSED = "weights_only=True|whole pickled|without tensors|damaged|named tensors"

CALLS: dict[str, Callable[[Path], bytes]] = {
    "global_and_reduce": lambda zoo: b"cos\nsystem\n" + text(command(zoo)) + b"\x85R",
    "stack_global_and_reduce": lambda zoo: text("os") + text("system") + b"\x93" + text(command(zoo)) + b"\x85R",
    "inst": lambda zoo: b"(" + text(command(zoo)) + b"ios\nsystem\n",
    "obj": lambda zoo: b"(cos\nsystem\n" + text(command(zoo)) + b"o",
    "newobj": lambda zoo: b"csubprocess\nPopen\n(" + text("touch") + text(canary(zoo)) + b"t\x85\x81",
    "newobj_ex": lambda zoo: b"csubprocess\nPopen\n)}" + text("args") + text(command(zoo)) + b"s\x92",
    "build": lambda zoo: (
        b"ctorch._utils\n_rebuild_tensor_v2\n)\x81}"
        + text("__setstate__")
        + b"cos\nsystem\nsb"
        + text(command(zoo))
        + b"b"
    ),
    "extension": lambda zoo: b"\x82\x01",
    "persistent_id": lambda zoo: b"Pos.system\n",
    "persistent_id_of_a_call": lambda zoo: b"(" + text("storage") + b"cos\nsystem\n" + text(command(zoo)) + b"tQ",
    "eval": lambda zoo: b"c__builtin__\neval\n" + text(f"open({canary(zoo)!r}, 'w')") + b"\x85R",
    "getattr": lambda zoo: b"c__builtin__\ngetattr\n(cos\n__dict__\n" + text("system") + b"tR",
    "nested_load": lambda zoo: (
        b"ctorch.storage\n_load_from_bytes\n" + data(b"cos\nsystem\n" + text(command(zoo)) + b"\x85R.") + b"\x85R"
    ),
    "apply_of_the_test_library": lambda zoo: b"ctorch.testing._internal.common_utils\nrun_tests\n)R",
}
"""Opcodes that call something, and leave one value."""


def _add(name: str, call: Callable[[Path], bytes]) -> None:
    def in_zip(zoo: Path) -> None:
        zipped(zoo, b"\x80\x02}" + tensor() + b"s" + text("call") + call(zoo) + b"s.")

    def in_legacy(zoo: Path) -> None:
        legacy(zoo, b"\x80\x02}" + text("call") + call(zoo) + b"s.")

    CASES.add(f"{name}_in_a_zip", in_zip, ANYTHING)
    CASES.add(f"{name}_in_a_legacy_pickle", in_legacy, ANYTHING)


for _name, _call in CALLS.items():
    _add(_name, _call)


@CASES(REFUSED)
def a_call_in_protocol_0(zoo: Path) -> None:
    (zoo / "bad.pth").write_bytes(b"cos\nsystem\n(S'" + command(zoo).encode() + b"'\ntR.")


DOUBLED = b")q\x00" + b"".join(b"h" + bytes([i]) + b"h" + bytes([i]) + b"\x86q" + bytes([i + 1]) for i in range(60))
"""Opcodes that put a tuple of 2^60 empty tuples at position 60 of the memo."""


@CASES(ANYTHING)
def tuples_that_double(zoo: Path) -> None:
    zipped(zoo, b"\x80\x02" + DOUBLED + b"}" + tensor() + b"s" + text("x") + b"h\x3cs.")


@CASES("seconds of processor time", slow=True)
def a_key_that_takes_forever_to_hash(zoo: Path) -> None:
    zipped(zoo, b"\x80\x02" + DOUBLED + b"}" + tensor() + b"sh\x3cK\x01s.")


@CASES("seconds of processor time", slow=True)
def numbers_that_collide(zoo: Path) -> None:
    prime = 2**61 - 1
    keys = b"".join(pickle.LONG1 + bytes([11]) + (i * prime).to_bytes(11, "little") + b"N" for i in range(1, 200_000))
    zipped(zoo, b"\x80\x02}" + tensor() + b"s(" + keys + b"u.")


@CASES(REFUSED, slow=True)
def lists_a_million_deep(zoo: Path) -> None:
    zipped(zoo, b"\x80\x02" + b"(" * 1_000_000 + b"l" * 1_000_000 + b".")


@CASES(ANYTHING, slow=True)
def lists_that_are_deep(zoo: Path) -> None:
    zipped(zoo, b"\x80\x02}" + tensor() + b"s" + text("x") + b"]" * 100_000 + b"a" * 99_999 + b"s.")


@CASES(REFUSED)
def a_memo_far_out(zoo: Path) -> None:
    zipped(zoo, b"\x80\x02}r\xff\xff\xff\x7f.")


@CASES(REFUSED)
def a_text_that_is_longer_than_the_file(zoo: Path) -> None:
    zipped(zoo, b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"x.")


@CASES(REFUSED)
def bytes_that_are_longer_than_the_file(zoo: Path) -> None:
    zipped(zoo, b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"x.")


@CASES(REFUSED)
def a_frame_that_is_longer_than_the_file(zoo: Path) -> None:
    zipped(zoo, b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"}.")


@CASES("larger than the file|weights_only=True")
def a_view_that_repeats_one_number(zoo: Path) -> None:
    huge = b"J" + struct.pack("<i", 2**30)
    zipped(zoo, b"\x80\x02}" + tensor(size=huge + huge + b"\x86", stride=b"K\x00K\x00\x86") + b"s.")


@CASES("weights_only=True")
def a_view_beyond_its_storage(zoo: Path) -> None:
    zipped(zoo, b"\x80\x02}" + tensor(offset=2**30) + b"s.")


@CASES("weights_only=True")
def a_view_before_its_storage(zoo: Path) -> None:
    zipped(zoo, b"\x80\x02}" + tensor(offset=-4) + b"s.")


@CASES("weights_only=True")
def a_storage_that_is_not_there(zoo: Path) -> None:
    zipped(zoo, b"\x80\x02}" + tensor() + b"s.", entries={"archive/data/1": bytes(64)})


@CASES("weights_only=True|no plain tensor")
def a_sparse_tensor_with_indices_outside(zoo: Path) -> None:
    indices, values = torch.tensor([[10**9]]), torch.ones(1)
    sparse = torch.sparse_coo_tensor(indices, values, (10**9 + 1,), check_invariants=False)
    torch.save({"fc.weight": sparse}, zoo / "bad.pth")


@CASES("whole pickled")
def a_whole_network(zoo: Path) -> None:
    torch.save(torch.nn.Sequential(torch.nn.Linear(2, 2)), zoo / "bad.pth")


@CASES("unpack to|compressed")
def a_zip_that_unpacks_to_a_thousand_times_its_size(zoo: Path) -> None:
    with zipfile.ZipFile(zoo / "bad.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}" + tensor() + b"s.")
        archive.writestr("archive/data/0", bytes(64))
        archive.writestr("archive/data/1", bytes(200 * 2**20))


@CASES("unpack to|compressed|damaged", slow=True)
def a_pickle_that_unpacks_to_a_thousand_times_its_size(zoo: Path) -> None:
    with zipfile.ZipFile(zoo / "bad.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + b"}0" * (50 * 2**20) + b"}.")


@CASES("archive")
def zips_within_zips(zoo: Path) -> None:
    content = bytes(10 * 2**20)
    for depth in range(5):
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            for copy in range(8):
                archive.writestr(f"{depth}-{copy}.zip", content)
        content = packed.getvalue()
    (zoo / "bad.pth").write_bytes(content)


@CASES("weights_only=True|damaged|archive|named tensors")
def names_that_lead_out_of_a_zip(zoo: Path) -> None:
    with zipfile.ZipFile(zoo / "bad.pth", "w") as archive:
        archive.writestr("../../data.pkl", b"\x80\x02}" + tensor() + b"s.")
        archive.writestr("../../../canary", b"x")


@CASES("cut short|damaged")
def a_zip_that_is_cut_short(zoo: Path) -> None:
    torch.save({"fc.weight": torch.zeros(4, 4)}, zoo / "bad.pth")
    content = (zoo / "bad.pth").read_bytes()
    (zoo / "bad.pth").write_bytes(content[: len(content) // 2])

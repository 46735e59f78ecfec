"""safetensors files whose header lies, and files of other kinds that are none of them."""

from __future__ import annotations

import gzip
import json
import zipfile
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from tests.factories import member, write
from tests.zoo.hostile.cases import Cases, canary

CASES = Cases()
F32 = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}


def both(zoo: Path, content: bytes) -> None:
    """The content as a bare file, and as the weights of a member."""
    (zoo / "bad.safetensors").write_bytes(content)
    (write(zoo / "bad", member()) / "model.safetensors").write_bytes(content)


def header(zoo: Path, entries: dict[str, Any] | bytes, data: bytes = bytes(16)) -> None:
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    both(zoo, len(text).to_bytes(8, "little") + text + data)


DAMAGED = "damaged|cut short|does not fit"


@CASES(DAMAGED)
def tensors_that_overlap(zoo: Path) -> None:
    header(zoo, {"a.weight": F32, "b.weight": F32})


@CASES(DAMAGED)
def a_hole_between_tensors(zoo: Path) -> None:
    header(zoo, {"a.weight": {**F32, "data_offsets": [16, 32]}}, bytes(32))


@CASES(DAMAGED)
def an_offset_beyond_the_file(zoo: Path) -> None:
    header(zoo, {"a.weight": {**F32, "shape": [2**40], "data_offsets": [0, 2**42]}})


@CASES(DAMAGED)
def a_negative_offset(zoo: Path) -> None:
    header(zoo, {"a.weight": {**F32, "data_offsets": [-16, 16]}})


@CASES(DAMAGED)
def offsets_in_the_wrong_order(zoo: Path) -> None:
    header(zoo, {"a.weight": {**F32, "data_offsets": [16, 0]}})


@CASES(DAMAGED)
def a_type_that_is_larger_than_its_bytes(zoo: Path) -> None:
    header(zoo, {"a.weight": {**F32, "dtype": "F64"}})


@CASES(DAMAGED)
def a_type_that_does_not_exist(zoo: Path) -> None:
    header(zoo, {"a.weight": {**F32, "dtype": "OBJECT"}})


@CASES(DAMAGED)
def a_shape_whose_size_overflows(zoo: Path) -> None:
    header(zoo, {"a.weight": {**F32, "shape": [2**32, 2**32, 2**32]}})


@CASES(DAMAGED)
def a_negative_shape(zoo: Path) -> None:
    header(zoo, {"a.weight": {**F32, "shape": [-2, -2]}})


@CASES(DAMAGED)
def a_name_twice(zoo: Path) -> None:
    one = json.dumps(F32)
    header(zoo, f'{{"a.weight": {one}, "a.weight": {one}}}'.encode())


@CASES(DAMAGED)
def a_header_a_hundred_thousand_deep(zoo: Path) -> None:
    header(zoo, b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}")


@CASES(DAMAGED, slow=True)
def a_header_of_many_lists(zoo: Path) -> None:
    header(zoo, b'{"a": [' + b"[]," * (25 * 2**20) + b"[]]}")


@CASES(DAMAGED + "|no known kind|not recognised")
def a_header_beyond_the_file(zoo: Path) -> None:
    both(zoo, (2**62).to_bytes(8, "little") + b'{"a": 1}')


@CASES(DAMAGED)
def a_header_that_is_no_text(zoo: Path) -> None:
    header(zoo, b'{"\xff\xfe": 1}')


@CASES(DAMAGED)
def a_header_that_is_no_table(zoo: Path) -> None:
    header(zoo, b'{"a.weight": 7, "__metadata__": 3}')


@CASES(DAMAGED)
def bytes_after_the_last_tensor(zoo: Path) -> None:
    both(zoo, (zoo / "good" / "model.safetensors").read_bytes() + bytes(100))


@CASES("does not fit")
def tensors_of_another_network(zoo: Path) -> None:
    header(zoo, {"fc.weight": F32})


@CASES("of no known kind|text|Keras")
def hdf5_junk(zoo: Path) -> None:
    (zoo / "bad.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(1000))


@CASES("git-lfs pointer")
def a_pointer(zoo: Path) -> None:
    (zoo / "bad.pth").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


@CASES("web page")
def a_web_page(zoo: Path) -> None:
    (zoo / "bad.pth").write_text("<!doctype html><script>alert(1)</script>")


@CASES("archive", slow=True)
def a_gzip_bomb(zoo: Path) -> None:
    (zoo / "bad.pth").write_bytes(gzip.compress(bytes(100 * 2**20)))


@CASES("run code of their author")
def torchscript_with_code(zoo: Path) -> None:
    with zipfile.ZipFile(zoo / "bad.pt", "w") as archive:
        archive.writestr("bad/code/__torch__.py", f"open({canary(zoo)!r}, 'w')")
        archive.writestr("bad/constants.pkl", b"\x80\x02).")
        archive.writestr("bad/data.pkl", b"cos\nsystem\n(S'touch " + canary(zoo).encode() + b"'\ntR.")
    (zoo / "zoo.yaml").write_text(
        "members:\n- {name: bad-entry, path: bad.pt, format: torchscript, labels: 2, size: 32, allow_code: true}\n"
    )


@CASES("run code of their author")
def an_exported_program(zoo: Path) -> None:
    with zipfile.ZipFile(zoo / "bad.pt2", "w") as archive:
        archive.writestr("bad/archive_format", b"pt2")
        archive.writestr("bad/models/model.json", b"{}")


@CASES("empty")
def an_empty_file(zoo: Path) -> None:
    (zoo / "bad.safetensors").touch()


@CASES("no known kind")
def noise(zoo: Path) -> None:
    (zoo / "bad.bin").write_bytes(bytes(range(255, 0, -1)) * 1000)


@CASES("")
def a_name_with_an_escape_sequence(zoo: Path) -> None:
    folder = write(zoo / "bad-\x1b[31m-\u202e", member())
    assert load_file(folder / "model.safetensors")

"""FIFOs, devices, sockets and links in the place of files."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from tests.factories import member, write
from tests.zoo.hostile.cases import Cases

CASES = Cases()
ENTRY = "members:\n- {name: bad, path: bad.pth, architecture: 'timm:resnet18', labels: 2, size: 32, sha256: %s}\n"


def replaced(zoo: Path, name: str) -> Path:
    """A member of which one file is missing; returns that file's path."""
    folder = write(zoo / "bad", member())
    (folder / name).unlink()
    return folder / name


@CASES("model.safetensors cannot be read")
def fifo_as_weights(zoo: Path) -> None:
    os.mkfifo(replaced(zoo, "model.safetensors"))


@CASES("FIFO, socket or device|cannot be read")
def fifo_as_configuration(zoo: Path) -> None:
    os.mkfifo(replaced(zoo, "config.json"))


@CASES("model.safetensors cannot be read")
def endless_device_as_weights(zoo: Path) -> None:
    replaced(zoo, "model.safetensors").symlink_to("/dev/zero")


@CASES("link to outside|cannot be read")
def endless_device_as_configuration(zoo: Path) -> None:
    replaced(zoo, "config.json").symlink_to("/dev/zero")


@CASES("FIFO, socket or device")
def fifo_as_file(zoo: Path) -> None:
    os.mkfifo(zoo / "bad.pth")


@CASES("FIFO, socket or device")
def socket_as_file(zoo: Path) -> None:
    # The path of a socket is short: it is bound in its own folder.
    here = os.getcwd()
    os.chdir(zoo)
    try:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind("bad.pth")
    finally:
        os.chdir(here)


@CASES("link to outside")
def link_to_a_device(zoo: Path) -> None:
    (zoo / "bad.pth").symlink_to("/dev/zero")


@CASES("link to outside")
def link_to_a_file_outside(zoo: Path) -> None:
    outside = zoo.parent / "outside.pth"
    outside.write_bytes(b"secret")
    (zoo / "bad.pth").symlink_to(outside)


@CASES("link to outside")
def link_to_the_folder_above(zoo: Path) -> None:
    (zoo / "bad").symlink_to(zoo.parent)


@CASES("link to nothing|cannot be read")
def link_to_itself(zoo: Path) -> None:
    (zoo / "bad.pth").symlink_to(zoo / "bad.pth")


@CASES("model.safetensors cannot be read")
def folder_as_weights(zoo: Path) -> None:
    replaced(zoo, "model.safetensors").mkdir()


@CASES("cannot be read")
def fifo_as_file_of_an_entry(zoo: Path) -> None:
    os.mkfifo(zoo / "bad.pth")
    (zoo / "zoo.yaml").write_text(ENTRY % ("'" + "0" * 64 + "'"))


@CASES("FIFO, socket or device|cannot be read")
def fifo_as_file_of_an_entry_without_digest(zoo: Path) -> None:
    os.mkfifo(zoo / "bad.pth")
    (zoo / "zoo.yaml").write_text(ENTRY % "null")


@CASES("expected|cannot be read")
def folder_as_file_of_an_entry(zoo: Path) -> None:
    (zoo / "bad.pth").mkdir()
    (zoo / "zoo.yaml").write_text(ENTRY % ("'" + "0" * 64 + "'"))


@CASES("FIFO, socket or device|cannot be read")
def entry_of_a_device(zoo: Path) -> None:
    (zoo / "zoo.yaml").write_text((ENTRY % "null").replace("bad.pth", "/dev/zero"))


@CASES("labels: expected a text file")
def labels_from_a_device(zoo: Path) -> None:
    (zoo / "bad.pth").write_bytes(b"x")
    (zoo / "zoo.yaml").write_text((ENTRY % "null").replace("labels: 2", "labels: /dev/zero"))


@CASES("labels: expected a text file")
def labels_from_a_fifo(zoo: Path) -> None:
    (zoo / "bad.pth").write_bytes(b"x")
    os.mkfifo(zoo / "bad-labels.txt")
    (zoo / "zoo.yaml").write_text((ENTRY % "null").replace("labels: 2", "labels: bad-labels.txt"))


@CASES("manifest of a zoo, but", whole_zoo=True)
def fifo_as_manifest(zoo: Path) -> None:
    os.mkfifo(zoo / "zoo.yaml")


@CASES("manifest of a zoo, but", whole_zoo=True)
def device_as_manifest(zoo: Path) -> None:
    (zoo / "zoo.yaml").symlink_to("/dev/zero")

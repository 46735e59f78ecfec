"""Members on the Hugging Face Hub, written `hf:OWNER/NAME[@REVISION]` wherever the path of a zoo is taken.

Only configurations and safetensors are downloaded, into the cache of `huggingface_hub`; what is cached is used without
a connection. A branch or tag is replaced by the commit that it stands for, `hf:OWNER/NAME@COMMIT`, so that what was
used is on record and is used again.
"""

from __future__ import annotations

import re
from pathlib import Path

from dfml.errors import ZooMemberError

PREFIX = "hf:"

PATTERNS = (
    *("config.json", "preprocessor_config.json", "model.safetensors"),
    *("model.safetensors.index.json", "model-*.safetensors"),
)
"""Files that are downloaded; never a pickle and never Python code."""

_ID = re.compile(r"hf:(?P<repository>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def is_hub_id(path: str | Path) -> bool:
    """Whether it is written as a member on the Hub, and not as a path. A path that starts so is written `./hf:...`."""
    return str(path).startswith(PREFIX)


def absolute_path(path: str | Path) -> Path:
    """The form of a path that keeps its meaning: absolute; of a member on the Hub, with its commit.

    Raises:
        ZooMemberError: If a member on the Hub cannot be downloaded and is not cached; see `local_folder`.
    """
    if not is_hub_id(path):
        return Path(path).resolve()
    repository, revision = _parse(path)
    if revision and _COMMIT.fullmatch(revision):
        return Path(path)
    return Path(f"{PREFIX}{repository}@{local_folder(path).name}")


def local_folder(path: str | Path) -> Path:
    """The folder in the cache that holds a member's files; they are downloaded if they are not there.

    Args:
        path: `hf:OWNER/NAME` (the branch `main`) or `hf:OWNER/NAME@REVISION`.

    Returns:
        A folder whose name is the commit.

    Raises:
        ZooMemberError: If it is not written so, if there is no such repository or revision, or if it is neither
            cached nor within reach.
    """
    import huggingface_hub

    repository, revision = _parse(path)

    def snapshot(*, cached: bool) -> Path:
        folder = huggingface_hub.snapshot_download(
            repository, revision=revision, allow_patterns=list(PATTERNS), local_files_only=cached
        )
        return Path(folder)

    try:
        if revision and _COMMIT.fullmatch(revision):  # a commit never changes, so that nobody needs to be asked
            try:
                folder = snapshot(cached=True)
            except OSError:
                pass
            else:
                if is_complete(folder):
                    return folder
        return snapshot(cached=False)
    except Exception as error:  # of the Hub, of the connection, and of whatever library serves it
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        fix = "check the name, the revision and the connection; a private repository needs `hf auth login`"
        raise ZooMemberError(Path(path), f"it cannot be fetched from the Hub ({reason})", fix) from error


def is_complete(folder: Path) -> bool:
    """Whether a cached folder has a configuration and all weight files; an interrupted download lacks some."""
    index = folder / "model.safetensors.index.json"
    if not (folder / "config.json").is_file():
        return False
    if (folder / "model.safetensors").is_file():
        return True
    names = re.findall(r"model-[\w.-]+\.safetensors", index.read_text(encoding="utf-8")) if index.is_file() else []
    return bool(names) and all((folder / name).is_file() for name in set(names))


def member_name(path: Path) -> str:
    """Short name of a member on the Hub, for messages, tables and names of folders: `OWNER--NAME`."""
    return _parse(path)[0].replace("/", "--")


def _parse(path: str | Path) -> tuple[str, str | None]:
    found = _ID.fullmatch(str(path))
    if found is None:
        raise ZooMemberError(
            Path(path), "expected hf:OWNER/NAME or hf:OWNER/NAME@REVISION", "correct it; write ./hf:... for a path"
        )
    return found["repository"], found["revision"]

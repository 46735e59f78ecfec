"""Files that run code when they are opened (TorchScript, `.pt2`): only those that the user has pinned.

An entry in `zoo.yaml` pins a file with `allow_code: true` and its `sha256`. That is not enough, because a zoo of
somebody else comes with a `zoo.yaml` of its own: the user must also name the digest in the environment variable
`DFML_ALLOW_CODE`. The bytes whose digest was compared are the bytes that are opened.
"""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from dfml.errors import ZooMemberError
from dfml.files import open_regular_file
from dfml.seeds import generator
from dfml.zoo.adapters import RowMajor, adapt_network
from dfml.zoo.black_box import BlackBoxClassifier
from dfml.zoo.foreign_networks import ForeignNetworkError, OneByOne, require_gradient, rows
from dfml.zoo.formats import MemberConfig
from dfml.zoo.manifest import ManifestMember
from dfml.zoo.members import Predicts

ALLOWED = "DFML_ALLOW_CODE"
"""Environment variable with the SHA-256 digests, separated by commas, of files whose code the user allows to run."""


def is_allowed(digest: str) -> bool:
    """Whether the user allows to run the code of the file with this SHA-256 (`DFML_ALLOW_CODE`)."""
    return digest in os.environ.get(ALLOWED, "").split(",")


class PinnedCodeFormat:
    """A format of files that run code. Without an entry in `zoo.yaml` that pins a file, it is refused.

    Args:
        name: Name of the format.
        title: Name of the kind of file, for messages.
        open_network: Opens the file's content; this is where the code runs.
    """

    may_only_predict = True

    def __init__(self, name: str, title: str, open_network: Callable[[io.BytesIO], nn.Module]) -> None:
        self.name = name
        self._title = title
        self._open = open_network

    def recognises(self, path: Path) -> bool:
        """False: such files are members by their entry in `zoo.yaml` alone."""
        return False

    def read_config(self, path: Path) -> MemberConfig:
        """Refuse: only an entry in `zoo.yaml` can allow the file.

        Raises:
            ZooMemberError: Always.
        """
        raise ZooMemberError(path, self._refusal(None), "leave the file out, or export a state dict or ONNX from it")

    def load(self, config: MemberConfig) -> nn.Module | Predicts:
        """Open a pinned file; it predicts only where no gradient reaches the images.

        Raises:
            ZooMemberError: If the file is not pinned, has another digest, or takes and returns something else than the
                entry says.
        """
        entry = config.entry
        content, digest = _read(config)
        if entry is None or not entry.allow_code or entry.sha256 != digest:
            fix = "if you trust its author, pin it in its entry in zoo.yaml: "
            raise ZooMemberError(config.path, self._refusal(entry), f"{fix}allow_code: true, and sha256: {digest}")
        if not is_allowed(digest):
            reason = (
                f"{self._title} files can run code of their author when they are opened, and only zoo.yaml allows it"
            )
            raise ZooMemberError(config.path, reason, f"if you trust its author, set {ALLOWED}={digest}")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                network = RowMajor(self._open(io.BytesIO(content)).requires_grad_(False))
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise ZooMemberError(
                config.path, f"it cannot be opened as {self._title} ({reason})", "correct `format`"
            ) from (error)
        return _as_member(network, config, entry)

    def _refusal(self, entry: ManifestMember | None) -> str:
        reason = f"{self._title} files can run code of their author when they are opened"
        if entry is not None and entry.allow_code:
            return f"{reason}, and its SHA-256 is not the one that is pinned"
        return f"{reason}, so dfml opens only those that you have pinned"


def _read(config: MemberConfig) -> tuple[bytes, str]:
    try:
        with open_regular_file(config.weight_file) as file:
            content = file.read()
    except OSError as error:
        name = config.weight_file.name
        raise ZooMemberError(config.path, f"{name} cannot be read ({error.strerror})", "restore the file") from error
    return content, hashlib.sha256(content).hexdigest()


def _are_probabilities(outputs: Tensor) -> bool:
    sums = outputs.sum(dim=1)
    return (
        outputs.shape[1] > 1 and bool((outputs >= 0).all()) and torch.allclose(sums, torch.ones_like(sums), atol=1e-4)
    )


def _as_member(network: nn.Module, config: MemberConfig, entry: ManifestMember) -> nn.Module | Predicts:
    """The adapted network; a member that only predicts where gradients do not reach the images."""
    reason, size = "", config.preprocessing.size
    images = torch.randn(2, 3, size, size, generator=generator(0, "pinned code", "comparison"))
    for candidate in (network, OneByOne(network)):
        adapted = adapt_network(
            candidate,
            outputs=entry.output,
            size=entry.input_size,
            channels=entry.channels,
            channels_last=entry.layout == "nhwc",
        )
        try:
            with torch.no_grad():
                found = rows(adapted(images), len(images))
        except Exception as error:  # it takes one image only, or something else altogether
            reason = " ".join(str(error).split())[:300]
            continue
        if found.shape[1] != len(config.labels):
            reason = f"it has {found.shape[1]} outputs for {len(config.labels)} labels"
            continue
        if entry.output == "logits" and _are_probabilities(found):
            reason = "its outputs are probabilities (from 0 to 1, with sum 1), its entry says logits"
            raise ZooMemberError(config.path, reason, "state `output: softmax` in its entry in zoo.yaml")
        try:
            require_gradient(adapted, images)
        except (ForeignNetworkError, RuntimeError) as error:
            why = f"it only predicts: {' '.join(str(error).split())[:200]}"
            source = str(config.path)
            return BlackBoxClassifier(adapted, config.labels, config.preprocessing, source, reason=why)
        return adapted
    raise ZooMemberError(
        config.path, f"it cannot classify images of {size} x {size} pixels ({reason})", "correct its entry in zoo.yaml"
    )

"""What learners and classifiers share: saving to a folder with a model card, and the Hugging Face Hub."""

from __future__ import annotations

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from torch import Tensor

from dfml.errors import LearnerError
from dfml.files import atomic_write, tensors_digest
from dfml.learners.model_card import model_card
from dfml.learners.saving import CONFIG, WEIGHTS, write_pretrained

CARD = "README.md"


class Shareable(ABC):
    """Something with a `config.json` and a `model.safetensors`, that can be given to others.

    Attributes:
        provenance: Where it comes from, as plain values, which are saved with it. Of a learner: `method`, and `members`
            of the zoo with their SHA-256 digests. Of a classifier: these as far as its learner knows them, the
            `learner`, the number of `support` images per class, and the `calibration`.
    """

    kind: ClassVar[str]
    provenance: Mapping[str, Any] = MappingProxyType({})

    @abstractmethod
    def get_config(self) -> dict[str, Any]:
        """Return everything but the tensors, as values that JSON can hold."""

    @abstractmethod
    def state_dict(self) -> dict[str, Tensor]:
        """Return the tensors."""

    def sharing_problem(self) -> str | None:
        """Reason why the folder alone is not enough on another machine; None, if it is."""
        return None

    def describe(self) -> dict[str, Any]:
        """What it is and where it comes from, for metadata and model cards.

        Returns:
            `version` of dfml, `kind`, `weights_sha256` (of the `model.safetensors` that `save_pretrained` writes; None
            if it writes none), and the entries of `provenance`.
        """
        tensors = self.state_dict()
        digest = tensors_digest(tensors) if tensors else None
        return {"version": version("dfml"), "kind": self.kind, "weights_sha256": digest, **self.provenance}

    def model_card(self, results: Mapping[str, str] | None = None) -> str:
        """Write the model card: what it is, the members of its zoo, protocol, results, limits, and how to cite.

        Args:
            results: Accuracy by task, such as `{"CIFAR-FS test, 5-way 5-shot": "68.1 +- 0.8 %"}`; None: the card says
                that none is recorded.
        """
        return model_card(self.get_config(), self.describe(), results)

    def save_pretrained(self, folder: str | Path, *, results: Mapping[str, str] | None = None) -> None:
        """Write `config.json`, `model.safetensors` and, unless there is one, a `README.md` (model card) to a folder.

        The first two are replaced once both new ones are complete, so an interrupted save leaves the old ones.

        Args:
            folder: The folder; it is created if it does not exist. Other files in it stay.
            results: See `model_card`.

        Raises:
            OSError: If the folder cannot be written.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        provenance = {"provenance": dict(self.provenance)} if self.provenance else {}
        write_pretrained(folder, {**self.get_config(), **provenance}, self.state_dict())
        if not (folder / CARD).exists():
            atomic_write(folder / CARD, self.model_card(results))

    def push_to_hub(
        self,
        repo_id: str,
        *,
        results: Mapping[str, str] | None = None,
        private: bool | None = None,
        token: str | None = None,
        revision: str | None = None,
        commit_message: str = "Upload with dfml",
        create_pr: bool = False,
    ) -> str:
        """Upload what `save_pretrained` writes to the Hugging Face Hub.

        Args:
            repo_id: Name there, such as "me/my-classifier"; it is created if it does not exist.
            results: See `model_card`.
            private: Whether a new repository is private; None: the account's default.
            token: Token of the account; None: the one of `hf auth login`.
            revision: Branch; None: `main`.
            commit_message: Message of the upload.
            create_pr: Whether to open a pull request instead of writing to the branch.

        Returns:
            Address of the upload.

        Raises:
            LearnerError: If the folder would not be enough on another machine, as with a zoo embedding, which holds
                paths of its members.
        """
        if problem := self.sharing_problem():
            raise LearnerError(problem)
        from huggingface_hub import HfApi

        api = HfApi(token=token)
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, results=results)
            repository = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
            uploaded = api.upload_folder(
                repo_id=repository,
                folder_path=folder,
                revision=revision,
                commit_message=commit_message,
                create_pr=create_pr,
            )
        return str(uploaded)


def local_folder(
    name: str | Path, revision: str | None = None, token: str | None = None, local_files_only: bool = False
) -> Path:
    """Folder of a saved learner or classifier; one on the Hugging Face Hub is downloaded to its cache.

    Args:
        name: A folder, or OWNER/NAME on the Hub.
        revision: Branch, tag or commit on the Hub; None: the main branch.
        token: Token of the account; None: the one of `hf auth login`.
        local_files_only: Use what is in the cache, without a connection.

    Raises:
        LearnerError: If it is neither a folder nor can be downloaded.
    """
    folder = Path(name)
    parts = str(name).split("/")
    if folder.exists() or isinstance(name, Path) or len(parts) != 2 or not all(parts) or parts[0] in (".", "..", "~"):
        return folder
    import huggingface_hub

    try:
        found = huggingface_hub.snapshot_download(
            str(name),
            revision=revision,
            token=token,
            local_files_only=local_files_only,
            allow_patterns=[CONFIG, WEIGHTS, CARD],
        )
    except Exception as error:  # the client raises errors of several packages
        reason = " ".join(str(error).split())
        raise LearnerError(
            f"there is no folder {name}, and it cannot be downloaded from the Hugging Face Hub ({reason}); check the "
            "name, or the connection"
        ) from error
    return Path(found)

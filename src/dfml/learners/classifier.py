"""`FewShotClassifier`: what a learner returns for a support set."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dfml.errors import LearnerError
from dfml.files import FORMAT_VERSION
from dfml.image_inputs import ImageBatch, Images
from dfml.learners.saving import (
    add_kind,
    build_pretrained,
    find_kind,
    read_pretrained,
    what_is_saved,
)
from dfml.learners.sharing import Shareable, local_folder
from dfml.zoo.pretrained import Preprocessing

if TYPE_CHECKING:
    from dfml.export.formats import ExportFormat


class FewShotClassifier(Shareable):
    """Classifier of the classes of one support set, from `MetaLearner.adapt` or `FewShotClassifier.from_pretrained`.

    A subclass defines a class attribute `kind` (its name in `config.json`), `scores`, `get_config`, `state_dict` and
    `from_config`.

    Attributes:
        labels: Class names, in the order of the columns of `predict_proba`.
        preprocessing: Image size, mean and standard deviation of the network's input.
        device: Device on which the classifier computes; images are moved there.
    """

    kind: ClassVar[str]
    _kinds: ClassVar[dict[str, type[FewShotClassifier]]] = {}

    labels: tuple[str, ...]
    preprocessing: Preprocessing
    device: torch.device = torch.device("cpu")

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        add_kind(FewShotClassifier._kinds, cls)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(labels={self.labels!r}, size={self.preprocessing.size})"

    @abstractmethod
    def scores(self, images: Float[Tensor, "images 3 size size"]) -> Float[Tensor, "images labels"]:
        """Compute logits of images in [0, 1] that have the size in `preprocessing` and are on the right device."""

    def get_config(self) -> dict[str, Any]:
        """Return everything but the tensors that `from_config` needs, as values that JSON can hold.

        Subclasses extend the result of `super().get_config()`, which holds `format_version`, `kind`, `labels` and
        `preprocessing`.
        """
        return {
            "format_version": FORMAT_VERSION,
            "kind": self.kind,
            "labels": list(self.labels),
            "preprocessing": self.preprocessing.as_dict(),
        }

    @abstractmethod
    def state_dict(self) -> dict[str, Tensor]:
        """Return the tensors that `from_config` needs."""

    @classmethod
    @abstractmethod
    def from_config(cls, config: dict[str, Any], state_dict: dict[str, Tensor]) -> FewShotClassifier:
        """Build the classifier whose `get_config()` and `state_dict()` are given, on the CPU.

        Raises:
            LearnerError: If tensors are missing or have other shapes; see `require_tensors`.
        """

    def inference_module(self) -> nn.Module:
        """Module from images in [0, 1], of the size in `preprocessing`, to logits: what `export` traces.

        By default it calls `scores`. A subclass overrides it where another form runs faster, or where no graph can hold
        what `scores` does.

        Raises:
            LearnerError: If no graph can hold what the classifier computes; one line says why.
        """
        return _Scores(self)

    def export(self, path: str | Path, *, to: ExportFormat = "onnx") -> None:
        """Write one file that other programs run: bytes of images of any size in, probabilities of the labels out.

        The input `images` is (images, height, width, 3), RGB bytes, as decoders return them; the output `probabilities`
        is (images, labels). Resizing and normalisation are inside. Labels and origin are in the metadata `labels` and
        `dfml` (JSON). `dfml.export.quantisation.quantise` makes an ONNX file of 8-bit integers from it.

        Args:
            path: Name of the file; an existing one is replaced.
            to: `onnx` (extra `onnx`), or `pt2`, a program of `torch.export` for PyTorch.

        Raises:
            LearnerError: If the classifier cannot be exported; one line says why.
            UsageError: If the extra `onnx` is missing.
            OSError: If the file cannot be written.
        """
        from dfml.export.formats import require_onnx, write_program
        from dfml.export.graph import trace

        if to == "onnx":
            require_onnx()
        if self.device.type != "cpu":
            raise LearnerError(f"expected a classifier on the CPU, found {self.device}; save it, and load it again")
        about = {**self.describe(), "image_size": self.preprocessing.size}
        program = trace(self.inference_module(), self.preprocessing.size)
        write_program(program, Path(path), to, {"labels": list(self.labels), "dfml": about})

    @torch.no_grad()
    def predict_proba(self, images: Images, *, batch_size: int = 256) -> Float[Tensor, "*images labels"]:
        """Predict the probability of every class for every image.

        Args:
            images: One image: a path, an image of Pillow, an array `(height, width, 3)` or, grey, `(height, width)`, or
                a tensor `(3, height, width)`. Or several: a sequence of these, of any sizes, an array `(images, height,
                width, 3)`, or a tensor `(images, 3, height, width)`. Arrays and tensors, on any device, hold bytes or
                floats in [0, 1]. Another size than the classifier's is resized (short side, bilinear) and cropped to
                the centre.
            batch_size: Number of images per forward pass; default 256. Images given by path are read batch by batch. It
                does not change a prediction, unless the learner follows the transductive protocol `paper`, in which
                each batch is normalised with its own statistics; see `dfml.learners.base.ProtocolName`.

        Returns:
            Probabilities, `(images, classes)`, or `(classes,)` for one image; every row sums to 1. Columns are in the
            order of `labels`.

        Raises:
            DataError: If an image cannot be read, or is neither bytes nor floats in [0, 1].
        """
        batch = ImageBatch(images)
        parts = batch.batches(batch_size, self.preprocessing.size)
        rows = torch.cat([self.scores(part.to(self.device)).softmax(dim=1) for part in parts])
        return rows[0] if batch.single else rows

    def predict(self, images: Images, *, batch_size: int = 256) -> str | list[str]:
        """Predict the most probable class of every image.

        Args:
            images: One image or several, as for `predict_proba`.
            batch_size: Number of images per forward pass; default 256.

        Returns:
            Name of the class, one of `labels`, for one image; a list of names for several. Indices into `labels` are
            `predict_proba(images).argmax(dim=-1)`.

        Raises:
            DataError: If an image cannot be read, or is neither bytes nor floats in [0, 1].
        """
        indices = self.predict_proba(images, batch_size=batch_size).argmax(dim=-1).tolist()
        return [self.labels[index] for index in indices] if isinstance(indices, list) else self.labels[indices]

    @staticmethod
    def from_pretrained(
        name: str | Path, *, revision: str | None = None, token: str | None = None, local_files_only: bool = False
    ) -> FewShotClassifier:
        """Load a classifier that `save_pretrained` wrote, on the CPU, of whatever kind it is.

        Args:
            name: Folder, or OWNER/NAME on the Hugging Face Hub.
            revision: Branch, tag or commit on the Hub; None: the main branch.
            token: Token of the account; None: the one of `hf auth login`.
            local_files_only: Use what has been downloaded from the Hub before, without a connection.

        Raises:
            LearnerError: If there is no classifier, or an incomplete one, or one of another format version.
        """
        folder = local_folder(name, revision, token, local_files_only)
        config, tensors = read_pretrained(folder, "classifier (from `dfml adapt`)")
        kind = find_kind(FewShotClassifier._kinds, config["kind"])
        if kind is None:
            if what_is_saved(config) == "learner":
                raise LearnerError(
                    f"expected a classifier at {folder}, found a learner; adapt it first: `dfml adapt {folder} "
                    "SUPPORT_DIR --out CLASSIFIER`"
                )
            raise LearnerError(
                f"expected a few-shot classifier at {folder}, found the kind {config['kind']!r}; create a classifier "
                "with `dfml adapt`, or install the package that defines this kind"
            )
        classifier: FewShotClassifier = build_pretrained(kind.from_config, folder, config, tensors)
        classifier.provenance = config.get("provenance", {})
        return classifier


class _Scores(nn.Module):
    """`FewShotClassifier.scores` as a module."""

    def __init__(self, classifier: FewShotClassifier) -> None:
        super().__init__()
        self._classifier = classifier

    def forward(self, images: Float[Tensor, "images 3 size size"]) -> Float[Tensor, "images labels"]:
        return self._classifier.scores(images)


def select_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Select the tensors whose names begin with a prefix, and remove the prefix from the names."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def read_preprocessing(values: dict[str, Any]) -> Preprocessing:
    """Build a `Preprocessing` from the plain values of a `config.json` (the inverse of `Preprocessing.as_dict`)."""
    interpolation = values.get("interpolation", "bilinear")
    return Preprocessing(values["size"], tuple(values["mean"]), tuple(values["std"]), interpolation)

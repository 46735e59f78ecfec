"""`MetaLearner`: the base of everything that turns a support set into a classifier."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from dfml.errors import LearnerError
from dfml.files import FORMAT_VERSION
from dfml.image_inputs import ImageBatch, Images
from dfml.learners.classifier import FewShotClassifier
from dfml.learners.saving import (
    add_kind,
    build_pretrained,
    find_kind,
    read_pretrained,
    what_is_saved,
)
from dfml.learners.sharing import Shareable, local_folder
from dfml.zoo.pretrained import Preprocessing

ProtocolName = Literal["strict", "paper"]
"""Batch-norm rule of training and test. `strict`: inductive, query images are normalised with statistics of the support
set. `paper`: transductive, query images are normalised with their own statistics."""

LearnerProtocol = Literal["strict", "paper", "any"]
"""`ProtocolName`, or `any` for a learner whose predictions do not depend on the rule."""


class MetaLearner(Shareable):
    """Few-shot learner: adapts to a support set, saves and loads like any model of the Hugging Face Hub.

    A subclass defines a class attribute `kind` (its name in `config.json`), `fit_support`, `get_config`, `state_dict`,
    `from_config` and `to`. Its `__init__` sets the instance attributes `name`, `way`, `protocol` and `preprocessing`,
    and its `to` sets `device`. `save_pretrained(folder)` writes `config.json`, where the learner has weights
    `model.safetensors`, and a model card `README.md`; `from_pretrained(folder_or_hub_id)` returns a learner of the kind
    that was saved, whatever class it is called on; `push_to_hub(repo_id)` uploads the learner.

    Attributes:
        name: Name in tables and results.
        way: Number of classes per episode that the learner was meta-trained for; a learner without training episodes
            only records it. `adapt` accepts any number of classes.
        protocol: `strict`: the prediction for one image never depends on the other images of a batch. `paper`: it does,
            because batch-norm normalises query images with their own statistics, as in the released code of PURER and
            FREE. `any`: the learner uses no batch statistics.
        preprocessing: Image size, mean and standard deviation of the network's input.
        device: Device of the weights, on which the learner computes; default the CPU.
    """

    kind: ClassVar[str]
    _kinds: ClassVar[dict[str, type[MetaLearner]]] = {}

    name: str
    way: int
    protocol: LearnerProtocol
    preprocessing: Preprocessing
    device: torch.device = torch.device("cpu")

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        add_kind(MetaLearner._kinds, cls)

    def __repr__(self) -> str:
        size = self.preprocessing.size
        return f"{type(self).__name__}(name={self.name!r}, way={self.way}, protocol={self.protocol!r}, size={size})"

    @abstractmethod
    def fit_support(
        self, images: Float[Tensor, "support 3 size size"], labels: Int64[Tensor, "support"], names: tuple[str, ...]
    ) -> FewShotClassifier:
        """Adapt to a support set that `adapt` has checked, resized and moved to the learner's device.

        Args:
            images: Floats in [0, 1], of the size in `preprocessing`.
            labels: Class indices from 0 to `len(names) - 1`; every class has at least one image.
            names: One name per class.
        """

    def get_config(self) -> dict[str, Any]:
        """Return everything but the tensors that `from_config` needs, as values that JSON can hold.

        Subclasses extend the result of `super().get_config()`, which holds `format_version`, `kind`, `name`, `way`,
        `protocol` and `preprocessing`.
        """
        return {
            "format_version": FORMAT_VERSION,
            "kind": self.kind,
            "name": self.name,
            "way": self.way,
            "protocol": self.protocol,
            "preprocessing": self.preprocessing.as_dict(),
        }

    @abstractmethod
    def state_dict(self) -> dict[str, Tensor]:
        """Return the tensors that `from_config` needs; empty for a learner without weights of its own."""

    def stored_bytes(self) -> int:
        """Size in bytes of all tensors that must be kept to use the learner; overridden where some are elsewhere."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.state_dict().values())

    @classmethod
    @abstractmethod
    def from_config(cls, config: dict[str, Any], state_dict: dict[str, Tensor]) -> MetaLearner:
        """Build the learner whose `get_config()` and `state_dict()` are given, on the CPU.

        Raises:
            LearnerError: If tensors are missing or have other shapes, or files outside of the learner's folder that the
                config names by path, such as the members of a zoo, have moved or changed.
        """

    @abstractmethod
    def to(self, device: torch.device) -> MetaLearner:
        """Move the learner to a device, in place, and return it."""

    @property
    def calibration(self) -> Calibration | None:
        """Second adaptation step that belongs to the learner and is saved with it, such as ICFIL; None: none."""
        return None

    def adapt(
        self,
        images: Images | Mapping[str, Images],
        labels: Labels | None = None,
        names: tuple[str, ...] | None = None,
        *,
        calibration: Calibration | Literal["own"] | None = "own",
    ) -> FewShotClassifier:
        """Adapt to a support set of any number of classes; the learner itself does not change.

        Args:
            images: Images of every class, `{"cat": ["a.jpg", "b.jpg"], "dog": [...]}`: paths, images of Pillow, arrays
                or tensors (see `FewShotClassifier.predict_proba`). Or all images together, with their `labels`. Another
                size than the learner's is resized (short side, bilinear) and cropped to the centre. Classes may have
                different numbers of images, but each has at least one.
            labels: Class of every image, where `images` names none: class names, or indices from 0 to the number of
                classes minus 1, as integers or a tensor `(support,)`; in any order.
            names: Class names in the order of the indices, where `labels` are indices; default `("0", "1", ...)`.
            calibration: Step that fine-tunes the adapted classifier, such as `dfml.ICFIL()`. `own` (default): the one
                that belongs to the learner, if there is one; None: none.

        Returns:
            Classifier of the support set's classes, on the learner's device. Names that `images` or `labels` give are
            in the order of `images`, or sorted.

        Raises:
            LearnerError: If the support set is empty, labels and images differ in number, labels leave out a class,
                `names` has another length, or the calibration does not support this kind of learner.
            DataError: If an image cannot be read, or is neither bytes nor floats in [0, 1].
        """
        pixels, labels, names = read_support_set(images, labels, names, self.preprocessing.size)
        count = int(labels.max()) + 1
        chosen = chosen_calibration(self, calibration)
        names = names or tuple(str(index) for index in range(count))
        support = pixels.to(self.device), labels.to(self.device)
        classifier = self.fit_support(*support, names)
        if chosen:
            classifier = chosen.calibrate(self, [classifier], [support])[0]
        classifier.provenance = {
            "learner": {"name": self.name, "kind": self.kind, "protocol": self.protocol},
            **self.provenance,
            "support": dict(zip(names, labels.bincount().tolist(), strict=True)),
            **({"calibration": chosen.name} if chosen else {}),
        }
        return classifier

    @staticmethod
    def from_pretrained(
        name: str | Path, *, revision: str | None = None, token: str | None = None, local_files_only: bool = False
    ) -> MetaLearner:
        """Load a learner that `save_pretrained` wrote, on the CPU, of whatever kind it is.

        Args:
            name: Folder, or OWNER/NAME on the Hugging Face Hub.
            revision: Branch, tag or commit on the Hub; None: the main branch.
            token: Token of the account; None: the one of `hf auth login`.
            local_files_only: Use what has been downloaded from the Hub before, without a connection.

        Raises:
            LearnerError: If there is no learner, or an incomplete one, or one of another format version.
        """
        folder = local_folder(name, revision, token, local_files_only)
        config, tensors = read_pretrained(folder, "learner (from `dfml train`)")
        kind = find_kind(MetaLearner._kinds, config["kind"])
        if kind is None:
            if what_is_saved(config) == "classifier":
                raise LearnerError(
                    f"expected a learner at {folder}, found a classifier, which is adapted already; classify images "
                    f"with it: `dfml predict {folder} IMAGE...`"
                )
            raise LearnerError(
                f"{folder} holds a learner of the kind {config['kind']!r}, which neither dfml nor an installed package "
                "defines; declare the module that defines it as an entry point of dfml.learners (docs/new-method.md)"
            )
        learner: MetaLearner = build_pretrained(kind.from_config, folder, config, tensors)
        learner.provenance = config.get("provenance", {})
        return learner


Labels = Tensor | Sequence[int] | Sequence[str]
"""Labels of images: class names, or indices that count from 0."""


def read_support_set(
    images: Images | Mapping[str, Images], labels: Labels | None, names: tuple[str, ...] | None, size: int
) -> tuple[Float[Tensor, "support 3 size size"], Int64[Tensor, "support"], tuple[str, ...] | None]:
    """Read and check the arguments of `MetaLearner.adapt`.

    Returns:
        Floats in [0, 1] of the given size, the class index of each, and the class names; None if none are given.

    Raises:
        LearnerError: See `MetaLearner.adapt`.
        DataError: See `MetaLearner.adapt`.
    """
    if isinstance(images, Mapping):
        if labels is not None or names is not None:
            raise LearnerError("expected images by class name, or labels and names beside the images, found both")
        parts = [ImageBatch(some).read(size) for some in images.values()]
        empty = [name for name, part in zip(images, parts, strict=True) if not len(part)]
        if empty or not parts:
            raise LearnerError(f"expected images of every class, found none of {empty[0] if empty else 'any'}")
        indices = torch.arange(len(parts)).repeat_interleave(torch.tensor([len(part) for part in parts]))
        return torch.cat(parts), indices, tuple(str(name) for name in images)
    if labels is None:
        raise LearnerError("expected labels of the images, or images by class name, found neither")
    if not isinstance(labels, Tensor):
        if all(isinstance(label, str) for label in labels) and names is None:
            names = tuple(sorted({str(label) for label in labels}))
            labels = [names.index(str(label)) for label in labels]
        labels = torch.as_tensor(labels, dtype=torch.int64)
    batch = ImageBatch(images)
    if len(batch) == 0 or len(batch) != len(labels):
        raise LearnerError(
            f"expected a support set with one label per image, found {len(batch)} images and {len(labels)} labels"
        )
    count = int(labels.max()) + 1
    empty_classes = sorted(set(range(count)) - set(labels.tolist()))
    if int(labels.min()) < 0 or empty_classes:
        problem = f"no image of class {empty_classes[0]}" if empty_classes else f"label {int(labels.min())}"
        raise LearnerError(f"expected support labels that count from 0 without gaps, found {problem}")
    if names is not None and len(names) != count:
        raise LearnerError(f"expected one name for each of the {count} support classes, found {len(names)} names")
    return batch.read(size), labels, names


class Calibration(ABC):
    """Second adaptation step: changes the weights of an adapted classifier, by means of its support set alone.

    It is not the calibration of probabilities. The word is that of PURER's ICFIL, "inversion calibration following
    inner loop" (Hu et al., CVPR 2023, arXiv 2303.11183).

    Attributes:
        name: Name on the command line; added to the learner's name in results.
    """

    name: ClassVar[str]

    @abstractmethod
    def check(self, learner: MetaLearner) -> None:
        """Check that the calibration supports this kind of learner.

        Raises:
            LearnerError: If it does not.
        """

    @abstractmethod
    def calibrate(
        self,
        learner: MetaLearner,
        classifiers: Sequence[FewShotClassifier],
        supports: Sequence[tuple[Float[Tensor, "_support 3 size size"], Int64[Tensor, "_support"]]],
    ) -> list[FewShotClassifier]:
        """Calibrate the classifiers of several independent tasks in one call.

        Args:
            learner: Learner that adapted them.
            classifiers: One classifier per task; they are not changed.
            supports: For every task, the support images (floats in [0, 1], of the learner's size, on its device) and
                the labels that its classifier was adapted to.

        Returns:
            One calibrated classifier per task, in order.

        Raises:
            LearnerError: If the calibration does not support this kind of learner.
        """


def chosen_calibration(learner: MetaLearner, calibration: Calibration | Literal["own"] | None) -> Calibration | None:
    """The calibration that `MetaLearner.adapt` applies for its argument `calibration`.

    Raises:
        LearnerError: If it does not support this kind of learner.
    """
    chosen = learner.calibration if calibration == "own" else calibration
    if chosen:
        chosen.check(learner)
    return chosen

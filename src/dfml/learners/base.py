"""`MetaLearner`: anything that turns a support set into a classifier."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from huggingface_hub import ModelHubMixin
from jaxtyping import Float, Int64
from torch import Tensor

from dfml.errors import LearnerError
from dfml.files import save_tensors
from dfml.images import resize_and_crop
from dfml.learners.classifier import (
    CONFIG,
    WEIGHTS,
    FewShotClassifier,
    add_kind,
    find_kind,
    read_preprocessing,
    read_pretrained,
)
from dfml.zoo.pretrained import Preprocessing

ProtocolName = Literal["strict", "paper"]

LearnerProtocol = Literal["strict", "paper", "any"]


class MetaLearner(ABC, ModelHubMixin, library_name="dfml", tags=["few-shot-learning", "data-free-meta-learning"]):
    """Adapts to a support set; saves and loads like any model of the Hugging Face Hub.

    Attributes:
        name: What it is called in tables.
        way: Classes per episode that it was trained for; it adapts to any number.
        protocol: `strict`: an answer never depends on the other images of a batch. `paper`: it does (batch-norm
            normalises query images by each other), as in the released code of PURER and FREE. `any`: no batch-norm
            rule applies.
        preprocessing: Of its input.
        device: Where it computes.
    """

    kind: ClassVar[str]
    _kinds: ClassVar[dict[str, type[MetaLearner]]] = {}

    name: str
    way: int
    protocol: LearnerProtocol
    preprocessing: Preprocessing
    device: torch.device = torch.device("cpu")

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        add_kind(MetaLearner._kinds, cls)

    @abstractmethod
    def fit_support(
        self, images: Float[Tensor, "support 3 size size"], labels: Int64[Tensor, "support"], names: tuple[str, ...]
    ) -> FewShotClassifier:
        """Adapt to images of the right size whose labels count from 0; every class has at least one."""

    @abstractmethod
    def contents(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What it takes to rebuild the learner: plain values and tensors."""

    @classmethod
    @abstractmethod
    def rebuild(cls, config: dict[str, Any], tensors: dict[str, Tensor]) -> MetaLearner:
        """The inverse of `contents`; `config` also holds `name`, `way`, `protocol` and `preprocessing`."""

    @abstractmethod
    def to(self, device: torch.device) -> MetaLearner:
        """Move to a device; returns itself."""

    def adapt(
        self,
        images: Float[Tensor, "support 3 height width"],
        labels: Int64[Tensor, "labels"],
        names: tuple[str, ...] | None = None,
        *,
        calibration: Calibration | None = None,
    ) -> FewShotClassifier:
        """Adapt to a support set.

        Args:
            images: In [0, 1], of any size; classes may have unequal numbers.
            labels: Count from 0; every class up to the largest has at least one image.
            names: One a class; numbers unless given.
            calibration: What the classifier goes through afterwards (`dfml.ICFIL()`); None: nothing.

        Returns:
            A classifier of these classes. The learner itself does not change.

        Raises:
            LearnerError: If the support set is empty, labels and images differ in number, a class has no image, or the
                calibration is not for this kind of learner.
            DataError: If the images are bytes instead of floats in [0, 1].
        """
        if len(images) == 0 or len(images) != len(labels):
            raise LearnerError(
                f"a support set needs one label an image, found {len(images)} images, {len(labels)} labels"
            )
        count = int(labels.max()) + 1
        empty = sorted(set(range(count)) - set(labels.tolist()))
        if int(labels.min()) < 0 or empty:
            raise LearnerError(
                f"support labels must count from 0 without gaps, but class {empty[:1] or 'below 0'} is odd"
            )
        if names is not None and len(names) != count:
            raise LearnerError(f"the support set has {count} classes, but {len(names)} names were given")
        if calibration:
            calibration.check(self)
        support = resize_and_crop(images, self.preprocessing.size).to(self.device), labels.to(self.device)
        classifier = self.fit_support(*support, names or tuple(str(index) for index in range(count)))
        return calibration.calibrate(self, [classifier], [support])[0] if calibration else classifier

    def description(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What `restored` takes: all that is saved."""
        config, tensors = self.contents()
        about = {
            "kind": self.kind,
            "name": self.name,
            "way": self.way,
            "protocol": self.protocol,
            "preprocessing": self.preprocessing.as_dict(),
            **config,
        }
        return about, tensors

    @classmethod
    def restored(cls, about: dict[str, Any], tensors: dict[str, Tensor]) -> MetaLearner:
        """The inverse of `description`."""
        learner = cls.rebuild(about, tensors)
        learner.name, learner.way, learner.protocol = about["name"], about["way"], about["protocol"]
        learner.preprocessing = read_preprocessing(about["preprocessing"])
        return learner

    def _save_pretrained(self, save_directory: Path) -> None:
        about, tensors = self.description()
        if tensors:
            save_tensors(tensors, save_directory / WEIGHTS)
        (save_directory / CONFIG).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def _from_pretrained(
        cls, *, model_id: str, revision: str | None = None, cache_dir: str | Path | None = None, **options: Any
    ) -> MetaLearner:
        folder = Path(model_id)
        if not folder.is_dir():
            from huggingface_hub import snapshot_download

            keep = {k: v for k, v in options.items() if k in ("force_download", "token", "local_files_only")}
            folder = Path(snapshot_download(model_id, revision=revision, cache_dir=cache_dir, **keep))
        config, tensors = read_pretrained(folder, "learner (from `dfml train`)")
        kind = find_kind(MetaLearner._kinds, config.get("kind", ""))
        if kind is None:
            raise LearnerError(
                f"{folder} holds a learner of the kind {config.get('kind')!r}, which is not dfml's own and which no "
                "installed package announces; announce the module that defines it as an entry point of dfml.learners "
                "(docs/new-method.md)"
            )
        return kind.restored(config, tensors)


class Calibration(ABC):
    """What improves an adapted classifier, from nothing but the support set that it was adapted to.

    Attributes:
        name: On the command line.
    """

    name: ClassVar[str]

    @abstractmethod
    def check(self, learner: MetaLearner) -> None:
        """Whether it is for this kind of learner.

        Raises:
            LearnerError: If it is not.
        """

    @abstractmethod
    def calibrate(
        self,
        learner: MetaLearner,
        classifiers: Sequence[FewShotClassifier],
        supports: Sequence[tuple[Float[Tensor, "_support 3 size size"], Int64[Tensor, "_support"]]],
    ) -> list[FewShotClassifier]:
        """Calibrate some tasks together; none depends on another.

        Args:
            learner: Who adapted.
            classifiers: One a task; they are not changed.
            supports: For each the images in [0, 1], of the learner's size, and labels that it was adapted to.
        """

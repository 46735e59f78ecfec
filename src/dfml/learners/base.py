"""`MetaLearner`: the base of everything that turns a support set into a classifier."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from huggingface_hub import ModelCard, ModelHubMixin
from jaxtyping import Float, Int64
from torch import Tensor

from dfml.errors import LearnerError
from dfml.files import FORMAT_VERSION, atomic_write
from dfml.images import resize_and_crop
from dfml.learners.classifier import FewShotClassifier
from dfml.learners.saving import (
    add_kind,
    build_pretrained,
    find_kind,
    read_pretrained,
    what_is_saved,
    write_pretrained,
)
from dfml.zoo.pretrained import Preprocessing

ProtocolName = Literal["strict", "paper"]
"""Batch-norm rule of training and test. `strict`: inductive, query images are normalised with statistics of the support
set. `paper`: transductive, query images are normalised with their own statistics."""

LearnerProtocol = Literal["strict", "paper", "any"]
"""`ProtocolName`, or `any` for a learner whose predictions do not depend on the rule."""


_MODEL_CARD = """---
{{ card_data }}
---

# {{ name }}

Few-shot image classifier: it adapts to new classes from a few labelled images of each, and was made from pre-trained
classifiers without their training images.

| | |
|---|---|
| kind of learner | `{{ kind }}` |
| classes per training episode | {{ way }}; it adapts to any number |
| evaluation protocol | `{{ protocol }}` |
| image size | {{ size }} x {{ size }} pixels; other sizes are resized |

```python
import dfml

learner = dfml.MetaLearner.from_pretrained("...")  # this folder, or its name on the Hugging Face Hub
images, labels, names = dfml.read_support("support/", learner.preprocessing.size)  # support/CLASS/IMAGE
classifier = learner.adapt(images, labels, names)
```
"""

_MODEL_CARD_FILE = "README.md"


class MetaLearner(
    ABC,
    ModelHubMixin,
    library_name="dfml",
    tags=["few-shot-learning", "data-free-meta-learning"],
    model_card_template=_MODEL_CARD,
):
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

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        add_kind(MetaLearner._kinds, cls)

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

    def adapt(
        self,
        images: Float[Tensor, "support 3 height width"],
        labels: Int64[Tensor, "labels"],
        names: tuple[str, ...] | None = None,
        *,
        calibration: Calibration | None = None,
    ) -> FewShotClassifier:
        """Adapt to a support set of any number of classes; the learner itself does not change.

        Args:
            images: Support images, floats in [0, 1], `(support, 3, height, width)`. Another size than the learner's is
                resized (short side, bilinear) and cropped to the centre.
            labels: Class index of every image, `(support,)`: 0 to the number of classes minus 1, in any order. Classes
                may have different numbers of images, but each has at least one.
            names: Class names, in the order of the indices; default `("0", "1", ...)`.
            calibration: Step that fine-tunes the adapted classifier, such as `dfml.ICFIL()`; default None: none.

        Returns:
            Classifier of the support set's classes, on the learner's device.

        Raises:
            LearnerError: If the support set is empty, labels and images differ in number, labels leave out a class,
                `names` has another length, or the calibration does not support this kind of learner.
            DataError: If the images are integers (bytes) instead of floats in [0, 1].
        """
        if len(images) == 0 or len(images) != len(labels):
            raise LearnerError(
                f"expected a support set with one label per image, found {len(images)} images and {len(labels)} labels"
            )
        count = int(labels.max()) + 1
        empty = sorted(set(range(count)) - set(labels.tolist()))
        if int(labels.min()) < 0 or empty:
            problem = f"no image of class {empty[0]}" if empty else f"label {int(labels.min())}"
            raise LearnerError(f"expected support labels that count from 0 without gaps, found {problem}")
        if names is not None and len(names) != count:
            raise LearnerError(f"expected one name for each of the {count} support classes, found {len(names)} names")
        if calibration:
            calibration.check(self)
        support = resize_and_crop(images, self.preprocessing.size).to(self.device), labels.to(self.device)
        classifier = self.fit_support(*support, names or tuple(str(index) for index in range(count)))
        return calibration.calibrate(self, [classifier], [support])[0] if calibration else classifier

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        repo_id: str | None = None,
        push_to_hub: bool = False,
        model_card_kwargs: dict[str, Any] | None = None,
        **push_to_hub_kwargs: Any,
    ) -> str | None:
        """Write `config.json`, `model.safetensors` and, unless there is one, a `README.md` (model card) to a folder.

        Files of these names are replaced once the new ones are complete, so an interrupted save leaves the old ones;
        the method of `ModelHubMixin` would delete the old config first.

        Args:
            save_directory: The folder; it is created if it does not exist. Other files in it stay.
            repo_id: Name on the Hugging Face Hub; default None: the name of the folder.
            push_to_hub: Whether to upload the learner, too; default False.
            model_card_kwargs: Further values for the model card.
            **push_to_hub_kwargs: Further arguments of `push_to_hub`.

        Returns:
            Address of the upload; None without one.

        Raises:
            OSError: If the folder cannot be written.
        """
        push_to_hub_kwargs.pop("config", None)  # `ModelHubMixin` passes one; a learner writes its own
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        write_pretrained(folder, self.get_config(), self.state_dict())
        card = folder / _MODEL_CARD_FILE
        if not card.exists():
            atomic_write(card, str(self.generate_model_card(**(model_card_kwargs or {}))))
        if not push_to_hub:
            return None
        return str(
            self.push_to_hub(repo_id=repo_id or folder.name, model_card_kwargs=model_card_kwargs, **push_to_hub_kwargs)
        )

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """Create the model card of the learner, for the Hugging Face Hub; arguments are values for its template."""
        own = {
            "name": self.name,
            "kind": self.kind,
            "way": self.way,
            "protocol": self.protocol,
            "size": self.preprocessing.size,
        }
        return super().generate_model_card(*args, **{**own, **kwargs})

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
        return build_pretrained(kind.from_config, folder, config, tensors)


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

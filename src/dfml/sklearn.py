"""`FewShotClassifier` as an estimator of scikit-learn (extra `sklearn`)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from dfml.errors import UsageError

try:
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise UsageError("dfml.sklearn needs scikit-learn, which cannot be imported: install dfml[sklearn]") from error

if TYPE_CHECKING:
    from dfml.image_inputs import Images
    from dfml.learners.base import Calibration, MetaLearner


class FewShotClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Few-shot classifier for pipelines, cross-validation and searches of scikit-learn: `fit` is `MetaLearner.adapt`.

    `X` is what `MetaLearner.adapt` takes: paths, images of Pillow, arrays (height, width, 3), or one array of all. With
    `image_shape`, it may be a matrix as scikit-learn has it: one flattened image per row.

    Args:
        learner: A learner, its folder, or METHOD:ZOO, as `dfml.open_learner` takes it.
        image_shape: Shape of the image that a row of `X` holds, (height, width, 3) or, grey, (height, width); `auto`: a
            square of three channels if the number of columns allows it, else a square of one, else a line of grey
            pixels. Rows hold values from `low` to `high`, which are clipped to this range.
        low: Value of black in rows of `X`.
        high: Value of white in rows of `X`; greater than `low`.
        calibration: Calibration of the adapted classifier, such as `dfml.ICFIL()`; `own`: the one that belongs
            to the learner, if there is one; None: none.
        device: Device that the learner computes on, if it is opened here.

    Attributes:
        classes_: Labels of the classes, sorted.
        classifier_: `dfml.FewShotClassifier`, whose `labels` are the classes as texts.
        n_features_in_: Number of columns of `X` in `fit`; only where `X` was a matrix.
    """

    def __init__(
        self,
        learner: MetaLearner | str | Path | None = None,
        *,
        image_shape: tuple[int, ...] | str = "auto",
        low: float = 0.0,
        high: float = 1.0,
        calibration: Calibration | Literal["own"] | None = "own",
        device: str = "auto",
    ) -> None:
        self.learner = learner
        self.image_shape = image_shape
        self.low = low
        self.high = high
        self.calibration = calibration
        self.device = device

    def fit(self, X: Any, y: Any) -> FewShotClassifier:
        """Adapt the learner to labelled images.

        Args:
            X: Images; see the class.
            y: Label of every image: texts or integers.

        Raises:
            ValueError: If `X` or `y` has another form, or there are fewer than two classes.
            DfmlError: If the learner cannot be opened, or an image cannot be read.
        """
        if y is None:
            raise ValueError("requires y to be passed, but the target y is None")
        if _is_matrix(X):
            X, y = validate_data(self, X, y)
        else:
            y = np.asarray(y)
        check_classification_targets(y)
        self.classes_, indices = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"expected at least 2 classes, found {len(self.classes_)} class: {self.classes_[0]!r}")
        images = self._images(X)
        names = tuple(str(label) for label in self.classes_)
        adapted = self._open().adapt(images, indices.tolist(), names, calibration=self.calibration)
        self.classifier_ = adapted
        return self

    def predict_proba(self, X: Any) -> npt.NDArray[np.float64]:
        """Probabilities of the classes, (images, classes), in the order of `classes_`; rows sum to 1."""
        check_is_fitted(self)
        if _is_matrix(X) or hasattr(self, "n_features_in_"):
            X = validate_data(self, X, reset=False)
        probabilities = self.classifier_.predict_proba(self._images(X)).double().cpu().numpy()
        found: npt.NDArray[np.float64] = probabilities.reshape(-1, len(self.classes_))
        normalised: npt.NDArray[np.float64] = found / found.sum(axis=1, keepdims=True)
        return normalised

    def predict(self, X: Any) -> npt.NDArray[Any]:
        """Most probable class of every image, as in `classes_`."""
        probabilities = self.predict_proba(X)
        found: npt.NDArray[Any] = self.classes_[probabilities.argmax(axis=1)]
        return found

    def _open(self) -> MetaLearner:
        from dfml.learners.base import MetaLearner

        if isinstance(self.learner, MetaLearner):
            return self.learner
        if self.learner is None:
            raise ValueError("expected a learner, its folder or METHOD:ZOO as `learner`, found None")
        from dfml.methods.open_learner import open_learner

        return open_learner(self.learner, self.device)

    def _images(self, X: Any) -> Images:
        """Rows of a matrix as images of floats in [0, 1]; anything else stays as it is."""
        if not _is_matrix(X):
            some: Images = list(X) if isinstance(X, np.ndarray) and X.ndim == 1 else X
            return some
        rows = np.asarray(X, dtype=np.float32)
        scaled = ((rows - self.low) / (self.high - self.low)).clip(0.0, 1.0)
        images: npt.NDArray[np.float32] = scaled.reshape(len(rows), *self._shape(rows.shape[1]))
        return images if images.ndim == 4 else images[..., None]

    def _shape(self, columns: int) -> tuple[int, ...]:
        if isinstance(self.image_shape, tuple | list):
            return tuple(self.image_shape)
        for channels in (3, 1):
            side = round((columns / channels) ** 0.5)
            if side * side * channels == columns:
                return side, side, channels
        return 1, columns, 1


def _is_matrix(X: Any) -> bool:
    """Whether it is one image per row, as scikit-learn has it, and not a sequence of images."""
    from torch import Tensor

    if isinstance(X, np.ndarray):
        return X.ndim <= 2 and not _is_list_of_images(X)
    if isinstance(X, Tensor):
        return X.ndim <= 2
    if isinstance(X, list | tuple):
        first = X[0] if len(X) else None
        return first is None or isinstance(first, int | float | list | tuple)
    return hasattr(X, "__array__") or hasattr(X, "dtype") or hasattr(X, "tocsr")


def _is_list_of_images(X: npt.NDArray[Any]) -> bool:
    """Whether an array holds paths, or images of Pillow, one per entry."""
    return X.ndim == 1 and len(X) > 0 and X.dtype.kind in "USO" and not isinstance(X[0], int | float)

"""`PlaygroundSession`: classes, test images and classifier of one browser tab, without a browser."""

from __future__ import annotations

import time
import zipfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from dfml.errors import DataError, LearnerError
from dfml.files import atomic_file
from dfml.image_files import decode
from dfml.images import to_float
from dfml.learners import FewShotClassifier, MetaLearner
from dfml.playground.support_similarity import SupportSimilarity, support_similarity

MOST_CLASSES, MOST_IMAGES, MOST_TESTS = 12, 100, 24
"""Largest number of classes, of images of a class, and of test images."""

_NEAREST = 3  # support images that are shown for a test image


@dataclass(frozen=True)
class PlaygroundImage:
    """One image.

    Attributes:
        path: The uploaded file.
        pixels: What the learner sees: resized to its size, cropped to the centre.
    """

    path: Path
    pixels: UInt8[Tensor, "3 size size"]

    @property
    def name(self) -> str:
        """Name of the file."""
        return self.path.name


@dataclass
class PlaygroundClass:
    """One class: its name, as it was typed, and its support images."""

    name: str
    images: list[PlaygroundImage] = field(default_factory=list)


@dataclass(frozen=True)
class NearestImage:
    """A support image that a test image is similar to.

    Attributes:
        image: The support image.
        label: Name of its class.
        similarity: Cosine of both embeddings, between -1 and 1.
    """

    image: PlaygroundImage
    label: str
    similarity: float


@dataclass(frozen=True)
class PlaygroundPrediction:
    """What the classifier says about one test image.

    Attributes:
        image: The test image.
        probabilities: (label, probability), the most probable first.
        nearest: The most similar support images, of whatever class; none if the kind of learner does not tell.
        threshold: Similarity below which an image is unlike all classes; see `SupportSimilarity`.
    """

    image: PlaygroundImage
    probabilities: list[tuple[str, float]]
    nearest: list[NearestImage]
    threshold: float

    @property
    def unlike(self) -> bool:
        """Whether the image is less similar to every support image than these are among themselves."""
        return bool(self.nearest) and self.nearest[0].similarity < self.threshold


@dataclass(frozen=True)
class PlaygroundAnswer:
    """What the classes and test images of a session come to.

    Attributes:
        problem: Why there is no classifier; None if there is one.
        is_start: Whether there is no image yet, so that the problem is no mistake.
        notes: What else the visitor should know, such as a class that is left out.
        counts: Class -> number of support images of the classifier.
        seconds: Time to adapt and to predict all test images.
        predictions: One per test image; none without a classifier.
    """

    problem: str | None
    is_start: bool = False
    notes: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    predictions: list[PlaygroundPrediction] = field(default_factory=list)


class PlaygroundSession:
    """Classes, test images and classifier of one visitor. Sessions share the learner, which they do not change.

    Args:
        learner: Learner that is adapted to the classes.

    Attributes:
        places: Numbers of the places on the page that are in use, each for one class; at first 0 and 1.
        classes: The classes by their places; a place that was not filled in yet has none.
        tests: The test images.
        classifier: Classifier of the last `answer`; None if there was none.
    """

    def __init__(self, learner: MetaLearner) -> None:
        self.learner = learner
        self.places = {0, 1}
        self.classes: dict[int, PlaygroundClass] = {}
        self.tests: list[PlaygroundImage] = []
        self.classifier: FewShotClassifier | None = None
        self._read: dict[Path, PlaygroundImage] = {}

    def set_class(self, place: int, name: str, files: Sequence[str | Path]) -> list[str]:
        """Replace the name and the images of a class, or add a class.

        Args:
            place: Number of the place on the page; classes are in the order of these numbers.
            name: Name of the class; white space around it is removed.
            files: Image files. The first 100 are used; hidden files are ignored.

        Returns:
            One sentence per problem: files that are no images, and images beyond the limit. The others are kept.
        """
        images, problems = self._images(files, MOST_IMAGES, "of a class")
        self.places.add(place)
        self.classes[place] = PlaygroundClass(_clean(name), images)
        return problems

    def holds(self, place: int, name: str, files: Sequence[str | Path]) -> bool:
        """Whether a class has exactly this name and these files."""
        held = self.classes.get(place)
        if held is None:
            return not files
        return held.name == _clean(name) and [image.path for image in held.images] == [Path(file) for file in files]

    def add_place(self) -> int | None:
        """Take a further place into use: the one after the last, else the first that is free; None if all are."""
        free = [place for place in range(MOST_CLASSES) if place not in self.places]
        if not free:
            return None
        place = next((place for place in free if place > max(self.places, default=-1)), free[0])
        self.places.add(place)
        return place

    def remove_class(self, place: int) -> None:
        """Free a place, and forget the class in it."""
        self.places.discard(place)
        self.classes.pop(place, None)

    def set_tests(self, files: Sequence[str | Path]) -> list[str]:
        """Replace the test images; returns one sentence per problem, as `set_class` does."""
        self.tests, problems = self._images(files, MOST_TESTS, "to test")
        return problems

    def answer(self) -> PlaygroundAnswer:
        """Adapt the learner to the classes, and predict the test images."""
        self.classifier = None
        classes = [self.classes[place] for place in sorted(self.classes)]
        filled = [each for each in classes if each.images]
        problem = _problem(filled)
        if problem:
            return PlaygroundAnswer(problem, is_start=not filled)
        start = time.perf_counter()
        names = tuple(each.name for each in filled)
        support = [(image, label) for label, each in enumerate(filled) for image in each.images]
        images, labels = _stack([image for image, _ in support]), torch.tensor([label for _, label in support])
        try:
            classifier = self.learner.adapt(images, labels, names)
            predictions = self._predict(classifier, images, [(image, names[label]) for image, label in support])
        except (LearnerError, DataError) as error:
            return PlaygroundAnswer(f"The learner cannot adapt to these images: {error}.")
        self.classifier = classifier
        seconds = time.perf_counter() - start
        counts = {each.name: len(each.images) for each in filled}
        return PlaygroundAnswer(None, False, self._notes(classes), counts, seconds, predictions)

    def save(self, file: Path) -> Path:
        """Write the classifier as a zip of the folder `classifier/`, as `dfml adapt` writes it.

        Args:
            file: The zip; an existing one is replaced.

        Returns:
            The file.

        Raises:
            LearnerError: If there is no classifier yet.
            OSError: If the file cannot be written.
        """
        if self.classifier is None:
            raise LearnerError("there is no classifier to save yet; give two classes at least one image each")
        with TemporaryDirectory() as folder, atomic_file(file) as unfinished:
            self.classifier.save_pretrained(folder)
            with zipfile.ZipFile(unfinished, "w") as archive:  # weights do not compress
                for path in sorted(Path(folder).iterdir()):
                    archive.write(path, f"classifier/{path.name}")
        return file

    def _images(self, files: Sequence[str | Path], most: int, what: str) -> tuple[list[PlaygroundImage], list[str]]:
        paths = [Path(file) for file in files if not Path(file).name.startswith(".")]
        images, problems = [], []
        for path in paths[:most]:
            try:
                images.append(self._image(path))
            except DataError as error:
                problems.append(f"{path.name} is left out: {error}.")
            except OSError as error:
                problems.append(f"{path.name} is left out: it cannot be read ({error.strerror}).")
        if len(paths) > most:
            problems.append(f"Only the first {most} images {what} are used; {len(paths) - most} are left out.")
        return images, problems

    def _image(self, path: Path) -> PlaygroundImage:
        """Decode a file, or return what was decoded before: uploads are never changed."""
        if path not in self._read:
            pixels = decode(path.read_bytes(), self.learner.preprocessing.size)
            self._read[path] = PlaygroundImage(path, torch.from_numpy(pixels.copy()))
        return self._read[path]

    def _predict(
        self, classifier: FewShotClassifier, support: Tensor, labelled: list[tuple[PlaygroundImage, str]]
    ) -> list[PlaygroundPrediction]:
        if not self.tests:
            return []
        tests = _stack(self.tests)
        similarity = support_similarity(classifier, support, tests)
        return [
            PlaygroundPrediction(
                image,
                sorted(zip(classifier.labels, row, strict=True), key=lambda pair: -pair[1]),
                _nearest(similarity, index, labelled),
                similarity.threshold if similarity else -1.0,
            )
            for index, (image, row) in enumerate(zip(self.tests, classifier.predict_proba(tests).tolist(), strict=True))
        ]

    def _notes(self, classes: list[PlaygroundClass]) -> list[str]:
        notes = [
            f"{each.name or 'A class without a name'} has no images and is left out."
            for each in classes
            if not each.images
        ]
        if self.learner.protocol == "paper" and len(self.tests) > 1:
            notes.append("This learner follows the protocol paper: a prediction depends on the other test images.")
        return notes


def _clean(name: str) -> str:
    return " ".join(name.split())


def _problem(filled: list[PlaygroundClass]) -> str | None:
    """Why classes with images are not enough for a classifier; None if they are."""
    if not filled:
        return "Give two classes at least one image each."
    if any(not each.name for each in filled):
        return "A class with images has no name; give it one."
    name, count = Counter(each.name for each in filled).most_common(1)[0]
    if count > 1:
        return f"{count} classes have the name {name}; give each a name of its own."
    if len(filled) == 1:
        return f"Only {name} has images; a classifier needs at least two classes with images."
    return None


def _nearest(
    similarity: SupportSimilarity | None, test: int, labelled: list[tuple[PlaygroundImage, str]]
) -> list[NearestImage]:
    if similarity is None:
        return []
    return [NearestImage(*labelled[index], cosine) for index, cosine in similarity.nearest(test, _NEAREST)]


def _stack(images: Sequence[PlaygroundImage]) -> Float[Tensor, "images 3 size size"]:
    return to_float(torch.stack([image.pixels for image in images]))

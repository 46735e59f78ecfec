"""Which preprocessing a network was probably trained with, where nothing states it.

The first batch-norm layers keep the mean and variance of what they were given during training. If the network's input
is scaled as it was then, images with the statistics of photographs (or of writing) lead to about the same ones, without
any training image. What is told apart that way is the range of the input (0 to 1, 0 to 255, -1 to 1, standardised), not
the last digit of a mean: candidates that are alike (`alike`) lead to nearly the same predictions too. With labelled
images, candidates are ranked by accuracy instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from dfml import seeds
from dfml.drawn_images import dark_strokes, dead_leaves, pen_strokes
from dfml.images import Interpolation
from dfml.zoo.members import Predicts
from dfml.zoo.pretrained import Preprocessing
from dfml.zoo.statistics import LayerStatistics, batch_norm_layers, record_statistics

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Candidate:
    """A preprocessing that is in common use: `(image - mean) / std` of an image in [0, 1].

    Attributes:
        name: Name for tables and messages.
        mean: Mean of red, green and blue.
        std: Standard deviation of red, green and blue; positive.
        grey_only: Whether it is in use for grey images only.
    """

    name: str
    mean: Triple
    std: Triple
    grey_only: bool = False

    @property
    def is_grey(self) -> bool:
        """Whether all channels are treated alike, so that it can be the preprocessing of a grey image."""
        return len(set(self.mean)) == len(set(self.std)) == 1

    def at(self, size: int, interpolation: Interpolation = "bilinear") -> Preprocessing:
        """The preprocessing at `size` x `size` pixels, of images that are resized by `interpolation`."""
        return Preprocessing(size, self.mean, self.std, interpolation)


def _same(name: str, mean: float, std: float, *, grey_only: bool = False) -> Candidate:
    return Candidate(name, (mean, mean, mean), (std, std, std), grey_only)


CANDIDATES = (
    _same("0 to 1", 0.0, 1.0),
    _same("0 to 255", 0.0, 1.0 / 255.0),
    _same("-1 to 1", 0.5, 0.5),
    _same("MNIST", 0.1307, 0.3081, grey_only=True),
    _same("FashionMNIST", 0.2860, 0.3530, grey_only=True),
    Candidate("ImageNet", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    Candidate("CLIP", (0.4815, 0.4578, 0.4082), (0.2686, 0.2613, 0.2758)),
    # Two values of std are in use for CIFAR-10: over all pixels, and the mean over images of each image's own.
    Candidate("CIFAR-10", (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    Candidate("CIFAR-10 (std of single images)", (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    Candidate("CIFAR-100", (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
    Candidate("SVHN", (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
)
"""Preprocessings in common use, in the order in which equal ones are listed."""

CLEAR_MARGIN = 3.0
"""How many times larger the misfit of the best candidate of another range must be; see docs/adding-members.md."""

CLEAR_ODDS = 0.01
"""Largest probability of a chance result (sign test on the images that only one of two candidates has right)."""

# Alike: predictions hardly change. In units of [0, 1] images; the CIFAR-10, CIFAR-100 and ImageNet values are alike.
_MEAN_DIFFERENCE, _STD_RATIO = 0.1, 1.45
_LAYERS = 4  # the first batch-norm layers: deeper ones depend on what images show, not on how they are scaled
_WORST = 10.0  # standard deviations; a channel that is further off says no more than that
_PIXELS = 2**20  # of the drawn images of one kind, so that networks of large inputs take seconds
_MOST, _FEWEST = 64, 16  # drawn images of one kind
# Mean and standard deviation of photographs (COCO and ImageNet are within 0.03 of them), and of white writing.
_PHOTOGRAPHS: tuple[Triple, Triple] = ((0.48, 0.46, 0.42), (0.26, 0.25, 0.27))
_INK, _CONTRAST = 0.113, 0.27  # of `pen_strokes`, with which they become lines of 1 on a ground of 0


@dataclass(frozen=True)
class Ranked:
    """A candidate and how well it fits.

    Attributes:
        candidate: The preprocessing.
        misfit: Mean over the first batch-norm layers of the squared, standardised differences between the statistics of
            drawn images and the running ones; None if candidates were ranked by accuracy.
        accuracy: Fraction of the labelled images that the network classifies correctly; None without such images.
    """

    candidate: Candidate
    misfit: float | None = None
    accuracy: float | None = None

    @property
    def figure(self) -> str:
        """Its accuracy or misfit, for tables and messages."""
        return f"{100 * self.accuracy:.1f}%" if self.accuracy is not None else f"{self.misfit:.3g}"


@dataclass(frozen=True)
class PreprocessingRanking:
    """Candidates, the best first.

    Attributes:
        ranked: All candidates; empty if nothing in the network depends on the scale of its input.
        margin: How much worse the best candidate of another range is: the ratio of misfits, at least 1, or the
            difference of accuracies; None if there is no ranking.
        clear: Whether the range of the best candidate is beyond doubt.
    """

    ranked: tuple[Ranked, ...] = ()
    margin: float | None = None
    clear: bool = False

    @property
    def best(self) -> Ranked | None:
        """The candidate that fits best; None without a ranking."""
        return self.ranked[0] if self.ranked else None

    @property
    def by(self) -> str:
        """What it was ranked by: `accuracy` or `batch-norm statistics`."""
        return "accuracy" if self.ranked and self.ranked[0].accuracy is not None else "batch-norm statistics"

    def describe(self) -> str:
        """The result in one sentence, with the margin and with what could not be told apart."""
        if not self.ranked:
            return "it has no batch-norm layers, so nothing in it tells how its input was scaled"
        best, others = self.ranked[0], self.ranked[1:]
        close = [each.candidate.name for each in others if alike(each.candidate, best.candidate)]
        rival = next(each for each in others if not alike(each.candidate, best.candidate))
        with_ = f", not told apart from {', '.join(close)}" if close else ""
        figures = f"{best.figure} against {rival.figure} for {rival.candidate.name}"
        verdict = "" if self.clear else ", too close to tell"
        return f"{best.candidate.name}{with_} ({self.by}: {figures}{verdict})"


def alike(one: Candidate, other: Candidate) -> bool:
    """Whether two candidates scale images so similarly that running statistics cannot tell them apart."""
    means = max(abs(a - b) for a, b in zip(one.mean, other.mean, strict=True))
    ratios = (max(a / b, b / a) for a, b in zip(one.std, other.std, strict=True))
    return means <= _MEAN_DIFFERENCE and max(ratios) <= _STD_RATIO


def candidates_for(*, grey: bool = False) -> tuple[Candidate, ...]:
    """Candidates for a network of three input channels, or of one (`grey`)."""
    return tuple(each for each in CANDIDATES if (each.is_grey if grey else not each.grey_only))


@torch.no_grad()
def rank_by_statistics(
    network: nn.Module, size: int, candidates: Sequence[Candidate], seed: int = 0
) -> PreprocessingRanking:
    """Rank candidates by how well the first batch-norm layers' running statistics fit drawn images.

    Photographs, white writing and dark writing are drawn; for every candidate the kind that fits best counts.

    Args:
        network: Normalised images (NCHW, three channels) -> logits, on the CPU.
        size: Height and width of its input, in pixels.
        candidates: Preprocessings to rank; at least two that are not alike.
        seed: Seed of the drawn images.
    """
    if not batch_norm_layers(network):
        return PreprocessingRanking()
    drawn = _draw(size, seed)
    misfits = {
        candidate: min(_misfit(_statistics(network, candidate.at(size), images)) for images in drawn)
        for candidate in candidates
    }
    order = sorted(candidates, key=lambda candidate: misfits[candidate])
    rival = next(each for each in order if not alike(each, order[0]))
    margin = misfits[rival] / max(misfits[order[0]], 1e-12)
    ranked = tuple(Ranked(candidate, misfit=misfits[candidate]) for candidate in order)
    return PreprocessingRanking(ranked, margin, margin >= CLEAR_MARGIN)


@torch.no_grad()
def rank_by_accuracy(
    member_with: Callable[[Preprocessing], Predicts],
    images: Float[Tensor, "images 3 size size"],
    targets: Int64[Tensor, " images"],
    candidates: Sequence[Candidate],
) -> PreprocessingRanking:
    """Rank candidates by the accuracy on labelled images.

    The ranking is clear if a sign test on the images that only one of the two has right tells the best candidate from
    the best one of another range, and the best one is better than chance.

    Args:
        member_with: Returns the member with another preprocessing.
        images: Images in [0, 1] at the member's input size; at least one.
        targets: Index of the output that each image belongs to.
        candidates: Preprocessings to rank; at least two that are not alike.
    """
    right: dict[Candidate, Tensor] = {}
    for candidate in candidates:
        member = member_with(candidate.at(images.shape[-1]))
        right[candidate] = member.predict_proba(images).argmax(dim=1) == targets
    accuracies = {candidate: float(hits.float().mean()) for candidate, hits in right.items()}
    order = sorted(candidates, key=lambda candidate: -accuracies[candidate])
    rival = next(each for each in order if not alike(each, order[0]))
    above_chance = _tail(len(images), int(right[order[0]].sum()), 1.0 / len(member.labels))
    clear = clearly_better(right[order[0]], right[rival]) and above_chance <= CLEAR_ODDS
    ranked = tuple(Ranked(candidate, accuracy=accuracies[candidate]) for candidate in order)
    return PreprocessingRanking(ranked, accuracies[order[0]] - accuracies[rival], clear)


def clearly_better(one: Bool[Tensor, " images"], other: Bool[Tensor, " images"]) -> bool:
    """Whether a sign test on the images that only one of two ways has right tells the first from the second.

    Args:
        one: For every image, whether the first way has it right.
        other: The same of the second way.
    """
    won, lost = int((one & ~other).sum()), int((other & ~one).sum())
    return _tail(won + lost, won, 0.5) <= CLEAR_ODDS


def match_classes(folders: Sequence[str], labels: Sequence[str], mapping: Mapping[str, int] | None = None) -> list[int]:
    """Index of the output of each class folder, or -1 for a folder that is no class of the network.

    Args:
        folders: Names of class folders.
        labels: Labels of the network's outputs.
        mapping: Folder name -> index of the output; folders that it leaves out are matched by name: equal but for case,
            spaces and punctuation.
    """
    plain = {_plain(label): index for index, label in enumerate(labels)}
    return [(mapping or {}).get(folder, plain.get(_plain(folder), -1)) for folder in folders]


def _plain(name: str) -> str:
    return "".join(character for character in name.casefold() if character.isalnum()) or name


def _tail(trials: int, successes: int, probability: float) -> float:
    """Probability of at least so many successes in so many trials."""
    if successes <= 0 or probability >= 1.0:
        return 1.0
    logs = [
        math.lgamma(trials + 1)
        - math.lgamma(k + 1)
        - math.lgamma(trials - k + 1)
        + k * math.log(probability)
        + ((trials - k) * math.log1p(-probability) if k < trials else 0.0)
        for k in range(successes, trials + 1)
    ]
    return min(1.0, math.fsum(map(math.exp, logs)))


class _Enough(Exception):
    """Ends a forward pass whose remaining layers are not needed."""


def _statistics(network: nn.Module, preprocessing: Preprocessing, images: Tensor) -> list[LayerStatistics]:
    """Statistics of the batch-norm layers that are used first; the forward pass ends after them."""

    def stop(*_: object) -> None:
        if len(statistics) >= _LAYERS:
            raise _Enough

    handles: list[RemovableHandle] = []
    with record_statistics(network) as statistics, suppress(_Enough):
        try:
            handles += [layer.register_forward_pre_hook(stop) for layer in batch_norm_layers(network)]
            network.eval()(preprocessing.normalise(images))
        finally:
            for handle in handles:
                handle.remove()
    return statistics


def _misfit(layers: Sequence[LayerStatistics]) -> float:
    """Mean over layers of the squared difference of means, in deviations, plus twice that of logarithmic deviations.

    For small differences that is twice the Kullback-Leibler divergence of normal distributions.
    """
    values = []
    for layer in layers:
        deviation = layer.running_deviation
        shift = ((layer.mean - layer.running_mean) / deviation).clamp(-_WORST, _WORST)
        scale = ((layer.variance + layer.eps).sqrt() / deviation).log()
        values.append(float((shift.square() + 2.0 * scale.square()).mean()))
    return math.fsum(values) / len(values) if values else math.inf


@lru_cache(maxsize=1)
def _draw(size: int, seed: int) -> tuple[Tensor, ...]:
    """Images in [0, 1] of every kind, kept for all members of one size: drawing large ones takes seconds."""
    count = max(_FEWEST, min(_MOST, _PIXELS // size**2))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in _PHOTOGRAPHS)
    photographs = mean + std * dead_leaves(count, size, seeds.generator(seed, "preprocessing", "photographs"))
    strokes = [
        draw(count, size, seeds.generator(seed, "preprocessing", "strokes")) for draw in (pen_strokes, dark_strokes)
    ]
    light, dark = _INK + _CONTRAST * strokes[0], 1.0 - _INK + _CONTRAST * strokes[1]
    return tuple(images.clamp(0.0, 1.0) for images in (photographs, light, dark))

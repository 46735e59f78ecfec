"""What labelled images say about a file that is to be a member: which preprocessing classifies most of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import get_args

import torch
from torch import Tensor

from dfml.errors import ZooMemberError
from dfml.images import Interpolation
from dfml.zoo.formats import MemberConfig
from dfml.zoo.members import Predicts
from dfml.zoo.preprocessing_ranking import (
    Candidate,
    PreprocessingRanking,
    candidates_for,
    clearly_better,
    match_classes,
    rank_by_accuracy,
)
from dfml.zoo.pretrained import Preprocessing, PretrainedClassifier
from dfml.zoo.vetting import load_member

LabelledImages = Callable[[int, Interpolation], tuple[Tensor, Tensor, Sequence[str]]]
"""Size in pixels and interpolation -> images in [0, 1] (NCHW, three channels), the class of each, and the names of the
classes."""


def rank_by_labelled_images(
    config: MemberConfig,
    member: Predicts,
    images: LabelledImages,
    class_index: Mapping[str, int],
    *,
    grey: bool,
    declared: bool,
) -> tuple[PreprocessingRanking, int]:
    """Rank preprocessings by the labelled images that are of the member's classes.

    Args:
        config: The member's configuration.
        member: The member.
        images: The labelled images.
        class_index: Class of the images -> index of the output; classes that it leaves out go by name.
        grey: Whether the network takes grey images.
        declared: Whether the member's own preprocessing is stated; it is then a candidate named `as stated`.

    Returns:
        The ranking, and the number of images.

    Raises:
        ZooMemberError: If no image is of a class of the member.
    """
    own = config.preprocessing
    shown, targets = _of_its_classes(config, images, class_index, own.interpolation)
    candidates = candidates_for(grey=grey)
    if declared:
        candidates = (Candidate("as stated", own.mean, own.std), *candidates)

    def member_with(preprocessing: Preprocessing) -> Predicts:
        return _with(config, member, replace(preprocessing, interpolation=own.interpolation))

    return rank_by_accuracy(member_with, shown, targets, candidates), len(targets)


def better_interpolation(
    config: MemberConfig, member: Predicts, images: LabelledImages, class_index: Mapping[str, int], candidate: Candidate
) -> str | None:
    """A sentence if images that are resized in another way are classified clearly better; else None.

    Args:
        config: The member's configuration, with the interpolation that is to be compared.
        member: The member.
        images: The labelled images.
        class_index: See `rank_by_labelled_images`.
        candidate: Mean and standard deviation.
    """
    own = config.preprocessing
    hits: dict[Interpolation, Tensor] = {}
    for interpolation in get_args(Interpolation):
        shown, targets = _of_its_classes(config, images, class_index, interpolation)
        preprocessing = candidate.at(own.size, interpolation)
        hits[interpolation] = _with(config, member, preprocessing).predict_proba(shown).argmax(dim=1) == targets
    best = max(hits, key=lambda each: int(hits[each].sum()))
    if not clearly_better(hits[best], hits[own.interpolation]):
        return None
    figures = ", ".join(f"{name} {100 * float(right.float().mean()):.1f}%" for name, right in hits.items())
    return (
        f"the labelled images are classified clearly better if they are resized by --interpolation {best} ({figures})"
    )


def _of_its_classes(
    config: MemberConfig, images: LabelledImages, class_index: Mapping[str, int], interpolation: Interpolation
) -> tuple[Tensor, Tensor]:
    """The images that are of the member's classes, and the output that each belongs to."""
    shown, classes, names = images(config.preprocessing.size, interpolation)
    outputs = torch.tensor(match_classes(names, config.labels, class_index))
    kept = outputs[classes] >= 0
    if not bool(kept.any()):
        raise ZooMemberError(
            config.path,
            f"none of the image folders ({', '.join(names[:5])}, ...) has the name of a label "
            f"({', '.join(config.labels[:5])}, ...)",
            "give --labels, or --class-index FILE that maps folders to outputs",
        )
    return shown[kept], outputs[classes[kept]]


def _with(config: MemberConfig, member: Predicts, preprocessing: Preprocessing) -> Predicts:
    if isinstance(member, PretrainedClassifier):
        return PretrainedClassifier(member.network, member.labels, preprocessing, member.source)
    return load_member(replace(config, preprocessing=preprocessing))

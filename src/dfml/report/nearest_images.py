"""Recovered images beside the training images that are nearest to them, on one picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int64, UInt8
from PIL import Image
from torch import Tensor

from dfml.images import to_float
from dfml.inversion.nearest import Comparison
from dfml.report.contact_sheet import Block, Row, render_contact_sheet

_PAIRS, _CLASSES = 5, 20  # shown of each class, and of each member


@dataclass(frozen=True)
class ComparedImages:
    """Images recovered from one member, or from several together, and what they were compared with.

    Attributes:
        title: Name of the member.
        labels: Names of the classes.
        recovered: Recovered images.
        recovered_labels: Class of each, as an index into `labels`.
        training: Training images.
        comparison: Their comparison; its indices are those of `training`.
    """

    title: str
    labels: Sequence[str]
    recovered: UInt8[Tensor, "images 3 size size"]
    recovered_labels: Int64[Tensor, " images"]
    training: UInt8[Tensor, "candidates 3 size size"]
    comparison: Comparison


def render_nearest(members: Sequence[ComparedImages]) -> Image.Image:
    """Draw one block per member, with one row per class: the recovered images that are nearest to a training image.

    Each is followed by that training image, with the distance below the pair; an exclamation mark says that it is
    nearer than 99% of the baseline.
    """
    return render_contact_sheet([_block(member) for member in members])


def _block(member: ComparedImages) -> Block:
    comparison = member.comparison
    rows = []
    for label, name in enumerate(member.labels[:_CLASSES]):
        indices = (member.recovered_labels == label).nonzero().flatten()
        indices = indices[comparison.nearest.distance[indices].argsort(stable=True)][:_PAIRS]
        pairs = torch.stack([member.recovered[indices], member.training[comparison.nearest.index[indices]]], dim=1)
        captions: list[str] = []
        for index in indices.tolist():
            mark = " !" if comparison.is_near[index] else ""
            captions += [f"{comparison.nearest.distance[index].item():.2f}{mark}", ""]
        rows.append(Row(name, to_float(pairs.flatten(0, 1)), captions))
    near, count = int(comparison.is_near.sum()), len(member.recovered)
    note = (
        f"recovered, nearest training image: distance {comparison.nearest.distance.median().item():.2f} (median); of "
        f"real images {comparison.baseline.median().item():.2f}; nearer than 99% of these: {near} of {count}"
    )
    return Block(member.title, rows, note)

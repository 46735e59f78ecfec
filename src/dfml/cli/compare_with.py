"""`dfml invert --compare-with`: recovered images beside the owner's training images. Imported when it runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from dfml.cli.datasets import GLYPHS, open_data
from dfml.cli.output import to_json
from dfml.data.dataset import ImageDataset
from dfml.data.sources import arrange, open_source
from dfml.image_files import decode_all
from dfml.inversion.inverted import InvertedMember, folder_names
from dfml.inversion.nearest import COMPARED_SIZE, NEAR, compare_with_training
from dfml.report.nearest_images import ComparedImages, render_nearest

SHEET, DETAILS = "nearest.png", "nearest.json"


@dataclass(frozen=True)
class TrainingImages:
    """What the owner of the members has.

    Attributes:
        training: The images that members were trained on.
        files: Name of the file of each.
        held_out: Images like these that no member was trained on; None: the baseline is made of training images.
    """

    training: ImageDataset
    files: Sequence[str]
    held_out: ImageDataset | None


def open_training(name: str, held_out: str | None) -> TrainingImages:
    """Open the images of `--compare-with` and `--held-out`, before the inversion, which may take hours.

    Args:
        name: An image folder, a zip of one, or `glyphs`. If it has splits, `train` is used.
        held_out: The same, of which `val` is used; None for none.

    Raises:
        DataError: If there are no such images.
    """
    training = open_data(name, split=None, usual="train", official=None, size=COMPARED_SIZE)
    if name == GLYPHS:
        first = torch.searchsorted(training.labels, training.labels)
        numbers = (torch.arange(len(training)) - first).tolist()
        labels = training.labels.tolist()
        files = [f"{training.classes[label]}/{number}" for label, number in zip(labels, numbers, strict=True)]
    else:
        tree = arrange(open_source(name))
        files = [file for of_class in tree["" if "" in tree else "train"].values() for file in of_class]
    others = open_data(held_out, split=None, usual="val", official=None, size=COMPARED_SIZE) if held_out else None
    return TrainingImages(training, files, others)


def compare(
    own: TrainingImages, inverted: Sequence[InvertedMember], out: Path, *, shared: Sequence[str] | None, seed: int
) -> list[dict[str, Any]]:
    """Compare all recovered images with the training images; write `nearest.png` and `nearest.json`.

    A member is compared with the images of its own classes; with all images if no class has the name of a label.

    Args:
        own: The training images.
        inverted: The inverted members, at least one.
        out: The folder with the recovered images.
        shared: Names of the classes, in the zoo's order, if members were inverted together: their images are in
            `out/CLASS` then. None: in `out/MEMBER/CLASS`.
        seed: Seed of the choice of the baseline's images.

    Returns:
        The summary of each member, or one summary of all.
    """
    if shared is not None:
        jobs = [("all members", out, list(shared), inverted[0].per_class)]
    else:
        jobs = [(each.name, out / each.name, list(each.labels), each.per_class) for each in inverted]
    compared: list[ComparedImages] = []
    details: list[dict[str, Any]] = []
    summaries: list[dict[str, Any]] = []
    for title, folder, labels, per_class in jobs:
        paths = [f"{name}/{number:04d}.png" for name in folder_names(labels) for number in range(per_class)]
        files = [(folder / path).relative_to(out).as_posix() for path in paths]
        recovered = decode_all(lambda file: (out / file).read_bytes(), files, COMPARED_SIZE)
        recovered_labels = torch.arange(len(labels)).repeat_interleave(per_class)
        member, chosen = _compare_member(own, title, labels, recovered, recovered_labels, seed)
        compared.append(member)
        comparison = member.comparison
        details += [
            {
                "image": file,
                "nearest": own.files[chosen[index]],
                "distance": round(distance, 6),
                "baseline_as_small": round(as_small, 6),
                "near": near,
            }
            for file, index, distance, as_small, near in zip(
                files,
                comparison.nearest.index.tolist(),
                comparison.nearest.distance.tolist(),
                comparison.as_small.tolist(),
                comparison.is_near.tolist(),
                strict=True,
            )
        ]
        summaries.append({"member": title, "training_images": len(chosen), **comparison.as_dict()})
    render_nearest(compared).save(out / SHEET)
    (out / DETAILS).write_text(to_json({"members": summaries, "images": details}), encoding="utf-8")
    return summaries


def _compare_member(
    own: TrainingImages,
    title: str,
    labels: Sequence[str],
    recovered: torch.Tensor,
    recovered_labels: torch.Tensor,
    seed: int,
) -> tuple[ComparedImages, list[int]]:
    """Compare the images of one member; also returns the indices of the training images that it was compared with."""
    training = own.training
    numbers = {name: number for number, name in enumerate(training.classes)}
    classes = torch.tensor([numbers.get(label, -1) for label in labels])
    chosen = torch.isin(training.labels, classes).nonzero().flatten()
    if not len(chosen):
        chosen = torch.arange(len(training))
    images = training.images[chosen]
    comparison = compare_with_training(
        recovered,
        classes[recovered_labels],
        images,
        training.labels[chosen],
        _held_out(own.held_out, labels),
        seed=seed,
    )
    return ComparedImages(title, labels, recovered, recovered_labels, images, comparison), chosen.tolist()


def _held_out(dataset: ImageDataset | None, labels: Sequence[str]) -> torch.Tensor | None:
    """The held-out images of the member's classes; all if it has none of the classes."""
    if dataset is None:
        return None
    known = [number for number, name in enumerate(dataset.classes) if name in labels]
    chosen = torch.isin(dataset.labels, torch.tensor(known)) if known else torch.ones(len(dataset), dtype=torch.bool)
    return dataset.images[chosen]


def comparison_table(summaries: Sequence[dict[str, Any]]) -> Table:
    """One row per member."""
    headings = ("images", "training images", "distance", "of real images", "near", "same class %", "chance %")
    table = Table()
    table.add_column("member", overflow="fold")
    for heading in headings:
        table.add_column(heading, justify="right")
    for each in summaries:
        shares = [each["same_class"], each["same_class_by_chance"]]
        table.add_row(
            each["member"],
            str(each["images"]),
            f"{each['training_images']:,}",
            f"{each['distance']:.3f}",
            f"{each['baseline_distance']:.3f}",
            str(each["near"]),
            *("-" if share is None else f"{100 * share:.1f}" for share in shares),
            style="yellow" if each["near"] > NEAR * each["images"] else None,
        )
    return table

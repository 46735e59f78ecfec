"""Images that `dfml invert` recovers: choosing members, writing files, the table. Imported when the verb runs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from jaxtyping import Float, Int64
from PIL import Image
from rich.table import Table
from torch import Tensor

from dfml.cli.settings import merge, read_assignment
from dfml.errors import UsageError
from dfml.evaluation.protocol import versions
from dfml.inversion.fidelity import Fidelity, measure
from dfml.inversion.pixels import PixelInversion, PixelInversionConfig
from dfml.methods.base import build_config
from dfml.report.contact_sheet import Block, Row, draw_contact_sheet, to_picture
from dfml.training.progress import show_progress
from dfml.zoo.zoo import Zoo

ENGINE = "pixels"
_SHOWN = 12  # images a class on the contact sheet


@dataclass(frozen=True)
class Recovered:
    """What was recovered from one member.

    Attributes:
        name: The member's.
        labels: Its classes.
        targets: The class that each image was made for.
        images: In [0, 1].
        fidelity: How faithful they are.
    """

    name: str
    labels: tuple[str, ...]
    targets: Int64[Tensor, " images"]
    images: Float[Tensor, "images 3 size size"]
    fidelity: Fidelity


def settings(steps: int | None, assignments: Sequence[str]) -> PixelInversionConfig:
    """Defaults, then `--set`, then `--steps`.

    Raises:
        UsageError: If an assignment has another form, or a setting is unknown or has a wrong value.
    """
    values = PixelInversionConfig().model_dump()
    for assignment in assignments:
        values = merge(values, read_assignment(assignment, ENGINE))
    return build_config(PixelInversionConfig, values | ({"steps": steps} if steps else {}))


def choose(zoo: Zoo, names: Sequence[str], first: int | None) -> list[int]:
    """Members by name, or the first few, or all.

    Raises:
        UsageError: If both are asked, a name is unknown, or there are not so many.
    """
    if names and first:
        raise UsageError("--member and --members contradict each other; drop one of them")
    known = {zoo.name(index): index for index in range(len(zoo))}
    for name in names:
        if name not in known:
            raise UsageError(f"the zoo has no member {name!r}; `dfml zoo inspect` lists them")
    if first and first > len(zoo):
        raise UsageError(f"--members {first} asks for more members than the zoo has ({len(zoo)})")
    return [known[name] for name in names] or list(range(first or len(zoo)))


def begin(out: Path, config: PixelInversionConfig, zoo: Path, seed: int) -> None:
    """Make the folder and note the settings in it."""
    about = {"zoo": str(zoo.resolve()), "seed": seed, ENGINE: config.model_dump(mode="json")}
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.yaml").write_text(yaml.safe_dump(about, sort_keys=False), encoding="utf-8")


def recover(zoo: Zoo, index: int, per_class: int, config: PixelInversionConfig, seed: int, out: Path) -> Recovered:
    """Invert one member and write its images as `out/member/label/0000.png`."""
    classifier, name = zoo[index], zoo.name(index)
    targets = torch.arange(len(classifier.labels), device=zoo.device).repeat_interleave(per_class)
    engine = PixelInversion(classifier, targets, config, seed)
    with show_progress(name, config.steps) as progress:
        while engine.done < config.steps:
            loss = engine.step()
            progress.update(engine.done, {"label_loss": loss.label.item(), "batch_norm": loss.batch_norm.item()})
    images = engine.images()
    fidelity = measure(zoo, index, images, targets)
    for label, folder in enumerate(folder_names(classifier.labels)):
        place = out / name / folder
        place.mkdir(parents=True)
        for number, image in enumerate(images[targets == label]):
            to_picture(image).save(place / f"{number:04d}.png")
    return Recovered(name, classifier.labels, targets.cpu(), images.cpu(), fidelity)


def folder_names(labels: Sequence[str]) -> list[str]:
    """Names that are safe as folders, whatever the labels hold, and differ even where capitals do not count."""
    names: list[str] = []
    for index, label in enumerate(labels):
        name = re.sub(r"[^\w.,+()-]+", "_", label).strip("._")[:80] or "class"
        taken = name.lower() in (other.lower() for other in names)
        names.append(f"{name}-{index}" if taken else name)
    return names


def draw(recovered: Sequence[Recovered]) -> Image.Image:
    """All members and classes on one sheet, with the first images of each."""
    return draw_contact_sheet(
        [
            Block(
                title=each.name,
                note=_note(each.fidelity),
                rows=[
                    Row(label, each.images[each.targets == index][:_SHOWN]) for index, label in enumerate(each.labels)
                ],
            )
            for each in recovered
        ]
    )


def _note(fidelity: Fidelity) -> str:
    others = f"; other members, {fidelity.other_agreement:.0%}" if fidelity.other_agreement is not None else ""
    return f"recognises {fidelity.agreement:.0%} of them{others}"


def fidelity_table(recovered: Sequence[Recovered]) -> Table:
    """One row a member."""
    table = Table()
    table.add_column("member")
    for heading in ("images", "agreement %", "other members %", "guessing %", "batch-norm distance", "of noise"):
        table.add_column(heading, justify="right")
    for each in recovered:
        found = each.fidelity
        table.add_row(
            each.name,
            str(len(each.images)),
            f"{100 * found.agreement:.1f}",
            "-" if found.other_agreement is None else f"{100 * found.other_agreement:.1f}",
            f"{100 * found.chance:.1f}",
            f"{found.batch_norm_distance:.4g}",
            f"{found.noise_batch_norm_distance:.4g}",
            style="yellow" if found.warning else None,
        )
    return table


def results(recovered: Sequence[Recovered], per_class: int, seed: int) -> dict[str, Any]:
    """The same as plain values, figures as fractions."""
    members = {each.name: {"labels": list(each.labels), **each.fidelity.as_dict()} for each in recovered}
    return {"members": members, "per_class": per_class, "seed": seed, "versions": versions()}

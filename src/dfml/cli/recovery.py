"""Images that `dfml invert` recovers: choosing members, writing files, the table. Imported when the verb runs."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from jaxtyping import Float
from PIL import Image
from rich.table import Table
from torch import Tensor

from dfml.cli.trained import Trained
from dfml.errors import UsageError
from dfml.evaluation.protocol import versions
from dfml.images import to_pil
from dfml.inversion.engine import Engine, Target
from dfml.inversion.fidelity import Fidelity, FidelityMeter
from dfml.inversion.registry import InversionConfig, create_engine
from dfml.report.contact_sheet import Block, Row, render_contact_sheet
from dfml.settings import build_config, merge, read_assignment
from dfml.training.progress import show_progress
from dfml.zoo.pretrained import Preprocessing
from dfml.zoo.zoo import Zoo

_SHOWN, _ROWS = 12, 20  # images a class and classes a member on the contact sheet
_AT_ONCE = 2**22  # pixels of a visit, with all that gradients need: 83 images of 224 x 224, or one a class if more


@dataclass(frozen=True)
class Recovered:
    """What was recovered from one member.

    Attributes:
        name: The member's.
        labels: Its classes.
        images: How many there are.
        shown: The first images, in [0, 1], of the first classes: those for the contact sheet.
        fidelity: How faithful all of them are.
    """

    name: str
    labels: tuple[str, ...]
    images: int
    shown: tuple[Float[Tensor, "_images 3 _size _size"], ...]
    fidelity: Fidelity


def settings(engine: str, trained: Trained | None, steps: int | None, assignments: Sequence[str]) -> InversionConfig:
    """Defaults, or those of the run that trained the engine; then `--set`, then `--steps`.

    Raises:
        UsageError: If an assignment has another form, or a setting is unknown or has a wrong value.
    """
    base = trained.config if trained else InversionConfig()
    section = getattr(base, engine)
    values = section.model_dump()
    for assignment in assignments:
        values = merge(values, read_assignment(assignment, engine))
        if values["weights"]["disagreement"] != section.weights.disagreement:
            raise UsageError("--set: inversion by itself has no student to disagree with; leave disagreement out")
    values["weights"]["disagreement"] = 0.0
    chosen = build_config(type(section), values | ({"steps": steps} if steps else {}))
    return base.model_copy(update={"engine": engine, engine: chosen})


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


class Workshop:
    """Recovers one member after the other; none has an influence on the next.

    Args:
        config: Which engine, and its settings.
        trained: What a run has taught it.
        seed: Of all draws.
        device: Of the members.

    Raises:
        RunError: If the engine that was trained does not fit the settings.
    """

    def __init__(self, config: InversionConfig, trained: Trained | None, seed: int, device: torch.device) -> None:
        self._config, self._trained, self._seed, self._device = config, trained, seed, device
        self._of_run = self._engine(trained.preprocessing) if trained else None
        if trained and self._of_run:
            trained.teach(self._of_run)

    def _engine(self, preprocessing: Preprocessing) -> Engine:
        return create_engine(self._config, preprocessing, seed=self._seed, device=self._device, stacked=False)

    def begin(self, out: Path, zoo: Path) -> None:
        """Make the folder and note the settings in it."""
        name = self._config.engine
        about: dict[str, Any] = {"zoo": str(zoo.resolve()), "seed": self._seed}
        if self._trained:
            about["from"] = str(self._trained.source.resolve())
        about[name] = getattr(self._config, name).model_dump(mode="json")
        out.mkdir(parents=True, exist_ok=True)
        (out / "config.yaml").write_text(yaml.safe_dump(about, sort_keys=False), encoding="utf-8")

    def recover(self, zoo: Zoo, index: int, per_class: int, out: Path) -> Recovered:
        """Invert one member, in several visits where images are many; write `out/member/label/0000.png`."""
        classifier, name = zoo.classifier(index), zoo.name(index)
        # Images are of the size that the run's generator draws, or else of the member's input.
        engine = self._of_run or self._engine(classifier.preprocessing)
        meter = FidelityMeter(zoo, index)
        folders = [out / name / folder for folder in folder_names(classifier.labels)]
        shown: list[list[Tensor]] = [[] for _ in folders[:_ROWS]]
        size = max(classifier.size, self._trained.preprocessing.size if self._trained else 0)
        visits = plan_rounds(len(folders), per_class, size, self._config.classes_per_round)
        with show_progress(name, len(visits) * engine.steps) as progress:
            for visit, (classes, numbers) in enumerate(visits):
                targets = torch.tensor(classes, device=zoo.device).repeat_interleave(len(numbers))
                recovery = engine.start([Target(name, classifier, targets)], visit)
                while recovery.done < engine.steps:
                    (loss,) = recovery.step()
                    losses = {"label_loss": loss.label.item(), "batch_norm": loss.batch_norm.item()}
                    progress.update(visit * engine.steps + recovery.done, losses)
                (images,) = recovery.images()
                meter.add(images, targets)
                for label, of_class in zip(classes, torch.split(images.cpu(), len(numbers)), strict=True):
                    _write(folders[label], numbers, of_class)
                    if label < len(shown):
                        shown[label].append(of_class[: max(0, _SHOWN - numbers.start)].clone())
        return Recovered(
            name, classifier.labels, len(folders) * per_class, tuple(torch.cat(each) for each in shown), meter.read()
        )


def plan_rounds(outputs: int, per_class: int, size: int, together: int) -> list[tuple[range, range]]:
    """What is recovered together: (classes, numbers of their images), one after the other.

    As many classes as may be, since their images together are to match statistics that are of all classes; where that
    is too much for one visit, fewer images of each.

    Args:
        outputs: Classes of the member.
        per_class: Images of each.
        size: Pixels a side.
        together: The most classes of a visit.
    """
    groups = math.ceil(outputs / together)
    ends = [round(outputs * number / groups) for number in range(groups + 1)]
    visits = []
    for start, stop in itertools.pairwise(ends):
        at_once = max(1, _AT_ONCE // ((stop - start) * size**2))
        rounds = math.ceil(per_class / at_once)
        bounds = [round(per_class * number / rounds) for number in range(rounds + 1)]
        visits += [(range(start, stop), range(*numbers)) for numbers in itertools.pairwise(bounds)]
    return visits


def _write(folder: Path, numbers: range, images: Tensor) -> None:
    folder.mkdir(parents=True, exist_ok=numbers.start > 0)
    for number, image in zip(numbers, images, strict=True):
        to_pil(image).save(folder / f"{number:04d}.png")


def folder_names(labels: Sequence[str]) -> list[str]:
    """Names that are safe as folders, whatever the labels hold, and differ even where capitals do not count."""
    names: list[str] = []
    taken: set[str] = set()
    for index, label in enumerate(labels):
        name = plain = re.sub(r"[^\w.,+()-]+", "_", label).strip("._")[:80] or "class"
        while name.lower() in taken:
            name = f"{plain}-{index}"
            index += 1
        taken.add(name.lower())
        names.append(name)
    return names


def draw(recovered: Sequence[Recovered]) -> Image.Image:
    """All members on one sheet, with the first images of each class; of members with many classes, the first ones."""
    return render_contact_sheet(
        [
            Block(
                title=each.name,
                note=_note(each),
                rows=[Row(label, images) for label, images in zip(each.labels, each.shown, strict=False)],
            )
            for each in recovered
        ]
    )


def _note(recovered: Recovered) -> str:
    found, classes = recovered.fidelity, len(recovered.labels)
    others = f"; other members, {found.other_agreement:.0%}" if found.other_agreement is not None else ""
    rest = f"; {len(recovered.shown)} of {classes} classes" if classes > len(recovered.shown) else ""
    return f"recognises {found.agreement:.0%} of them{others}{rest}"


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
            str(each.images),
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

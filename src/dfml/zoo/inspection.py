"""What is in a zoo, and what is wrong with it: every member is examined, and a bad one does not stop the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dfml.errors import ZooMemberError
from dfml.seeds import generator
from dfml.zoo.folder import member_paths
from dfml.zoo.formats import MemberConfig
from dfml.zoo.label_space import ClassIdentity, build_label_space
from dfml.zoo.pretrained import PretrainedClassifier
from dfml.zoo.statistics import batch_norm_layers
from dfml.zoo.vetting import load_member, read_member_config, weight_digest

_NOISE_IMAGES = 16
_LEAST_SPREAD = 1e-6  # of the logits between images, relative to their size


@dataclass(frozen=True)
class MemberReport:
    """One member. What a damaged member does not tell is None or empty.

    Attributes:
        name: Of its folder.
        problem: Why it cannot be used, and what to do; None for a usable member.
        format: Name of the format that it is stored in.
        architecture: Name of its architecture; for the format `timm`, a name in timm's registry.
        labels: One an output.
        size: Height and width of its input, in pixels.
        parameters: Number of learned values.
        batch_norms: Layers that hold statistics of the training images.
        sha256: Of its weight file.
        held_out_accuracy: A fraction, if its maker noted one.
        warnings: What a user should know before relying on it.
    """

    name: str
    problem: str | None = None
    format: str | None = None
    architecture: str | None = None
    labels: tuple[str, ...] = ()
    size: int | None = None
    parameters: int | None = None
    batch_norms: int | None = None
    sha256: str | None = None
    held_out_accuracy: float | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class ZooReport:
    """A zoo.

    Attributes:
        members: In the order of their names.
        classes: Classes of the whole zoo, among the members whose configuration can be read.
        merges: Classes that several members know, with those members' names.
    """

    members: tuple[MemberReport, ...]
    classes: int
    merges: dict[str, list[str]] = field(default_factory=dict)

    @property
    def usable(self) -> bool:
        """Whether no member has a problem (warnings do not count)."""
        return all(member.problem is None for member in self.members)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as JSON has them."""
        return {**asdict(self), "usable": self.usable}


def inspect_zoo(path: str | Path, *, class_identity: ClassIdentity = "names") -> ZooReport:
    """Examine every member of a zoo: read its configuration, load its weights, let it classify noise.

    Args:
        path: The zoo's folder.
        class_identity: See `dfml.zoo.label_space.build_label_space`.

    Raises:
        ZooError: If there is no member at all.
        ConfigError: If `class_identity` cannot be used.
    """
    configs: list[MemberConfig] = []
    members = []
    for folder in member_paths(Path(path)):
        try:
            configs.append(read_member_config(folder))
        except ZooMemberError as error:
            members.append(MemberReport(folder.name, _one_line(error), sha256=weight_digest(folder)))
        else:
            members.append(_examine(configs[-1]))
    space = build_label_space([(config.name, config.labels) for config in configs], class_identity)
    merges = {name: [configs[index].name for index in knowing] for name, knowing in space.merges().items()}
    return ZooReport(_with_duplicates(members), len(space), merges)


def _examine(config: MemberConfig) -> MemberReport:
    accuracy = config.details.get("held_out_accuracy")
    report = MemberReport(
        name=config.name,
        format=config.format,
        architecture=config.architecture,
        labels=config.labels,
        size=config.preprocessing.size,
        sha256=weight_digest(config.path),
        held_out_accuracy=float(accuracy) if isinstance(accuracy, int | float) else None,
    )
    try:
        classifier = load_member(config)
    except ZooMemberError as error:
        return replace(report, problem=_one_line(error))
    return replace(
        report,
        parameters=sum(parameter.numel() for parameter in classifier.network.parameters()),
        batch_norms=classifier.num_batch_norms,
        warnings=(*_about_statistics(classifier.network), *_about_answers(classifier)),
    )


def _about_statistics(network: nn.Module) -> list[str]:
    """What the stored statistics cannot tell an inversion."""
    names = {layer: name for name, layer in network.named_modules()}
    warnings = []
    for layer in batch_norm_layers(network):
        mean, variance = layer.running_mean, layer.running_var
        assert isinstance(mean, Tensor)
        assert isinstance(variance, Tensor)
        dead = int((variance <= 0).sum())
        if dead:
            warnings.append(f"{names[layer]}: {dead} of {len(variance)} channels have a stored variance of zero")
        if not bool(mean.any()) and bool((variance == 1).all()):
            warnings.append(
                f"{names[layer]}: its statistics were never updated: they say nothing of the training images"
            )
    if not batch_norm_layers(network):
        warnings.append("no batch-norm layer holds statistics: inversion has only the labels to go by")
    return warnings


@torch.no_grad()
def _about_answers(classifier: PretrainedClassifier) -> list[str]:
    size = classifier.preprocessing.size
    noise = torch.rand(_NOISE_IMAGES, 3, size, size, generator=generator(0, "inspection", "noise"))
    logits = classifier.logits(noise)
    if not bool(torch.isfinite(logits).all()):
        return ["its scores for images of noise are not finite"]
    if float(logits.std(0).max()) <= _LEAST_SPREAD * max(1.0, float(logits.abs().max())):
        return ["it gives every image of noise the same scores"]
    return []


def _with_duplicates(members: Sequence[MemberReport]) -> tuple[MemberReport, ...]:
    """Warn of members whose weight files are the same."""
    first: dict[str, str] = {}
    reports = []
    for member in members:
        if member.sha256:
            original = first.setdefault(member.sha256, member.name)
            if original != member.name:
                member = replace(member, warnings=(*member.warnings, f"its weights are those of {original}"))
        reports.append(member)
    return tuple(reports)


def _one_line(error: ZooMemberError) -> str:
    return f"{error.reason}; {error.fix}"

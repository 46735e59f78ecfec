"""`inspect_zoo`: contents and defects of a zoo. A damaged member is reported and does not stop the examination."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Any

from torch import Tensor, nn

from dfml.errors import ZooMemberError
from dfml.zoo.candidates import Candidates, find_candidates
from dfml.zoo.folder import RECORD, empty_zoo, member_paths
from dfml.zoo.formats import MemberConfig
from dfml.zoo.hub import absolute_path, is_hub_id
from dfml.zoo.label_space import ClassIdentity, LabelSpace, build_label_space
from dfml.zoo.manifest import MANIFEST, find_entry, named_files, read_manifest
from dfml.zoo.members import Predicts
from dfml.zoo.pickle_contents import printable
from dfml.zoo.pretrained import PretrainedClassifier
from dfml.zoo.probing import probe_warnings
from dfml.zoo.sniffing import Found, sniff
from dfml.zoo.statistics import batch_norm_layers
from dfml.zoo.vetting import check_networks, load_member, read_member_config, weight_digest
from dfml.zoo.zoo import Zoo, common_size

_MANY_CLASSES = 10  # times the median number of classes of the zoo's members
_LAYERS_NAMED = 3  # batch-norm layers with the same defect that warnings name


@dataclass(frozen=True)
class MemberReport:
    """One member, or a model file that is no member. A value that cannot be read or is not known is None or empty.

    Attributes:
        name: Name of its folder or file; for a file that is no member, its path below the zoo's folder.
        problem: Why it cannot be used, and what to do; None for a usable member.
        format: Name of its format; for a file that is no member its kind (`dfml.zoo.sniffing.Kind`); None for a member
            in memory.
        architecture: Name of its architecture; for the format `timm`, a name in timm's registry.
        labels: One name per output.
        size: Height and width of its input, in pixels.
        parameters: Number of values of its parameters, without buffers.
        batch_norms: Number of batch-norm layers with running statistics.
        sha256: SHA-256 of its weight file, as hex digits.
        held_out_accuracy: Accuracy on held-out images, a fraction, if noted in its configuration.
        warnings: Properties that make it less useful, one line each.
        is_member: Whether it is a member of the zoo; False for another model file below the zoo's folder.
        can_be_added: Whether `dfml zoo add` can make it a member; only for files that are none.
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
    is_member: bool = True
    can_be_added: bool = False


@dataclass(frozen=True)
class ZooReport:
    """The result of `inspect_zoo`.

    Attributes:
        members: The members in the order of their names; after them the model files below the zoo's folder that are no
            members, each with a problem.
        classes: Number of classes of the zoo, over the members whose configuration can be read.
        merges: Classes that several members share -> those members' names.
        learner_size: Height and width in pixels at which a learner works (see `Zoo.preprocessing`), over the members
            whose configuration can be read; None if there are none.
        others: Number of other files below the zoo's folder, outside of the members: texts and images.
    """

    members: tuple[MemberReport, ...]
    classes: int
    merges: dict[str, list[str]] = field(default_factory=dict)
    learner_size: int | None = None
    others: int = 0

    @property
    def usable(self) -> bool:
        """Whether every model file is a member without a problem (warnings do not count)."""
        return all(member.problem is None for member in self.members)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as JSON has them."""
        return {**asdict(self), "usable": self.usable}


def inspect_zoo(
    zoo: str | Path | Zoo, *, class_identity: ClassIdentity = "names", networks: Mapping[str, str] | None = None
) -> ZooReport:
    """Examine every member of a zoo: read its configuration, load its weights, classify synthetic images with it.

    Members that only predict are listed; synthetic images are not sent to them.

    Args:
        zoo: A zoo's folder, one member on the Hub (`hf:OWNER/NAME`), or an open zoo.
        class_identity: See `dfml.zoo.label_space.build_label_space`; an open zoo keeps its own.
        networks: See `Zoo.open`.

    Raises:
        ZooError: If there is no member at all.
        ConfigError: If `class_identity` cannot be used.
        UsageError: If `networks` has the name of no member.
    """
    if isinstance(zoo, Zoo):
        return _inspect_open(zoo)
    path = absolute_path(zoo) if is_hub_id(zoo) else Path(zoo)
    paths = member_paths(path, allow_none=True)
    found = _unused(path, paths)
    if not paths and not found.models:
        raise empty_zoo(path)
    check_networks(paths, networks)
    configs: list[MemberConfig] = []
    members = []
    for member in paths:
        try:
            entry = find_entry(member)
            configs.append(read_member_config(member, (networks or {}).get(entry.member_name) if entry else None))
        except ZooMemberError as error:
            members.append(MemberReport(member.name, _one_line(error), sha256=weight_digest(member)))
        else:
            members.append(_examine(configs[-1]))
    members += [_no_member(each, path) for each in found.models]
    space = build_label_space([(config.name, config.labels) for config in configs], class_identity)
    report = _report(members, space, [config.name for config in configs])
    return replace(report, others=len(found.others))


def _unused(zoo: Path, members: Sequence[Path]) -> Candidates:
    """Files below a zoo's folder that belong to no member."""
    if zoo in members:
        return Candidates()
    if zoo.is_dir():
        manifest = read_manifest(zoo)
        named = named_files(zoo, manifest.members if manifest else ())
        return find_candidates(zoo, [*members, *named, zoo / MANIFEST, zoo / RECORD])
    return Candidates([sniff(zoo)])


def _no_member(found: Found, zoo: Path) -> MemberReport:
    """The report of a file below a zoo's folder that is no member."""
    inside = found.path.is_relative_to(zoo) and found.path != zoo
    name = printable(str(found.path.relative_to(zoo) if inside else found.path.name), limit=200)
    problem = f"{found.reason}; {found.fix}"
    if found.reason is None:
        problem = f"it is no member of the zoo; `dfml zoo add {printable(str(found.path), limit=500)}` makes it one"
    return MemberReport(
        name,
        problem,
        format=found.kind.value,
        architecture=found.detail or None,
        is_member=False,
        can_be_added=found.reason is None,
    )


def _inspect_open(zoo: Zoo) -> ZooReport:
    names = [zoo.name(index) for index in range(len(zoo))]
    members = [
        _examine(config) if config else _examine_in_memory(name, zoo[index])
        for index, (name, config) in enumerate(zip(names, zoo.member_configs, strict=True))
    ]
    return _report(members, zoo.classes, names)


def _report(members: Sequence[MemberReport], space: LabelSpace, names: Sequence[str]) -> ZooReport:
    merges = {label: [names[index] for index in sharing] for label, sharing in space.merges().items()}
    sizes = [member.size for member in members if member.size]
    members = _with_many_classes(_with_duplicates(members), space, names)
    return ZooReport(members, len(space), merges, common_size(sizes) if sizes else None)


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
        member = load_member(config)
        if isinstance(member, PretrainedClassifier):
            return _with_network(report, member)
        reason = getattr(member, "reason", "") or "it only predicts"
        return replace(report, warnings=(f"{reason}; it is not inverted",))
    except ZooMemberError as error:
        return replace(report, problem=_one_line(error))


def _examine_in_memory(name: str, member: Predicts) -> MemberReport:
    report = MemberReport(name=name, labels=member.labels, size=member.preprocessing.size)
    if isinstance(member, PretrainedClassifier):
        return _with_network(replace(report, architecture=type(member.network).__name__), member)
    return replace(report, warnings=("its network is not known: its parameters and predictions were not examined",))


def _with_network(report: MemberReport, classifier: PretrainedClassifier) -> MemberReport:
    return replace(
        report,
        parameters=sum(parameter.numel() for parameter in classifier.network.parameters()),
        batch_norms=classifier.num_batch_norms,
        warnings=(*_statistics_warnings(classifier.network), *probe_warnings(classifier)),
    )


def _statistics_warnings(network: nn.Module) -> list[str]:
    """Defects of the running statistics, which inversion relies on."""
    names = {layer: name for name, layer in network.named_modules()}
    warnings, untrained, zeros = [], [], []
    for layer in batch_norm_layers(network):
        mean, variance = layer.running_mean, layer.running_var
        assert isinstance(mean, Tensor)
        assert isinstance(variance, Tensor)
        dead = int((variance <= 0).sum())
        if dead:
            zeros.append(f"{names[layer]}: {dead} of {len(variance)} channels have a running variance of zero")
        if not bool(mean.any()) and bool((variance == 1).all()):
            untrained.append(
                f"{names[layer]}: its running statistics were never updated: they do not depend on the training images"
            )
    for each in (zeros, untrained):
        warnings += each[:_LAYERS_NAMED]
        if len(each) > _LAYERS_NAMED:
            warnings.append(f"and {len(each) - _LAYERS_NAMED} more batch-norm layers likewise")
    if not batch_norm_layers(network):
        warnings.append("no batch-norm layer has running statistics: inversion can use the labels only")
    return warnings


def _with_duplicates(members: Sequence[MemberReport]) -> tuple[MemberReport, ...]:
    """Add a warning to members whose weight files are identical to an earlier member's."""
    first: dict[str, str] = {}
    reports = []
    for member in members:
        if member.sha256:
            original = first.setdefault(member.sha256, member.name)
            if original != member.name:
                member = replace(member, warnings=(*member.warnings, f"its weights are those of {original}"))
        reports.append(member)
    return tuple(reports)


def _with_many_classes(
    members: tuple[MemberReport, ...], space: LabelSpace, names: Sequence[str]
) -> tuple[MemberReport, ...]:
    """Add a warning to a member with ten times the median number of classes that alone has over half of all classes."""
    of_member = {name: set(classes) for name, classes in zip(names, space.of_member, strict=True)}
    members_with = Counter(chain.from_iterable(of_member.values()))
    shared = {name: sum(members_with[each] > 1 for each in classes) for name, classes in of_member.items()}
    usual = median(map(len, of_member.values())) if of_member else 0
    return tuple(
        replace(
            member,
            warnings=(
                *member.warnings,
                f"it has {len(member.labels)} of the zoo's {len(space)} classes, of which other members know "
                f"{shared[member.name]}: its predictions for the rest cannot be compared with theirs; a round of "
                "inversion takes at most `inversion.classes_per_round` of them",
            ),
        )
        if member.name in shared
        and len(member.labels) >= _MANY_CLASSES * usual
        and 2 * (len(member.labels) - shared[member.name]) > len(space)
        else member
        for member in members
    )


def _one_line(error: ZooMemberError) -> str:
    return f"{error.reason}; {error.fix}"

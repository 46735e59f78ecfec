"""Other people's files as members: what a file says, what the user says, and what is still missing.

An entry of the manifest is complete when the member loads strictly, classifies an image, and its preprocessing is
stated, confirmed by labelled images, or accepted by the user. Nothing is guessed silently.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from dfml.errors import ConfigError, ZooMemberError
from dfml.zoo.adding_rules import Missing, find_labels, member_name, missing_architecture, missing_preprocessing
from dfml.zoo.candidates import find_candidates
from dfml.zoo.formats import MemberConfig, format_of
from dfml.zoo.labelled_check import LabelledImages, better_interpolation, rank_by_labelled_images
from dfml.zoo.manifest import Manifest, ManifestMember, entry_path
from dfml.zoo.pinned_code import is_allowed
from dfml.zoo.preprocessing_ranking import Candidate, PreprocessingRanking, candidates_for, rank_by_statistics
from dfml.zoo.pretrained import PretrainedClassifier
from dfml.zoo.sniffing import Found, Kind, sniff
from dfml.zoo.vetting import load_member, read_member_config, sha256, weight_digest

_SELF_DESCRIBING = frozenset({Kind.TIMM, Kind.TRANSFORMERS})
_CODE = {Kind.TORCHSCRIPT: "torchscript", Kind.PT2: "pt2"}
"""Kinds of files that run code when they are opened, and the names of their formats."""
_PREPROCESSING = ("mean", "std", "range")


@dataclass(frozen=True)
class Stated:
    """What the user says about a file.

    Attributes:
        fields: Fields of `ManifestMember` that are stated; they replace what is proposed.
        accept_preprocessing: Whether a clear ranking by batch-norm statistics is accepted.
        accept_architecture: Whether an architecture is accepted of which the weights leave something open.
        distance: Distance between a network's batch-norm statistics and those of synthetic images, by which
            architectures that the same weights fit are ordered (`dfml.inversion.proposal_scores`); None: not ordered.
        images: Labelled images to check with.
        class_index: Class of the labelled images -> index of the output; classes that it leaves out go by name.
    """

    fields: Mapping[str, Any] = field(default_factory=dict)
    accept_preprocessing: bool = False
    accept_architecture: bool = False
    distance: Callable[[PretrainedClassifier], float | None] | None = None
    images: LabelledImages | None = None
    class_index: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Assessment:
    """A file, and how far its entry is known.

    Attributes:
        found: What the file is.
        entry: The entry; complete if nothing is missing.
        missing: What the user has to say, with the flags to say it by.
        ranking: Candidates of the preprocessing; None if it is stated and there are no labelled images.
        notes: Further lines for the user.
    """

    found: Found
    entry: ManifestMember | None = None
    missing: tuple[Missing, ...] = ()
    ranking: PreprocessingRanking | None = None
    notes: tuple[str, ...] = ()


def model_paths(paths: Sequence[Path]) -> list[Path]:
    """Files and folders that are, or were meant to be, models: a folder that is no model itself stands for those in it.

    Args:
        paths: Files and folders that the user named.
    """
    found: list[Path] = []
    for path in paths:
        folder = path.is_dir() and sniff(path).kind is Kind.UNKNOWN
        inside = [each.path for each in find_candidates(path).models] if folder else []
        found += inside or [path]
    return list(dict.fromkeys(found))


def assess(path: Path, zoo: Path, manifest: Manifest, stated: Stated) -> Assessment:
    """Find out whether a file can be a member, with what is stated and what its content shows.

    Args:
        path: The file or folder.
        zoo: The zoo's folder; it need not exist.
        manifest: The zoo's manifest, for names that are taken.
        stated: What the user says.

    Raises:
        ZooMemberError: If no classifier can be read from the file, or it does not fit what is stated.
    """
    found = sniff(path)
    if found.reason is not None and not _may_run(found):
        raise ZooMemberError(path, found.reason, found.fix)
    if not found.is_candidate:
        raise ZooMemberError(path, "it is text or an image, not a model", "give the file that holds the weights")
    try:
        entries, missing, notes = _entries(found, zoo, manifest, stated)
        if not entries:
            return Assessment(found, None, tuple(missing))
        return _checked(found, entries, zoo, stated, missing, notes)
    except ConfigError as error:
        raise ZooMemberError(path, str(error), "correct what is stated") from error


def _may_run(found: Found) -> bool:
    """Whether it is a file that runs code when it is opened, and the user has allowed its digest."""
    return found.kind in _CODE and is_allowed(sha256(found.path))


def _entries(
    found: Found, zoo: Path, manifest: Manifest, stated: Stated
) -> tuple[list[ManifestMember], list[Missing], list[str]]:
    """Entries that may be right, the most likely first; what they lack; notes."""
    path, fields = found.path, dict(stated.fields)
    common: dict[str, Any] = {"path": _stored_path(path, zoo), "name": member_name(path, zoo, manifest)}
    if found.kind in _SELF_DESCRIBING:
        described = format_of(path)
        own = {"format": described.name, "sha256": weight_digest(path)}
        return [ManifestMember(**{**common, **own, **fields})], [], []
    common["sha256"] = sha256(path)
    if found.kind in _CODE:
        labels = find_labels(path, (), 2)
        pinned = {"format": _CODE[found.kind], "allow_code": True, "labels": labels, **common, **fields}
        return [ManifestMember(**pinned)], _missing_size(fields, None), []
    if found.kind is Kind.ONNX:
        return [_onnx_entry(path, common, fields)], [], []
    from dfml.zoo.checkpoint_files import read_checkpoint
    from dfml.zoo.proposals import propose

    checkpoint = read_checkpoint(path)
    if accuracy := checkpoint.details.get("held_out_accuracy"):
        common["held_out_accuracy"] = accuracy
    notes: list[str] = []
    if "architecture" in fields or "network" in fields:
        outputs = _outputs(checkpoint.state_dict)
        if fields.get("output") in (None, "logits") and outputs == 1:
            fields["output"] = "logit"
        labels = find_labels(path, checkpoint.labels, max(2, outputs))
        if isinstance(fields.get("architecture"), str):
            same = [each for each in propose(checkpoint) if each.architecture == fields["architecture"]]
            if same:  # with the arguments that the shapes of the weights show
                entry = same[0].entry(**{**common, "labels": labels, **fields})
                return [entry], _missing_size(fields, same[0].size), notes
        return [ManifestMember(**{"labels": labels, **common, **fields})], _missing_size(fields, None), notes
    proposals = propose(checkpoint)
    if not proposals:
        return [], [missing_architecture()], notes
    entries = []
    for proposal in proposals:
        labels = find_labels(path, checkpoint.labels, max(2, proposal.outputs))
        entries.append(proposal.entry(**{**common, "labels": labels, **fields}))
    open_points = proposals[0].ambiguities
    if open_points:
        notes.append(f"the weights do not tell: {'; '.join(open_points)}")
    missing = _missing_size(fields, proposals[0].size)
    if (open_points or len(proposals) > 1) and not (stated.accept_architecture or stated.images):
        missing.append(missing_architecture(proposals[0].architecture, open_points, len(proposals)))
    return entries, missing, notes


def _onnx_entry(path: Path, common: dict[str, Any], fields: dict[str, Any]) -> ManifestMember:
    """An entry for an ONNX file, whose graph has the size, the channels and the outputs."""
    from dfml.zoo.onnx_graph import read_onnx_graph

    graph = read_onnx_graph(path)
    proposed: dict[str, Any] = {"format": "onnx", "channels": graph.channels}
    if graph.size:
        proposed["size"] = graph.size if graph.size[0] != graph.size[1] else graph.size[0]
    if graph.ending != "logits" or graph.outputs == 1:
        proposed["output"] = "logit" if graph.ending == "logits" else graph.ending
    proposed["labels"] = find_labels(path, (), max(2, graph.outputs or 2))
    return ManifestMember(**{**proposed, **common, **fields})


def _outputs(state_dict: Mapping[str, Tensor]) -> int:
    """Number of outputs, if the last matrix of weights is the head's."""
    last = next((tensor for tensor in reversed(list(state_dict.values())) if tensor.ndim in (2, 4)), None)
    return 2 if last is None else len(last)


def _missing_size(fields: Mapping[str, Any], proposed: int | None) -> list[Missing]:
    if "size" in fields or proposed is not None:
        return []
    return [Missing("size", "its input size is not known", "--size N, with the side length in pixels")]


def _checked(
    found: Found,
    entries: Sequence[ManifestMember],
    zoo: Path,
    stated: Stated,
    missing: list[Missing],
    notes: list[str],
) -> Assessment:
    """Load the member, and find or check its preprocessing."""
    if any(each.field == "size" for each in missing):
        return Assessment(found, entries[0], tuple(missing), notes=tuple(notes))
    config, entry, note = _best_fitting(entries, zoo, stated)
    notes += [note] if note else []
    member = load_member(config)
    evidence = {"architecture": _evidence(stated.fields, ("architecture", "network"), found)}
    declared = found.kind in _SELF_DESCRIBING or any(name in stated.fields for name in _PREPROCESSING)
    ranking = None
    if stated.images is not None:
        ranking, counted = rank_by_labelled_images(
            config, member, stated.images, stated.class_index, grey=entry.channels == 1, declared=declared
        )
        own = next((each for each in ranking.ranked if each.candidate.name == "as stated"), None)
        shown = own or ranking.ranked[0]
        evidence["accuracy"] = f"{shown.figure} of {counted} labelled images"
        if own and ranking.ranked[0] is not own and ranking.clear:
            notes.append(f"other preprocessing classifies the labelled images better: {ranking.describe()}")
        better = None
        if "interpolation" not in stated.fields:
            better = better_interpolation(config, member, stated.images, stated.class_index, shown.candidate)
        notes += [better] if better else []
    elif not declared and isinstance(member, PretrainedClassifier):
        ranking = rank_by_statistics(
            member.network, config.preprocessing.size, candidates_for(grey=entry.channels == 1)
        )
    if declared:
        by = "the files" if found.kind in _SELF_DESCRIBING else "the user"
        evidence["preprocessing"] = f"stated by {by}"
    elif ranking is not None and ranking.clear and (stated.images is not None or stated.accept_preprocessing):
        entry = _with_candidate(entry, ranking.ranked[0].candidate)
        accepted = "" if stated.images is not None else "accepted by the user: "
        evidence["preprocessing"] = f"{accepted}{ranking.describe()}"
    else:
        missing.append(missing_preprocessing(ranking))
    entry = entry.model_copy(update={"evidence": {**entry.evidence, **evidence}})
    return Assessment(found, entry, tuple(missing), ranking, tuple(notes))


def _evidence(fields: Mapping[str, Any], names: Sequence[str], found: Found) -> str:
    if any(name in fields for name in names):
        return "stated by the user; a strict load fits"
    if found.kind in _CODE:
        return "code in the file, which the user allowed to run"
    if found.kind is Kind.ONNX:
        return "the graph in the file"
    return "stated by the files" if found.kind in _SELF_DESCRIBING else "proposed from the file; a strict load fits"


def _config(entry: ManifestMember, zoo: Path) -> MemberConfig:
    """Configuration of a member that is not in the manifest yet, where its digest would be looked up."""
    unchecked = entry if entry.allow_code else entry.model_copy(update={"sha256": None})
    return read_member_config(entry_path(zoo, entry), entry.network, unchecked)


def _best_fitting(
    entries: Sequence[ManifestMember], zoo: Path, stated: Stated
) -> tuple[MemberConfig, ManifestMember, str | None]:
    """The entry that fits best, and a note on how the others fit.

    Labelled images decide if there are any: the entry that classifies most of them with its best preprocessing. Else
    the entry whose batch-norm statistics fit synthetic images best, in all layers (`Stated.distance`); the first one
    where neither tells them apart.

    Raises:
        ZooMemberError: If none can be loaded; the error of the first.
    """
    if len(entries) == 1 or (stated.images is None and stated.distance is None):
        return _config(entries[0], zoo), entries[0], None
    tried: list[tuple[float, MemberConfig, ManifestMember]] = []
    first: ZooMemberError | None = None
    for entry in entries:
        try:
            config = _config(entry, zoo)
            tried.append((_misfit(config, entry, stated), config, entry))
        except ZooMemberError as error:
            first = first or error
    if not tried:
        assert first is not None
        raise first
    tried.sort(key=lambda each: each[0])  # stable: the first one stays first where nothing tells them apart
    best, config, entry = tried[0]
    if stated.images is not None or not best < tried[-1][0] < math.inf:
        return config, entry, None
    figures = ", ".join(f"{_describe_network(each)} {misfit:.3g}" for misfit, _, each in tried)
    return config, entry, f"distance of batch-norm statistics in all layers, smaller is better: {figures}"


def _misfit(config: MemberConfig, entry: ManifestMember, stated: Stated) -> float:
    """How badly a member fits: errors on the labelled images, else the distance of its batch-norm statistics."""
    member = load_member(config)
    if stated.images is not None:
        grey = entry.channels == 1
        ranking, _ = rank_by_labelled_images(
            config, member, stated.images, stated.class_index, grey=grey, declared=False
        )
        return 1.0 - (ranking.ranked[0].accuracy or 0.0)
    if stated.distance is None or not isinstance(member, PretrainedClassifier):
        return 0.0
    if not any(name in stated.fields for name in _PREPROCESSING):
        size = config.preprocessing.size
        ranking = rank_by_statistics(member.network, size, candidates_for(grey=entry.channels == 1))
        if ranking.best:
            own = ranking.best.candidate.at(size)
            member = PretrainedClassifier(member.network, member.labels, own, member.source)
    found = stated.distance(member)
    return 0.0 if found is None else found


def _describe_network(entry: ManifestMember) -> str:
    if isinstance(entry.architecture, str):
        return ", ".join([entry.architecture, *(f"{name} {value}" for name, value in entry.arguments.items())])
    return f"[{', '.join(map(str, entry.architecture))}]"


def _with_candidate(entry: ManifestMember, candidate: Candidate) -> ManifestMember:
    values = {
        name: triple[:1] if candidate.is_grey else triple
        for name, triple in (("mean", candidate.mean), ("std", candidate.std))
    }
    return entry.model_copy(update={**values, "range": "0..1"})


def _stored_path(path: Path, zoo: Path) -> str:
    """Path of a file in the manifest: relative inside the zoo, else absolute."""
    absolute, folder = os.path.abspath(path), os.path.abspath(zoo)
    return os.path.relpath(absolute, folder) if absolute.startswith(folder + os.sep) else absolute

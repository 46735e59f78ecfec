"""Other people's files as members: what a file says, what the user says, and what is still missing.

An entry of the manifest is complete when the member loads strictly, classifies an image, and its preprocessing is
stated, confirmed by labelled images, or accepted by the user. Nothing is guessed silently.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dfml.errors import ConfigError, ZooMemberError
from dfml.zoo.adding_rules import Missing, find_labels, member_name, missing_architecture, missing_preprocessing
from dfml.zoo.candidates import find_candidates
from dfml.zoo.formats import MemberConfig, format_of
from dfml.zoo.manifest import Manifest, ManifestMember, entry_path
from dfml.zoo.members import Predicts
from dfml.zoo.preprocessing_ranking import (
    Candidate,
    PreprocessingRanking,
    candidates_for,
    match_classes,
    rank_by_accuracy,
    rank_by_statistics,
)
from dfml.zoo.pretrained import Preprocessing, PretrainedClassifier
from dfml.zoo.sniffing import Found, Kind, sniff
from dfml.zoo.vetting import load_member, read_member_config, sha256, weight_digest

_SELF_DESCRIBING = frozenset({Kind.TIMM, Kind.TRANSFORMERS})
_PREPROCESSING = ("mean", "std", "range")

LabelledImages = Callable[[int], tuple[Tensor, Tensor, Sequence[str]]]
"""Size in pixels -> images in [0, 1] (NCHW, three channels), the class of each, and the names of the classes."""


@dataclass(frozen=True)
class Stated:
    """What the user says about a file.

    Attributes:
        fields: Fields of `ManifestMember` that are stated; they replace what is proposed.
        accept_preprocessing: Whether a clear ranking by batch-norm statistics is accepted.
        accept_architecture: Whether an architecture is accepted of which the weights leave something open.
        images: Labelled images to check with.
        class_index: Class of the labelled images -> index of the output; classes that it leaves out go by name.
    """

    fields: Mapping[str, Any] = field(default_factory=dict)
    accept_preprocessing: bool = False
    accept_architecture: bool = False
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
    if found.reason is not None:
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


def _entries(
    found: Found, zoo: Path, manifest: Manifest, stated: Stated
) -> tuple[list[ManifestMember], list[Missing], list[str]]:
    """Entries that may be right, the most likely first; what they lack; notes."""
    path, fields = found.path, dict(stated.fields)
    common: dict[str, Any] = {"path": _stored_path(path, zoo), "name": member_name(path, zoo, manifest)}
    if found.kind in _SELF_DESCRIBING:
        described = format_of(path)
        return [ManifestMember(**common, format=described.name, sha256=weight_digest(path), **fields)], [], []
    common["sha256"] = sha256(path)
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
    config, entry = _best_fitting(entries, zoo, stated)
    member = load_member(config)
    evidence = {"architecture": _evidence(stated.fields, ("architecture", "network"), found)}
    declared = found.kind in _SELF_DESCRIBING or any(name in stated.fields for name in _PREPROCESSING)
    ranking = None
    if stated.images is not None:
        ranking, counted = _by_accuracy(config, member, stated, entry, declared)
        own = next((each for each in ranking.ranked if each.candidate.name == "as stated"), None)
        shown = own or ranking.ranked[0]
        evidence["accuracy"] = f"{shown.figure} of {counted} labelled images"
        if own and ranking.ranked[0] is not own and ranking.clear:
            notes.append(f"other preprocessing classifies the labelled images better: {ranking.describe()}")
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
    return "stated by the files" if found.kind in _SELF_DESCRIBING else "proposed from the file; a strict load fits"


def _config(entry: ManifestMember, zoo: Path) -> MemberConfig:
    """Configuration of a member that is not in the manifest yet, where its digest would be looked up."""
    return read_member_config(entry_path(zoo, entry), entry.network, entry.model_copy(update={"sha256": None}))


def _best_fitting(entries: Sequence[ManifestMember], zoo: Path, stated: Stated) -> tuple[MemberConfig, ManifestMember]:
    """The first entry; with labelled images, the one that classifies most of them with its best preprocessing.

    Raises:
        ZooMemberError: If none can be loaded; the error of the first.
    """
    if len(entries) == 1 or stated.images is None:
        return _config(entries[0], zoo), entries[0]
    best: tuple[float, MemberConfig, ManifestMember] | None = None
    first: ZooMemberError | None = None
    for entry in entries:
        try:
            config = _config(entry, zoo)
            ranking, _ = _by_accuracy(config, load_member(config), stated, entry, declared=False)
        except ZooMemberError as error:
            first = first or error
            continue
        accuracy = ranking.ranked[0].accuracy or 0.0
        if best is None or accuracy > best[0]:
            best = accuracy, config, entry
    if best is None:
        assert first is not None
        raise first
    return best[1], best[2]


def _by_accuracy(
    config: MemberConfig, member: Predicts, stated: Stated, entry: ManifestMember, declared: bool
) -> tuple[PreprocessingRanking, int]:
    """Ranking by the labelled images that are of the member's classes, and their number."""
    assert stated.images is not None
    images, classes, names = stated.images(config.preprocessing.size)
    outputs = torch.tensor(match_classes(names, config.labels, stated.class_index))
    kept = outputs[classes] >= 0
    if not bool(kept.any()):
        raise ZooMemberError(
            config.path,
            f"none of the image folders ({', '.join(names[:5])}, ...) has the name of a label "
            f"({', '.join(config.labels[:5])}, ...)",
            "give --labels, or --class-index FILE that maps folders to outputs",
        )
    candidates = candidates_for(grey=entry.channels == 1)
    if declared:
        own = config.preprocessing
        candidates = (Candidate("as stated", own.mean, own.std), *candidates)

    def member_with(preprocessing: Preprocessing) -> Predicts:
        if isinstance(member, PretrainedClassifier):
            return PretrainedClassifier(member.network, member.labels, preprocessing, member.source)
        return load_member(replace(config, preprocessing=preprocessing))

    targets = outputs[classes[kept]]
    return rank_by_accuracy(member_with, images[kept], targets, candidates), len(targets)


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

"""Continuing a training with more members: what belongs to a member moves to the member's new place.

The student keeps its backbone, and for every member that it knows the rows of its head, with the optimiser's state. The
buffer keeps its images with the predictions of the members that it has; those of new members are NaN, as of members
that were not queried. Counts and exclusions are kept by member. Only what belongs to new members begins anew.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dfml.errors import RunError
from dfml.learners.student import Student
from dfml.optimisers import MuonAndAdam
from dfml.training.checkpoint import State
from dfml.zoo.zoo import Zoo

_NAMED = 5  # members that a message names


def describe_members(zoo: Zoo) -> list[dict[str, Any]]:
    """Name, digest and classes of every member, as plain values for a checkpoint."""
    return [
        {"name": zoo.name(index), "digest": digest, "classes": list(zoo.classes.of_member[index])}
        for index, digest in enumerate(zoo.member_digests())
    ]


def match_members(stored: Sequence[dict[str, Any]], zoo: Zoo) -> list[int]:
    """Find the members of a checkpoint's run in a zoo: by their digest, and by name where several have the same one.

    Args:
        stored: What `describe_members` returned for the checkpoint's run.
        zoo: The zoo of the run that loads the checkpoint.

    Returns:
        For every member of the checkpoint its index in the zoo.

    Raises:
        RunError: If a member is missing or has changed; names them.
    """
    places: dict[str, list[int]] = {}
    for index, digest in enumerate(zoo.member_digests()):
        places.setdefault(digest, []).append(index)
    names = {zoo.name(index) for index in range(len(zoo))}
    found, lost = [], []
    for member in stored:
        candidates = places.get(member["digest"], [])
        same_name = [index for index in candidates if zoo.name(index) == member["name"]]
        if not candidates:
            lost.append(f"{member['name']} ({'it has changed' if member['name'] in names else 'it is missing'})")
            continue
        index = (same_name or candidates)[0]
        candidates.remove(index)
        found.append(index)
    if lost:
        more = f" and {len(lost) - _NAMED} more" if len(lost) > _NAMED else ""
        raise RunError(
            f"expected all members that the checkpoint's run learned from, and further ones; of {len(stored)}, this "
            f"zoo lacks {', '.join(lost[:_NAMED])}{more}; restore them, or start without --from"
        )
    return found


def head_names(student: Student, optimiser: MuonAndAdam) -> list[str]:
    """Beginnings of the names, in a run's state, of the tensors of the student's head and of the optimiser for them."""
    names = {id(weight): name for name, weight in student.network.named_parameters()}
    weights = list(student.network.get_classifier().parameters())  # type: ignore[operator]
    return [
        *(f"student.{names[id(weight)]}" for weight in weights),
        *(optimiser.prefix("optimiser", weight) for weight in weights),
    ]


def grown_state(state: State, stored: Sequence[dict[str, Any]], zoo: Zoo, fresh: State, head: Sequence[str]) -> State:
    """The state of a run, in the places of a zoo that has the same members and further ones.

    Args:
        state: The state of the checkpoint.
        stored: The members of its run, from `describe_members`.
        zoo: The zoo.
        fresh: The state of a run on the zoo before its first step.
        head: See `head_names`; these tensors have one row per output.

    Raises:
        RunError: See `match_members`.
    """
    places = match_members(stored, zoo)
    outputs = [len(classes) for classes in zoo.classes.of_member]
    total, columns_of_member = sum(outputs), torch.split(torch.arange(sum(outputs)), outputs)
    columns = torch.cat([columns_of_member[place] for place in places])
    tensors = dict(state.tensors)
    for name, value in state.tensors.items():
        of_head = any(name == each or name.startswith(f"{each}.") for each in head)
        if of_head and value.ndim and len(value) == len(columns):
            grown = fresh.tensors[name].clone() if name in fresh.tensors else value.new_zeros(total, *value.shape[1:])
            grown[columns.to(grown.device)] = value
            tensors[name] = grown
    for name in ("agreement.queried", "agreement.recognised"):
        tensors[name] = torch.zeros_like(fresh.tensors[name])
        tensors[name][columns] = state.tensors[name].cpu()
    index = torch.tensor(places)
    for name in ("agreement.pairs", "agreement.agreed"):
        tensors[name] = torch.zeros_like(fresh.tensors[name])
        tensors[name][index[:, None], index] = state.tensors[name].cpu()
    tensors |= _grown_buffer(state, stored, zoo, places, columns, total)
    names = {member["name"]: zoo.name(place) for member, place in zip(stored, places, strict=True)}
    tensors = {_renamed(name, names): value for name, value in tensors.items()}
    values = {**state.values, "members": fresh.values["members"], "failures": _grown_failures(state, fresh, names)}
    return State(tensors, values, any_length=state.any_length)


def _grown_buffer(
    state: State, stored: Sequence[dict[str, Any]], zoo: Zoo, places: Sequence[int], columns: Tensor, total: int
) -> dict[str, Tensor]:
    """Predictions, members and classes of the images; the images themselves stay."""
    predictions = state.tensors["buffer.log_probabilities"]
    grown = predictions.new_full((len(predictions), total), math.nan)
    grown[:, columns.to(grown.device)] = predictions
    old_members, old_classes = state.tensors["buffer.members"], state.tensors["buffer.classes"]
    members, classes = torch.full_like(old_members, -1), torch.full_like(old_classes, -1)
    for old, place in enumerate(places):
        own = old_members == old
        members[own] = place
        for before, after in zip(stored[old]["classes"], zoo.classes.of_member[place], strict=True):
            classes[own & (old_classes == before)] = after
    return {"buffer.log_probabilities": grown, "buffer.members": members, "buffer.classes": classes}


def _renamed(tensor: str, names: dict[str, str]) -> str:
    """Name of a tensor of the engine that holds a member's name, `engine.ema_statistics.MEMBER.N`."""
    prefix = "engine.ema_statistics."
    if not tensor.startswith(prefix):
        return tensor
    member, _, number = tensor.removeprefix(prefix).rpartition(".")
    return f"{prefix}{names.get(member, member)}.{number}"


def _grown_failures(state: State, fresh: State, names: dict[str, str]) -> dict[str, Any]:
    """What is known of the members' inversions, by their present names; new members have what their run found out."""
    known = set(names.values())
    grown: dict[str, Any] = {}
    for key, counts in fresh.values["failures"].items():
        of_new = {name: value for name, value in counts.items() if name not in known}
        of_known = {names.get(name, name): value for name, value in state.values["failures"].get(key, {}).items()}
        grown[key] = of_known | of_new
    return grown

"""The inversion engine that a run has meta-trained, in the run's checkpoints (`dfml invert --from RUN`)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from dfml.errors import RunError, UsageError
from dfml.inversion.registry import InversionConfig, LearnedEngine
from dfml.learners.classifier import read_preprocessing, select_prefix
from dfml.settings import build_config
from dfml.training.checkpoint import State, list_checkpoints, load_checkpoint
from dfml.training.run_folder import CHECKPOINTS, CONFIG

_ENTRY = "learned_engine"
_PREFIX = "engine."


def add_learned_engine(state: State, engine: LearnedEngine | None) -> State:
    """Add what `read_engine` needs to the state of a run.

    Args:
        state: From `TrainingRun.state_dict`.
        engine: From `TrainingRun.learned_engine`; None leaves the state as it is.

    Raises:
        ValueError: If a tensor of the engine is not in the state under the prefix `engine.`.
    """
    if engine is None:
        return state
    missing = [name for name in engine.tensors if f"{_PREFIX}{name}" not in state.tensors]
    if missing:
        raise ValueError(
            f"the learned engine has a tensor {missing[0]!r}, but the state of the run has no {_PREFIX}{missing[0]!s}; "
            f"state_dict() must return the engine's tensors with the prefix {_PREFIX!r}"
        )
    entry = {
        "config": engine.config.model_dump(mode="json"),
        "preprocessing": engine.preprocessing.as_dict(),
        "tensors": sorted(engine.tensors),
    }
    return replace(state, values={**state.values, _ENTRY: entry})


def read_engine(path: Path, device: torch.device) -> LearnedEngine:
    """Read the engine that a run has meta-trained, whatever the run's method is.

    Args:
        path: Folder of a run, whose newest checkpoint is read, or of one of its checkpoints.
        device: Device of the engine's tensors.

    Raises:
        RunError: If there is no run with a checkpoint at `path`, or the checkpoint is damaged.
        UsageError: If the run has not meta-trained an engine.
    """
    path = path.resolve()
    run = path if (path / CONFIG).is_file() else path.parent.parent
    checkpoints = list_checkpoints(run / CHECKPOINTS)
    if not checkpoints or path not in (run, *checkpoints):
        raise RunError(
            f"expected a run of `dfml train` with a checkpoint, or RUN/{CHECKPOINTS}/NUMBER, at {path}, found none; "
            "check the path"
        )
    checkpoint = checkpoints[-1] if path == run else path
    _, state = load_checkpoint(checkpoint, device)
    entry = state.values.get(_ENTRY)
    if entry is None:
        raise UsageError(
            f"{checkpoint} holds no meta-trained inversion engine; choose a run that meta-trains one (`five` or "
            "`fast_dfkd`), such as one of `dfml train ZOO --method free --out RUN`"
        )
    tensors = select_prefix(state.tensors, _PREFIX)
    try:
        return LearnedEngine(
            build_config(InversionConfig, entry["config"]),
            read_preprocessing(entry["preprocessing"]),
            {name: tensors[name] for name in entry["tensors"]},
            source=str(checkpoint),
        )
    except (KeyError, TypeError) as error:
        raise RunError(f"the engine in checkpoint {checkpoint} cannot be read ({error!r}); use another run") from error

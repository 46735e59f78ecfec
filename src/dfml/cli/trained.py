"""`dfml invert --from RUN`: the engine that a run has meta-trained recovers newcomers as they are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from torch import Tensor

from dfml.errors import RunError, UsageError
from dfml.inversion.engine import Engine
from dfml.inversion.registry import InversionConfig
from dfml.learners import classifier
from dfml.settings import build_config, merge
from dfml.training.checkpoint import list_checkpoints, load_checkpoint, shape_mismatch
from dfml.training.run_folder import CHECKPOINTS, CONFIG
from dfml.zoo.pretrained import Preprocessing

META_TRAINED = ("five", "fast_dfkd")
"""Engines that have to learn in a run before they recover anything."""


@dataclass(frozen=True)
class Trained:
    """What a run has taught its engine.

    Attributes:
        source: The checkpoint that it is from.
        config: The run's settings of it.
        preprocessing: Of the images that it draws.
        tensors: Its state.
    """

    source: Path
    config: InversionConfig
    preprocessing: Preprocessing
    tensors: dict[str, Tensor]

    def teach(self, engine: Engine) -> None:
        """Bring a new engine to this state.

        Raises:
            RunError: If the engine is of another shape, or the checkpoint holds no engine.
        """
        wrong = shape_mismatch(self.tensors, engine.state_dict())
        if wrong:
            raise RunError(
                f"the generator of {self.source} does not fit: {wrong}; leave width and latent as they are in the run"
            )
        engine.load_state_dict(self.tensors)


def read_trained(engine: str, place: Path | None, device: torch.device) -> Trained | None:
    """What `--from` names: a run of the method free, or one of its checkpoints.

    Args:
        engine: That the user has asked for.
        place: What `--from` names; None: nothing.
        device: Where the tensors go.

    Returns:
        None for an engine that needs no run.

    Raises:
        UsageError: If the engine learns in a run and none is named, or the other way round, or the run has another one.
        RunError: If there is no such run, or it cannot be read.
    """
    if place is None:
        if engine not in META_TRAINED:
            return None
        raise UsageError(
            f"--engine {engine} needs a generator that a run has meta-trained: add --from RUN "
            f"(made by `dfml train ZOO --method free --set free.inversion.engine={engine} --out RUN`)"
        )
    if engine not in META_TRAINED:
        raise UsageError(
            f"--engine {engine} learns nothing in a run: drop --from, or choose {' or '.join(META_TRAINED)}"
        )
    place = place.resolve()
    run = place if (place / CONFIG).is_file() else place.parent.parent
    checkpoints = list_checkpoints(run / CHECKPOINTS)
    if not checkpoints or place not in (run, *checkpoints):
        raise RunError(
            "expected a run of `dfml train --method free` with a checkpoint (or RUN/checkpoints/N) at "
            f"--from {place}, found none; check the path"
        )
    config = _inversion_of(run)
    if config.engine != engine:
        raise UsageError(f"the run {run} has meta-trained {config.engine}, not {engine}: use --engine {config.engine}")
    source = checkpoints[-1] if place == run else place
    _, state = load_checkpoint(source, device)
    tensors = classifier.strip(state.tensors, "engine.")
    # A newcomer may bear the name of a member of the run, whose statistics are none of its own.
    own = {name: value for name, value in tensors.items() if not name.startswith("ema_statistics.")}
    return Trained(source, config, classifier.read_preprocessing(state.values["learned_engine"]["preprocessing"]), own)


def _inversion_of(run: Path) -> InversionConfig:
    try:
        section = yaml.safe_load((run / CONFIG).read_text(encoding="utf-8"))["free"]["inversion"]
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError) as error:
        raise RunError(f"{run / CONFIG} is not that of a `dfml train --method free` run; check --from") from error
    return build_config(InversionConfig, merge(InversionConfig().model_dump(), section))

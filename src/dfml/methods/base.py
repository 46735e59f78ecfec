"""`Method`: turns a zoo into a learner. A method gets a zoo and settings, and never labelled images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import torch

from dfml.learners.base import MetaLearner
from dfml.settings import build_config, merge
from dfml.training.device import select_device
from dfml.training.loop import TrainingConfig, TrainingRun, restore, train
from dfml.training.progress import Progress
from dfml.training.run_folder import CONFIG, RunFolder, describe
from dfml.zoo.zoo import Zoo


class Method(ABC):
    """A way to turn a zoo into a learner.

    Args:
        config: All settings; None: the defaults.
        **settings: Single settings that override those of `config`, as in `PURER(way=5, shot=1)`; also within a
            section, as in `FREE(learner={"kind": "anil"})`.

    Attributes:
        name: Name of the method on the command line, in `config.yaml` and in tables.
        config_type: Class of the settings; every setting has a default.
        config: The settings.

    Raises:
        ConfigError: If a setting is unknown or has a wrong value.
    """

    name: ClassVar[str]
    config_type: ClassVar[type[TrainingConfig]]
    presets: ClassVar[dict[str, dict[str, Any]]] = {}
    """Settings that `--preset NAME` chooses, by name; only those that differ from the defaults."""
    trains_on_demand: ClassVar[bool] = False
    """Whether training takes about a minute at most, so that `METHOD:ZOO` in place of a learner's folder trains the
    method first (`dfml.open_learner`). Methods without meta-iterations never need it."""
    run_: TrainingRun
    """The run of the last `fit`, with its metric descriptions, images and meta-trained engine."""

    def __init__(self, config: TrainingConfig | None = None, **settings: Any) -> None:
        base = config if config is not None else self.config_type()
        self.config = build_config(self.config_type, merge(base.model_dump(), settings), section=self.name)

    @abstractmethod
    def start(self, zoo: Zoo, device: torch.device) -> TrainingRun:
        """Create the state before the first meta-iteration.

        Args:
            zoo: The classifiers, on the device.
            device: Device of all computations.

        Raises:
            DfmlError: If the zoo does not suit the method or its settings.
        """

    def fit(
        self,
        zoo: Zoo,
        *,
        out: str | Path | None = None,
        resume: bool = False,
        start_from: str | Path | None = None,
        device: str = "auto",
        progress: Progress | None = None,
    ) -> MetaLearner:
        """Turn a zoo into a learner.

        Args:
            zoo: The classifiers.
            out: Folder of the run; None writes nothing to the disk.
            resume: Continue the run in `out`, if there is one with the same settings; start a new one otherwise.
            start_from: Checkpoint of another run (with the same method, zoo and backbone) to start from, so that
                settings can be compared from a common state.
            device: `auto`, or a name that torch knows.
            progress: Progress display, which is updated after every meta-iteration; None shows nothing.

        Returns:
            The learner after the last meta-iteration. The run is available as `run_`.

        Raises:
            DfmlError: If zoo, settings and folder do not fit each other, or the run fails; what was written stays.
            Interrupted: After SIGINT or SIGTERM, once a checkpoint is written.
        """
        chosen_device = select_device(device)
        zoo.vet()
        run = self.run_ = self.start(zoo.to(chosen_device), chosen_device)
        folder = RunFolder(Path(out)) if out is not None else None
        start = Path(start_from).resolve() if start_from else folder.started_from() if folder and resume else None
        has_checkpoint = resume and folder is not None and folder.newest_checkpoint() is not None
        done = restore(run, start, chosen_device) if start and not has_checkpoint else 0
        if folder:
            about = describe(self.name, self.config, zoo, start)
            exists = (folder.path / CONFIG).exists()
            folder.check(about) if resume and exists else folder.create(about)
        return train(
            run,
            self.config,
            folder=folder,
            resume=resume,
            done=done,
            progress=progress,
            device=chosen_device,
        )

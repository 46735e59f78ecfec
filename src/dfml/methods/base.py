"""`Method`: a zoo and a config in, a learner out. A method never sees labelled images."""

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
    """One way to turn a zoo into a learner.

    Args:
        config: All settings; None: the defaults.
        **settings: Override single settings, as in `PURER(way=5, shot=1)`; within a section too, as in
            `FREE(learner={"kind": "anil"})`.

    Raises:
        ConfigError: If a setting is unknown or has a wrong value.
    """

    name: ClassVar[str]
    config_type: ClassVar[type[TrainingConfig]]
    presets: ClassVar[dict[str, dict[str, Any]]] = {}
    """Named settings for `--preset`."""
    trains_on_demand: ClassVar[bool] = False
    """Whether training takes about a minute at most, so that `METHOD:ZOO` in place of a learner's folder trains the
    method first (`dfml.open_learner`). Methods without meta-iterations never need it."""
    run_: TrainingRun
    """The run of the last `fit`; its hooks tell what can be shown of it."""

    def __init__(self, config: TrainingConfig | None = None, **settings: Any) -> None:
        base = config if config is not None else self.config_type()
        self.config = build_config(self.config_type, merge(base.model_dump(), settings))

    @abstractmethod
    def start(self, zoo: Zoo, device: torch.device) -> TrainingRun:
        """The method's state before the first meta-iteration.

        Raises:
            DfmlError: If the zoo does not suit the method or the config; nothing has been computed then.
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
            out: The run's folder; None keeps nothing on disk.
            resume: Continue the run in `out` if it holds one with the same settings; start it otherwise.
            start_from: A checkpoint of another run (same method, zoo and backbone) to begin with, so that two settings
                can be compared from one common history.
            device: `auto`, or a name that torch knows.
            progress: Told about every meta-iteration.

        Raises:
            DfmlError: If zoo, config and folder do not go together, or the run fails; what was computed is kept.
            Interrupted: After SIGINT or SIGTERM, once a checkpoint is written.
        """
        place = select_device(device)
        zoo.vet()
        run = self.run_ = self.start(zoo.to(place), place)
        folder = RunFolder(Path(out)) if out is not None else None
        start = Path(start_from).resolve() if start_from else folder.started_from() if folder and resume else None
        going_on = resume and folder is not None and folder.newest_checkpoint() is not None
        done = restore(run, start, place) if start and not going_on else 0
        if folder:
            about = describe(self.name, self.config, zoo, start)
            held = (folder.path / CONFIG).exists()
            folder.check(about) if resume and held else folder.create(about)
        return train(
            run,
            self.config,
            folder=folder,
            resume=resume,
            done=done,
            progress=progress,
            device=place,
        )

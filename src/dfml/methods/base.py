"""`Method`: turns a zoo into a learner. A method gets a zoo and settings, and never labelled images.

`Method.fit` calls, in this order:

1. `Zoo.vet`, which loads every member once.
2. `Method.start`, which returns a `TrainingRun`: the state before the first meta-iteration.
3. `dfml.training.loop.restore`, only where the run starts from a checkpoint of another run.
4. `RunFolder.create`, which writes `config.yaml`; or `RunFolder.check`, if the run in the folder is resumed.
5. `dfml.training.loop.train`. It loads the newest checkpoint of a resumed run, and then calls `TrainingRun.step` once
   per meta-iteration. After each, it appends a line to `metrics.jsonl`; every `snapshot_every` ones and after the last,
   it writes a learner to `snapshots/N`; every `checkpoint_every` ones, after the last and after a signal, it writes
   `checkpoints/N`.
6. `TrainingRun.learner`, whose result is returned and written to the folder.

Without a folder (`out=None`) nothing is written.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import torch

from dfml.errors import RunError, UsageError
from dfml.learners.base import MetaLearner
from dfml.settings import build_config, merge
from dfml.training.device import select_device
from dfml.training.loop import OnIteration, TrainingConfig, TrainingRun, restore, train
from dfml.training.progress import Progress
from dfml.training.run_folder import CONFIG, RunFolder, describe, describe_classes, find_checkpoint
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
    """Whether training takes about a minute at most. If so, `dfml.open_learner` and the commands that use it accept
    `METHOD:ZOO`, such as "best_member:zoo/", in place of a learner's folder, and train the method on the zoo first. For
    methods without meta-iterations they always accept it."""
    run_: TrainingRun
    """The run of the last `fit`; it exists only after one. The report page needs it: a learner has neither the
    recovered images nor the descriptions of the metrics."""

    def __init__(self, config: TrainingConfig | None = None, **settings: Any) -> None:
        base = config if config is not None else self.config_type()
        self.config = build_config(self.config_type, merge(base.model_dump(), settings), section=self.name)

    @classmethod
    def preset_settings(cls, name: str | None) -> dict[str, Any]:
        """Settings of a preset; none for the name None.

        Raises:
            UsageError: If there is no such preset.
        """
        if name is None:
            return {}
        if name not in cls.presets:
            known = ", ".join(cls.presets) or "none"
            raise UsageError(f"unknown preset {name!r} of {cls.name}; known are: {known}")
        return cls.presets[name]

    @abstractmethod
    def start(self, zoo: Zoo, device: torch.device) -> TrainingRun:
        """Create the state before the first meta-iteration.

        Args:
            zoo: The classifiers, on the device.
            device: Device of all computations.

        Returns:
            The run before its first meta-iteration.

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
        on_iteration: OnIteration | None = None,
    ) -> MetaLearner:
        """Turn a zoo into a learner.

        Args:
            zoo: The classifiers.
            out: Folder of the run; None writes nothing to the disk.
            resume: Continue the run in `out` from its newest checkpoint. If `out` is new or empty, start a new run. A
                run with other settings in `out` is an error.
            start_from: Checkpoint folder of another run (`RUN/checkpoints/N`), or its folder for the newest one, to
                start from, so that settings can be compared from a common state. The other run must have the same
                method, classes, way, backbone and engine, and heads and memory of the same size; `zoo_student` also
                continues with further members and their classes. Meta-iterations are counted on from that of the
                checkpoint. If `resume` finds a checkpoint in `out`, that one is loaded instead.
            device: `auto`, or a name that torch knows.
            progress: Progress display, which is updated after every meta-iteration; None shows nothing.
            on_iteration: Called after every meta-iteration with its number and its metrics, such as a
                `dfml.training.tensorboard.TensorBoardLog`.

        Returns:
            The learner after the last meta-iteration. The run is available as `run_`.

        Raises:
            DfmlError: If the zoo does not suit the settings, `out` is not empty and holds no run that can be resumed
                with these settings, `start_from` does not fit, or the run fails. Files that the run has written before
                the error are kept.
            Interrupted: After SIGINT or SIGTERM, at the end of the meta-iteration; with `out`, after a checkpoint.
        """
        chosen_device = select_device(device)
        zoo.vet()
        run = self.run_ = self.start(zoo.to(chosen_device), chosen_device)
        folder = RunFolder(Path(out)) if out is not None else None
        # A run that was interrupted before its first checkpoint begins again, from the checkpoint that it started from.
        start = folder.started_from() if folder and resume else None
        if start_from:
            start = find_checkpoint(Path(start_from).resolve())
            _require_classes(start, run, zoo)
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
            on_iteration=on_iteration,
            device=chosen_device,
            provenance={"method": self.name, "members": zoo.provenance()},
        )


def _require_classes(checkpoint: Path, run: TrainingRun, zoo: Zoo) -> None:
    """Check that a run of a method that cannot convert states has the members' classes of the checkpoint's run.

    Tensors of both may have the same shapes, and classes another order.

    Raises:
        RunError: If it has others.
    """
    stated = RunFolder(checkpoint.parent.parent).stated("classes")
    here = describe_classes(zoo)
    if stated not in (None, here) and type(run).convert_state is TrainingRun.convert_state:
        raise RunError(
            f"checkpoint {checkpoint} is of a run with other members or classes ({stated} classes, here {here}); use "
            "the same zoo. The method zoo_student continues with further members"
        )

"""`TensorBoardLog`: the metrics of a training as scalars for TensorBoard (extra `tensorboard`)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dfml.errors import UsageError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class TensorBoardLog:
    """Writes every metric of every meta-iteration; call it as `on_iteration` of `Method.fit`, then `close` it.

    Args:
        folder: Folder of the event files, for `tensorboard --logdir`.
        done: Number of meta-iterations that the run has finished already; what a run that was interrupted has written
            for later ones is hidden.

    Raises:
        UsageError: If the package tensorboard is not installed.
    """

    def __init__(self, folder: Path, done: int = 0) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UsageError("--tensorboard needs the package tensorboard: pip install 'dfml[tensorboard]'") from error
        self._create = partial(SummaryWriter, str(folder), purge_step=done + 1)
        self._writer: SummaryWriter | None = None  # writes its first file at once, and a new run needs an empty folder

    def __call__(self, iteration: int, metrics: Mapping[str, float]) -> None:
        """Write the metrics of a meta-iteration.

        Args:
            iteration: Its number, counted from 1.
            metrics: Its metrics by name.
        """
        self._writer = self._writer or self._create()
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, iteration)

    def close(self) -> None:
        """Write what is still in memory."""
        if self._writer:
            self._writer.close()

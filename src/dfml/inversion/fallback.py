"""`Fallback`: a second inversion engine, for members that do not recognise what the first one recovers from them.

The loss of PURER suits shallow networks: its weights are relative to sums of norms that grow with depth. A training
finds out in a member's first round whether it suits the member, instead of guessing from the architecture.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from dfml.images import to_bytes, to_float
from dfml.inversion.ei import PixelInversion
from dfml.inversion.engine import Target
from dfml.inversion.registry import InversionConfig
from dfml.zoo.members import teacher_logits

_LEAST_RECOGNISED = 0.5  # fraction of a member's images
_PREFIX = "fallback."  # of its tensors in a checkpoint


class Fallback:
    """Decides which members are inverted by `InversionConfig.fallback`, each once, on the images of its first round.

    Args:
        config: Settings of all engines, and of the fallback.
        seed: Seed of the fallback's draws.

    Attributes:
        engine: The second engine; None if the settings have none.
    """

    def __init__(self, config: InversionConfig, seed: int = 0) -> None:
        self.engine: PixelInversion | None = None
        if config.fallback is not None:
            self.engine = PixelInversion(config.fallback, seed)
            self.engine.memory_limit = config.memory_limit
        self._decided: dict[str, bool] = {}

    def has(self, name: str) -> bool:
        """Whether a member is inverted by the second engine."""
        return self.engine is not None and self._decided.get(name, False)

    @torch.no_grad()
    def decide(self, target: Target, images: Float[Tensor, "images 3 _size _size"]) -> str | None:
        """Look at the images that the first engine has recovered from a member, unless that was done before.

        Args:
            target: What was recovered.
            images: The images; the member predicts them rounded to bytes.

        Returns:
            A message if the member recognises at most half of them, so that it has the second engine from now on; else
            None.
        """
        if self.engine is None or target.name in self._decided:
            return None
        predicted = teacher_logits(target.classifier, to_float(to_bytes(images))).argmax(dim=1)
        recognised = int((predicted == target.labels).sum())
        self._decided[target.name] = recognised <= _LEAST_RECOGNISED * len(target.labels)
        if not self._decided[target.name]:
            return None
        return (
            f"{target.name} recognises {recognised} of the first {len(target.labels)} images recovered from it; "
            "its images are recovered by the settings inversion.fallback from now on"
        )

    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, bool]]:
        """Tensors of the engine, and name of every member that was looked at -> whether it has the second engine."""
        tensors = self.engine.state_dict() if self.engine else {}
        return {f"{_PREFIX}{name}": value for name, value in tensors.items()}, dict(self._decided)

    def load_state_dict(self, tensors: Mapping[str, Tensor], decided: Mapping[str, bool]) -> None:
        """Restore what `state_dict` returned; other tensors are ignored."""
        self._decided = dict(decided)
        if self.engine:
            own = {name: value for name, value in tensors.items() if name.startswith(_PREFIX)}
            self.engine.load_state_dict({name.removeprefix(_PREFIX): value for name, value in own.items()})

"""`free`: fast inversion with a meta-generator (FIVE), and meta-learning with aligned gradients (BELL)."""

from dfml.methods.free.algorithm import FREE, FreeRun
from dfml.methods.free.config import FreeConfig

__all__ = ["FREE", "FreeConfig", "FreeRun"]

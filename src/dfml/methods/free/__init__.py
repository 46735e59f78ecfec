"""`free`: fast inversion with a meta-generator (FIVE), and meta-learning with aligned gradients (BELL)."""

from dfml.methods.free.algorithm import FREE, FreeConfig, FreeRun

__all__ = ["FREE", "FreeConfig", "FreeRun"]

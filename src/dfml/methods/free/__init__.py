"""FREE (Wei et al., CVPR 2024): fast recovery of tasks (FIVE) and gradient-aligned distillation and replay (BELL)."""

from dfml.methods.free.algorithm import FREE, FreeConfig, FreeRun

__all__ = ["FREE", "FreeConfig", "FreeRun"]

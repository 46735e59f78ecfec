"""`dro`: a distributionally robust weight generator, after the abstract of Wang et al. (UAI 2022)."""

from dfml.methods.dro.algorithm import DRO, DROConfig, DRORun

__all__ = ["DRO", "DROConfig", "DRORun"]

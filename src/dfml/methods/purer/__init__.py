"""`purer`: episode curriculum inversion and meta-learning on the recovered images (Hu et al., CVPR 2023)."""

from dfml.methods.purer.algorithm import PURER, PurerRun
from dfml.methods.purer.config import PurerConfig

__all__ = ["PURER", "PurerConfig", "PurerRun"]

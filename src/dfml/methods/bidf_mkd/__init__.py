"""`bidf_mkd`: meta-learning from members that only predict (Hu et al., ICML 2023)."""

from dfml.methods.bidf_mkd.algorithm import BiDfMKD, BiDfMKDRun
from dfml.methods.bidf_mkd.config import BiDfMKDConfig

__all__ = ["BiDfMKD", "BiDfMKDConfig", "BiDfMKDRun"]

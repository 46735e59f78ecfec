"""PURER (Hu et al., CVPR 2023): episode curriculum inversion (ECI) and meta-learning from the images it recovers."""

from dfml.methods.purer.algorithm import PURER, PurerConfig, PurerRun

__all__ = ["PURER", "PurerConfig", "PurerRun"]

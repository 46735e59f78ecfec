"""`ot_fusion`: mean of the members' weights after their channels are matched by optimal transport."""

from dfml.methods.ot_fusion.algorithm import Metric, OTFusion, OTFusionConfig

__all__ = ["Metric", "OTFusion", "OTFusionConfig"]

"""`ot_fusion`: align the members' channels by optimal transport, then average their weights."""

from dfml.methods.ot_fusion.algorithm import Metric, OTFusion, OTFusionConfig

__all__ = ["Metric", "OTFusion", "OTFusionConfig"]

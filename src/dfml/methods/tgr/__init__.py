"""`tgr`: task groupings regularization (Wei et al., ICML 2024)."""

from dfml.methods.tgr.algorithm import TGR, TGRRun
from dfml.methods.tgr.config import TGRConfig

__all__ = ["TGR", "TGRConfig", "TGRRun"]

"""dfml turns a zoo of pre-trained image classifiers into a few-shot learner, without their training data.

Names are imported when they are first used, so `import dfml` itself does not import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dfml.late_imports import late_names

if TYPE_CHECKING:
    from dfml.data.dataset import ImageDataset
    from dfml.data.glyphs import glyphs
    from dfml.data.image_folder import open_images
    from dfml.data.support import read_image, read_support
    from dfml.errors import DfmlError
    from dfml.evaluation.protocol import Difference, Evaluation, compare, evaluate
    from dfml.inversion.invert import invert
    from dfml.learners import ANIL, ICFIL, MAML, FewShotClassifier, LearnerConfig, MetaLearner, ProtoNet
    from dfml.methods import METHODS
    from dfml.methods.average import Average
    from dfml.methods.base import Method
    from dfml.methods.best_member import BestMember
    from dfml.methods.bidf_mkd import BiDfMKD
    from dfml.methods.dro import DRO
    from dfml.methods.free import FREE
    from dfml.methods.frozen_backbone import FrozenBackbone
    from dfml.methods.open_learner import open_learner
    from dfml.methods.ot_fusion import OTFusion
    from dfml.methods.purer import PURER
    from dfml.methods.random_init import RandomEmbedding, RandomInit
    from dfml.methods.tgr import TGR
    from dfml.methods.zoo_embedding import ZooEmbedding
    from dfml.methods.zoo_student import ZooStudent
    from dfml.pretraining import build_zoo
    from dfml.training.engine_checkpoint import read_engine
    from dfml.zoo import Preprocessing, PretrainedClassifier, Zoo

    __version__: str

# Module -> its public names. The imports above repeat them for type checkers.
_HOMES = {
    "dfml.data.dataset": ("ImageDataset",),
    "dfml.data.glyphs": ("glyphs",),
    "dfml.data.image_folder": ("open_images",),
    "dfml.data.support": ("read_image", "read_support"),
    "dfml.errors": ("DfmlError",),
    "dfml.inversion.invert": ("invert",),
    "dfml.training.engine_checkpoint": ("read_engine",),
    "dfml.evaluation.protocol": ("Difference", "Evaluation", "compare", "evaluate"),
    "dfml.learners": ("ANIL", "ICFIL", "MAML", "FewShotClassifier", "LearnerConfig", "MetaLearner", "ProtoNet"),
    "dfml.methods": ("METHODS",),
    "dfml.methods.average": ("Average",),
    "dfml.methods.base": ("Method",),
    "dfml.methods.best_member": ("BestMember",),
    "dfml.methods.bidf_mkd": ("BiDfMKD",),
    "dfml.methods.dro": ("DRO",),
    "dfml.methods.free": ("FREE",),
    "dfml.methods.frozen_backbone": ("FrozenBackbone",),
    "dfml.methods.open_learner": ("open_learner",),
    "dfml.methods.ot_fusion": ("OTFusion",),
    "dfml.methods.purer": ("PURER",),
    "dfml.methods.random_init": ("RandomEmbedding", "RandomInit"),
    "dfml.methods.tgr": ("TGR",),
    "dfml.methods.zoo_embedding": ("ZooEmbedding",),
    "dfml.methods.zoo_student": ("ZooStudent",),
    "dfml.pretraining": ("build_zoo",),
    "dfml.zoo": ("Preprocessing", "PretrainedClassifier", "Zoo"),
}

__all__ = [
    "ANIL",
    "DRO",
    "FREE",
    "ICFIL",
    "MAML",
    "METHODS",
    "PURER",
    "TGR",
    "Average",
    "BestMember",
    "BiDfMKD",
    "DfmlError",
    "Difference",
    "Evaluation",
    "FewShotClassifier",
    "FrozenBackbone",
    "ImageDataset",
    "LearnerConfig",
    "MetaLearner",
    "Method",
    "OTFusion",
    "Preprocessing",
    "PretrainedClassifier",
    "ProtoNet",
    "RandomEmbedding",
    "RandomInit",
    "Zoo",
    "ZooEmbedding",
    "ZooStudent",
    "__version__",
    "build_zoo",
    "compare",
    "evaluate",
    "glyphs",
    "invert",
    "open_images",
    "open_learner",
    "read_engine",
    "read_image",
    "read_support",
]

_find = late_names(__name__, _HOMES)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("dfml")
    return _find(name)


def __dir__() -> list[str]:
    return __all__

"""Files of pre-trained classifiers, or classifiers in memory -> `Zoo` of members."""

from dfml.zoo.formats import MemberConfig, MemberFormat, register_format
from dfml.zoo.members import CountedMember, Differentiable, Predicts
from dfml.zoo.pretrained import Preprocessing, PretrainedClassifier
from dfml.zoo.zoo import Zoo

__all__ = [
    "CountedMember",
    "Differentiable",
    "MemberConfig",
    "MemberFormat",
    "Predicts",
    "Preprocessing",
    "PretrainedClassifier",
    "Zoo",
    "register_format",
]

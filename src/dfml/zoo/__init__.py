"""Files of pre-trained classifiers, or classifiers in memory -> `Zoo` of members.

Names are imported when they are first used: an adapted classifier needs a `Preprocessing`, but no file format.
"""

from typing import TYPE_CHECKING

from dfml.late_imports import late_names

if TYPE_CHECKING:
    from dfml.zoo.formats import MemberConfig, MemberFormat, register_format
    from dfml.zoo.members import CountedMember, Differentiable, Predicts
    from dfml.zoo.pretrained import Preprocessing, PretrainedClassifier
    from dfml.zoo.zoo import Zoo

# Module -> its public names. The imports above repeat them for type checkers.
_HOMES = {
    "dfml.zoo.formats": ("MemberConfig", "MemberFormat", "register_format"),
    "dfml.zoo.members": ("CountedMember", "Differentiable", "Predicts"),
    "dfml.zoo.pretrained": ("Preprocessing", "PretrainedClassifier"),
    "dfml.zoo.zoo": ("Zoo",),
}

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

__getattr__ = late_names(__name__, _HOMES)

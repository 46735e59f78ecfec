"""Files of pre-trained classifiers -> `Zoo` of `PretrainedClassifier`."""

from dfml.zoo.pretrained import Preprocessing, PretrainedClassifier
from dfml.zoo.zoo import Zoo

__all__ = ["Preprocessing", "PretrainedClassifier", "Zoo"]

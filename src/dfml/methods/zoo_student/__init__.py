"""`zoo_student`: distillation of all members of a zoo into one network, on recovered images."""

from dfml.methods.zoo_student.algorithm import ZooStudent, ZooStudentRun
from dfml.methods.zoo_student.config import ZooStudentConfig

__all__ = ["ZooStudent", "ZooStudentConfig", "ZooStudentRun"]

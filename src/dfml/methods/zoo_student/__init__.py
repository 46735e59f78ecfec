"""`zoo_student`: distillation of all members of a zoo into one network, on recovered images."""

from dfml.methods.zoo_student.algorithm import ZooStudent, ZooStudentConfig, ZooStudentRun

__all__ = ["ZooStudent", "ZooStudentConfig", "ZooStudentRun"]

"""`zoo_student`: distil all members of a zoo into one network on recovered images."""

from dfml.methods.zoo_student.algorithm import ZooStudent, ZooStudentConfig, ZooStudentRun

__all__ = ["ZooStudent", "ZooStudentConfig", "ZooStudentRun"]

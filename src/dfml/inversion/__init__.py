"""Classifiers -> images."""

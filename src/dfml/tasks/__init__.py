"""Pseudo-images -> few-shot tasks."""

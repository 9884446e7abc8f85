"""Assay: a real-time lending decision engine."""

__version__ = "0.1.0"

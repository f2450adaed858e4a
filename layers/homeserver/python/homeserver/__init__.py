"""Eigenserver: a Matrix homeserver made of Lambda functions."""

__version__ = "0.1.0"

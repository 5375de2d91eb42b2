"""Atoll: AI that runs where the data is."""

__version__ = "0.1.0"

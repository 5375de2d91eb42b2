"""Pipelines: rows that were written are scored by a model, and what comes of it is written as rows."""

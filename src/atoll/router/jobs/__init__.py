"""Requests that are answered later, by whichever node can."""

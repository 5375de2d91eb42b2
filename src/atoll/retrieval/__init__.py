"""Rows for a model to answer from: which are wanted, and how they are quoted to it. All of it is pure."""

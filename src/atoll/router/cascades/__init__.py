"""A small model first: whether its answer will do, and a larger one where it will not."""

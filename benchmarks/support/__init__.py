"""What the benchmarks share: real servers set up as a node sets them up, and the shape of a report."""

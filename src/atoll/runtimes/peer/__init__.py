"""Models of other nodes, asked over the link."""

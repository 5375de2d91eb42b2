"""What owners have said: of routes, keys, cascades, and of answers that are given again. Pure."""

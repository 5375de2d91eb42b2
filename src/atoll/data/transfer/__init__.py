"""Changes in a file, for sites that no link reaches: written for one member, read by it."""

"""Models kept ready on this node: which of them are loaded, and who is asking them."""

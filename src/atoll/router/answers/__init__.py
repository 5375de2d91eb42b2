"""Answers that were given once, given again to whoever could have had them."""

"""Servers of HTTP/1.1, asked over connections of one's own."""

"""The authenticated connection between two nodes, and PostgreSQL's way through it."""

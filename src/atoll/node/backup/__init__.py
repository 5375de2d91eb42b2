"""A node in one file: taken while it runs, checked, and made into a home again."""

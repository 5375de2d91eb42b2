"""What a model's files say of themselves, read without loading them (read.py is the way in)."""

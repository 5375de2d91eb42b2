"""The models that an atoll has: what their files are and say of themselves."""

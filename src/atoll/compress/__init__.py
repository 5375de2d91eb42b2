"""Makes models smaller, and says what that costs: the optional extra `atoll[compress]`.

Nothing else of Atoll imports torch. A step reads a folder or file and writes a new one (steps.py);
recipes.py runs several one after another.
"""

"""Language models in llama.cpp, each in a supervised process of its own.

A process, because what the engine does with a bad file is to abort, and loading holds the interpreter.
"""

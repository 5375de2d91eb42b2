"""Engines that run models, behind one protocol (contract.py). Which model is loaded when is decided above."""

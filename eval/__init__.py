"""Evaluation application of the repository: `python -m eval ...`."""

"""Measurements against other programs, each in the same run."""

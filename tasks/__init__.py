"""The stages of a run, one a file, in the order of deploy.py."""

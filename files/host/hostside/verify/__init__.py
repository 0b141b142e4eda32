"""Looks at services: waits until they are healthy, asks them, watches that they stay up."""

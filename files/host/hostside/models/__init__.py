"""Fetches, verifies and links model files."""

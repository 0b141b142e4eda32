"""Rehearsals: a fresh host and stand-ins for everything that a product run talks to."""

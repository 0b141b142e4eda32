"""The rehearsals themselves."""

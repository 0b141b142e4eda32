"""Docker's networks, and what may pass between them, the host and its neighbours."""

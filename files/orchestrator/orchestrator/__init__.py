"""The orchestrator: what runs on this host, read from Docker and served over HTTP."""

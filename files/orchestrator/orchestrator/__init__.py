"""The orchestrator: what runs on this host, asked of a broker on the host and served over HTTP."""

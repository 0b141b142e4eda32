"""What the probe program is told to observe. Pure, but for the secrets that it resolves."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .catalog import Probe, Service
from .run import HostRun


def document(run: HostRun, names: Iterable[str], with_secrets: bool = True) -> dict[str, Any]:
    """The document for files/host/probe.py; `with_secrets=False`: no probes, only containers to wait for."""
    services = [_service(run, name, run.services[name], with_secrets) for name in names]
    return {"window_s": run.catalog.verify_window_s, "services": services}


def _service(run: HostRun, name: str, entry: Service, with_secrets: bool) -> dict[str, Any]:
    return {
        "name": name,
        "container": name,
        "stack": entry.stack,
        "port": entry.port,
        "host": "127.0.0.1" if entry.bind in ("0.0.0.0", "::") else entry.bind,
        "start_budget_s": entry.health.start_budget_s,
        "probes": [_probe(run, probe) for probe in entry.probes] if with_secrets else [],
    }


def _probe(run: HostRun, probe: Probe) -> dict[str, Any]:
    secret = None
    if probe.token:
        secret = {"name": "Authorization", "value": f"Bearer {run.secrets.value(probe.token)}"}
    return {
        "name": probe.name,
        "method": probe.method,
        "path": probe.path,
        "headers": dict(probe.headers),
        "secret_header": secret,
        "body": probe.body,
        "expect": {"status": probe.expect_status, "json": probe.json_has, "contains": probe.contains},
    }

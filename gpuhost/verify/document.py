"""What the probe program is told to observe. Pure, but for the secrets that it resolves."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gpuhost.catalog.types import Probe, Service
from gpuhost.run.host_run import HostRun


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
        "probes": _probes(run, entry) if with_secrets else [],
    }


REFUSED = 401


def retired_name(secret: str, number: int = 0) -> str:
    """The name of the probe that asks with a value that was rotated away; `number` when there are several."""
    return f"refuses the retired {secret}" + (f" ({number + 1})" if number else "")


def _probes(run: HostRun, entry: Service) -> list[dict[str, Any]]:
    """The entry's own, and for each that sends a token: the same with every value that was rotated away, refused."""
    found, asked = [_probe(probe, probe.token and run.secrets.value(probe.token)) for probe in entry.probes], set()
    retired = run.secrets.retired()
    for probe in entry.probes:
        if probe.token and probe.token not in asked:
            asked.add(probe.token)
            refused = probe.model_copy(update={"expect_status": REFUSED, "json_has": None, "contains": None})
            for number, value in enumerate(retired.get(probe.token, [])):
                named = refused.model_copy(update={"name": retired_name(probe.token, number)})
                if value != run.secrets.value(probe.token):
                    found.append(_probe(named, value))
    return found


def _probe(probe: Probe, token: str | None) -> dict[str, Any]:
    secret = {"name": "Authorization", "value": f"Bearer {token}"} if token else None
    return {
        "name": probe.name,
        "method": probe.method,
        "path": probe.path,
        "headers": dict(probe.headers),
        "secret_header": secret,
        "body": probe.body,
        "expect": {"status": probe.expect_status, "json": probe.json_has, "contains": probe.contains},
    }

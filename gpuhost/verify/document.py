"""What hostside.verify is asked to observe. Pure, but for the secrets that it resolves."""

from __future__ import annotations

from collections.abc import Iterable

from gpuhost.catalog.types import Probe, Service
from gpuhost.run.host_run import HostRun
from hostside import protocol

PROBE_TIMEOUT_S = 30.0


def request(run: HostRun, names: Iterable[str], with_secrets: bool = True) -> protocol.VerifyRequest:
    """The request for these services; `with_secrets=False`: no probes, only containers to wait for."""
    services = [_service(run, name, run.services[name], with_secrets) for name in names]
    return protocol.VerifyRequest(run.catalog.verify_window_s, services)


def _service(run: HostRun, name: str, entry: Service, with_secrets: bool) -> protocol.ServiceToVerify:
    return protocol.ServiceToVerify(
        name=name,
        container=name,
        stack=entry.stack,
        port=entry.port,
        host="127.0.0.1" if entry.bind in ("0.0.0.0", "::") else entry.bind,
        start_budget_s=entry.health.start_budget_s,
        probes=_probes(run, entry) if with_secrets else [],
    )


REFUSED = 401


def retired_name(secret: str, number: int = 0) -> str:
    """The name of the probe that asks with a value that was rotated away; `number` when there are several."""
    return f"refuses the retired {secret}" + (f" ({number + 1})" if number else "")


def _probes(run: HostRun, entry: Service) -> list[protocol.Probe]:
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


def _probe(probe: Probe, token: str | None) -> protocol.Probe:
    return protocol.Probe(
        name=probe.name,
        method=probe.method,
        path=probe.path,
        headers=dict(probe.headers),
        secret_header=protocol.Header("Authorization", f"Bearer {token}") if token else None,
        body=probe.body,
        expect=protocol.Expectation(probe.expect_status, probe.json_has, probe.contains),
        timeout_s=PROBE_TIMEOUT_S,
    )

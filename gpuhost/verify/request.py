"""What hostside.verify is asked to observe. Pure, but for the secrets that it resolves."""

from __future__ import annotations

from collections.abc import Iterable

from gpuhost.catalog.types import Service
from gpuhost.run.host_run import HostRun
from gpuhost.verify.questions import Question, questions
from hostside.protocol.verify import Expectation, Header, Probe, ServiceToVerify, VerifyRequest

PROBE_TIMEOUT_S = 30.0


def request(run: HostRun, names: Iterable[str], with_secrets: bool = True) -> VerifyRequest:
    """The request for these services; `with_secrets=False`: no probes, only containers to wait for."""
    services = [_service(run, name, run.services[name], with_secrets) for name in names]
    return VerifyRequest(run.catalog.verify_window_s, services)


def _service(run: HostRun, name: str, entry: Service, with_secrets: bool) -> ServiceToVerify:
    return ServiceToVerify(
        name=name,
        container=name,
        stack=entry.stack,
        port=entry.port,
        host={"0.0.0.0": "127.0.0.1", "::": "::1"}.get(entry.bind, entry.bind),
        start_budget_s=entry.health.start_budget_s,
        probes=_probes(run, entry) if with_secrets else [],
        check_s=entry.health.interval_s + entry.health.timeout_s,
    )


def _probes(run: HostRun, entry: Service) -> list[Probe]:
    """Its questions, with the values of its token that they send."""
    if entry.auth is None:
        return [_probe(question, None) for question in questions(entry)]
    right = run.secrets.value(entry.auth.token)
    retired = [value for value in run.secrets.retired().get(entry.auth.token, []) if value != right]
    asked = questions(entry, retired)
    return [_probe(each, right if each.sends == "token" else each.retired) for each in asked]


def _probe(question: Question, token: str | None) -> Probe:
    return Probe(
        name=question.name,
        method=question.method,
        path=question.path,
        headers=dict(question.headers),
        secret_header=Header("Authorization", f"Bearer {token}") if token else None,
        body=question.body,
        expect=Expectation(question.status, question.json, question.contains),
        timeout_s=PROBE_TIMEOUT_S,
    )

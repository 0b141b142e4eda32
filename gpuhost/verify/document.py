"""What the probe program is told to observe. Pure, but for the secrets that it resolves."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gpuhost.catalog.types import Service
from gpuhost.run.host_run import HostRun
from gpuhost.verify.questions import WRONG_TOKEN, Question, questions


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


def _probes(run: HostRun, entry: Service) -> list[dict[str, Any]]:
    """Its questions, with the values of its token that they send."""
    if entry.auth is None:
        return [_probe(question, None) for question in questions(entry)]
    right = run.secrets.value(entry.auth.token)
    retired = [value for value in run.secrets.retired().get(entry.auth.token, []) if value != right]
    asked = questions(entry, retired)
    sent = {"nothing": None, "token": right, "wrong token": WRONG_TOKEN}
    return [_probe(question, question.token or sent.get(question.sends)) for question in asked]


def _probe(question: Question, token: str | None) -> dict[str, Any]:
    secret = {"name": "Authorization", "value": f"Bearer {token}"} if token else None
    return {
        "name": question.name,
        "method": question.method,
        "path": question.path,
        "headers": dict(question.headers),
        "secret_header": secret,
        "body": question.body,
        "expect": {"status": question.status, "json": question.json, "contains": question.contains},
    }

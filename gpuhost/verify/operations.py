"""The end of a run: every service answers through its published port, or the host fails with the cause."""

from __future__ import annotations

import json
from typing import Any

from pyinfra.api.operation import operation
from pyinfra.context import host, state

from gpuhost.errors import Problem
from gpuhost.run.host_run import HostRun
from gpuhost.run.remote import Completed, unobserved
from gpuhost.run.remote import run as run_now
from gpuhost.run.session import Commands, current, failing, note, only, tell
from gpuhost.secrets.store import NotYet
from gpuhost.verify.addresses import tunnel
from gpuhost.verify.document import document
from gpuhost.verify.verdict import Failure, judge


@operation()
def answering(run: HostRun) -> Commands:
    """Changes nothing. In a plan nothing is asked; in a run a service that is not up fails the host."""
    if not state.is_executing or not run.services:
        return
    retired = run.secrets.retired()
    try:
        completed = run_now(run.layout.probe, stdin=json.dumps(document(run, run.services)))
    except NotYet as secret:
        yield failing(f"the secret `{secret}` is still to be generated: the services cannot run yet", "`gpuhost apply`")
        return
    observations = _observations(completed)
    if not completed.ok or not observations:
        what, hint = unobserved(completed)
        yield failing(f"the services could not be observed: {what}", hint)
        return
    for seen in observations:
        current().report.add("observed", host.name, **seen)
    verdict = judge(observations)
    current().report.add("verdict", host.name, ok=verdict.ok, services=[seen["service"] for seen in observations])
    if verdict.failures:
        *others, last = map(_problem, verdict.failures)
        for other in others:  # pyinfra ends with the first command that fails
            tell(other)
        yield failing(last.what, last.hint, last.detail)
    else:
        asked = only()
        if retired and (asked is None or "stacks" in asked):  # no container was left with another value, either
            run.secrets.settle(retired)
        for seen in observations:
            host.log(f"verified: {seen['service']} answers on port {seen['port']}")


def _observations(completed: Completed) -> list[dict[str, Any]]:
    lines = [line for line in completed.stdout.splitlines() if line.startswith("{")]
    return [json.loads(line) for line in lines]


def _problem(failure: Failure) -> Problem:
    told = failure.exit_code is None or "code" in failure.cause
    ended = "" if told else f" (exit code {failure.exit_code})"
    return Problem(f"{failure.service}: {failure.cause}{ended}", failure.hint, host.name, tuple(failure.log_tail))


@operation()
def addresses(run: HostRun) -> Commands:
    """Changes nothing; says at the end of a run where each service is."""
    yield from ()
    if not state.is_executing:
        return
    for name, entry in run.services.items():
        note("address", f"{name}: http://{entry.bind}:{entry.port}", service=name, port=entry.port)
    loopback = [entry.port for entry in run.services.values() if entry.bind in ("127.0.0.1", "::1")]
    if loopback and not host.name.startswith("@local"):
        data = host.data
        line = tunnel(
            data.get("ssh_user") or "",
            data.get("ssh_hostname") or host.name,
            int(data.get("ssh_port") or 22),
            data.get("ssh_key") or "",
            loopback,
        )
        note("address", f"from your machine: {line}")

"""Looks at services, asked for by `gpuhost status` and `gpuhost logs`. Changes nothing."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial

from pyinfra.api.operation import operation
from pyinfra.context import host, state

from gpuhost.engine.facts import look
from gpuhost.run.host_run import HostRun
from gpuhost.run.output import shown_as
from gpuhost.run.remote import run as run_now
from gpuhost.run.remote import unobserved
from gpuhost.run.session import Commands, current, fail_host, failing
from gpuhost.services.logs import Asked, shown
from gpuhost.services.status import statuses
from hostside.protocol.logs import LogRequest
from hostside.redaction import Redactor
from hostside.wire import to_json


@operation()
def reported(run: HostRun) -> Commands:
    """Reports what every service does now, as a plan: then all is asked in one round trip."""
    if state.is_executing:
        return
    docker = look("states")
    if not docker.version:
        what, why = "Docker is not installed here", ""
        if docker.installed:
            what, why = "Docker does not run here", "; `journalctl -u docker` why it ended"
        yield from fail_host(what, f"`gpuhost plan` says what is to be done{why}")
        return
    for each in statuses(run, docker):
        current().report.add("service", host.name, ok=each.ok, **asdict(each))


@operation()
def logged(run: HostRun, asked: Asked) -> Commands:
    """Shows the log of one service, secrets masked; nothing on a host that does not have it."""
    if not state.is_executing or asked.service not in run.services:
        return
    # A host is told what it has, and no more: of a password that somebody typed there, the rest is masked here.
    there = {name for entry in run.services.values() for name in entry.container_secrets()}
    request = LogRequest(asked.service, asked.tail, asked.follow, run.secrets.masked(there))
    with shown_as(host.print_prefix, partial(shown, Redactor(run.secrets.masked()).text)):
        completed = run_now(run.paths.logs_command, stdin=to_json(request), live=True)
    if not completed.ok:
        cause = unobserved(completed)
        yield failing(f"the log of {asked.service} cannot be read: {cause.what}", cause.hint)

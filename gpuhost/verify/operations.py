"""The end of a run: every service answers through its published port, or the host fails with the cause."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict

from pyinfra.api.operation import operation
from pyinfra.context import host, state

from gpuhost.catalog.types import Catalog, Service
from gpuhost.engine.facts import DockerState, parts
from gpuhost.errors import Cause, Problem
from gpuhost.run.entry import site
from gpuhost.run.host_run import HostRun
from gpuhost.run.output import shown_as
from gpuhost.run.remote import Completed, unobserved
from gpuhost.run.remote import run as run_now
from gpuhost.run.session import Commands, current, failing, note, only, report_problem
from gpuhost.secrets.store import NotYet
from gpuhost.verify.addresses import Forward, command_line, local_ports, tunnel, url
from gpuhost.verify.request import request
from gpuhost.verify.verdict import Failure, judge
from hostside.protocol.verify import ServiceSeen
from hostside.wire import WireError, from_host, to_json


@operation()
def answering(run: HostRun) -> Commands:
    """Changes nothing. In a plan nothing is asked; in a run a service that is not up fails the host."""
    if not state.is_executing or not run.services:
        return
    retired = run.secrets.retired()
    found = _ask(run, _running(run))
    if isinstance(found, Cause):
        yield failing(*found)
        return
    for seen in found:
        current().report.add("observed", host.name, **asdict(seen))
    verdict = judge(found)
    failed = [failure.service for failure in verdict.failures]
    services = [seen.service for seen in found]
    current().report.add("verdict", host.name, ok=verdict.ok, services=services, failed=failed)
    if verdict.failures:
        *others, last = map(_problem, verdict.failures)
        for other in others:  # pyinfra ends with the first command that fails
            report_problem(other)
        yield failing(last.what, last.hint, last.detail)
        return
    asked = only()
    if retired and (asked is None or "stacks" in asked):  # no container was left with another value, either
        run.secrets.forget(retired)
    for seen in found:
        host.log(f"verified: {seen.service} answers on port {seen.port}")


def _running(run: HostRun) -> list[str]:
    """The services that must answer: all but those on demand that nobody has started."""
    on_demand = {name for name, entry in run.services.items() if entry.start == "on-demand"}
    if not on_demand:
        return list(run.services)
    there = host.get_fact(DockerState, parts=parts("containers")).containers
    started = {each.service for each in there if each.state == "running" and not each.own}
    waiting = sorted(on_demand - started)
    if waiting:
        said = f"not started, they run on demand (`docker start NAME` there): {', '.join(waiting)}"
        note("on_demand", said, services=waiting)
    return [name for name in run.services if name not in waiting]


def _ask(run: HostRun, names: list[str]) -> list[ServiceSeen] | Cause:
    """What the services answer, or why that could not be observed."""
    try:
        with shown_as(host.print_prefix, lambda line: None):  # its stdout is for us; stderr says what it waits for
            completed = run_now(run.paths.verify_command, stdin=to_json(request(run, names)), live=True)
        found = _observed(completed, names)
    except NotYet as secret:
        return Cause(f"the secret `{secret}` is still to be generated: the services cannot run yet", "`gpuhost apply`")
    except WireError as error:
        return Cause(f"the services could not be observed: {error}", "run `gpuhost apply`: it ships the programs anew")
    if isinstance(found, Cause):
        return Cause(f"the services could not be observed: {found.what}", found.hint)
    return found


def _observed(completed: Completed, names: Iterable[str]) -> list[ServiceSeen] | Cause:
    """What the program saw of each service, or why it says nothing. Raises WireError."""
    if not completed.ok:
        return unobserved(completed)
    found = [from_host(ServiceSeen, line) for line in completed.stdout.splitlines() if line.startswith("{")]
    silent = sorted({*names} - {seen.service for seen in found})
    if silent:
        return Cause(f"the program says nothing of {', '.join(silent)}", "run it again")
    return found


def _problem(failure: Failure) -> Problem:
    named = failure.exit_code is None or "code" in failure.cause
    ended = "" if named else f" (exit code {failure.exit_code})"
    return Problem(f"{failure.service}: {failure.cause}{ended}", failure.hint, host.name, tuple(failure.log_tail))


def _login(catalog: Catalog, entry: Service, token: str) -> list[str]:
    """The secrets that somebody who logs in types: a name, and the token or what it is derived from."""
    users = [name for name in entry.container_secrets() if catalog.secrets[name].generate == "username"]
    return [*users, catalog.secrets[token].derive_from or token]


@operation()
def addresses(run: HostRun) -> Commands:
    """Changes nothing; says at the end of a run where each service is."""
    yield from ()
    if not state.is_executing:
        return
    ports, data = local_ports(site().catalogs), host.data.dict()
    forwards = []
    for name, entry in run.services.items():
        local = ports.get((host.name, name))
        where = " through the tunnel" if local not in (None, entry.port) else ""
        note("address", f"{name}: {url(host.name, data, entry, local)}{where}", service=name, port=entry.port)
        if entry.auth:
            current().report.add("login", host.name, service=name, secrets=_login(run.catalog, entry, entry.auth.token))
        if local is not None:
            forwards.append(Forward(local, entry.bind, entry.port))
    if forwards:
        note("address", f"from your machine: {command_line(tunnel(host.name, data, forwards))}")

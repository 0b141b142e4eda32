"""Secrets that can be generated, generated once, on the control side; and every location of every secret, audited."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from pyinfra.api.command import FunctionCommand
from pyinfra.api.operation import operation
from pyinfra.context import host, state

from gpuhost.catalog.checks import LABEL_KEY
from gpuhost.errors import Cause
from gpuhost.plan.change import Change, Resource
from gpuhost.run.host_run import HostRun
from gpuhost.run.remote import run as run_now
from gpuhost.run.remote import unobserved
from gpuhost.run.session import Commands, carry_out, current, failing, report_problem
from gpuhost.secrets import locations
from gpuhost.secrets.locations import SecretLocation
from gpuhost.secrets.store import NotYet, SecretStore
from gpuhost.services.stacks import Stacks
from hostside.protocol.secret_audit import SecretAuditAnswer, SecretAuditRequest
from hostside.wire import WireError, from_host, to_json


@operation()
def generated(store: SecretStore, names: Sequence[str]) -> Commands:
    """Every named secret that can be generated exists in the control's file for this host."""
    changes = [
        Change("secrets", Resource("secret", name), "generate", f"no source has it; into {store.path}", scope="secret")
        for name in store.to_generate(names)
    ]

    def generate(state: object, host: object) -> bool:
        store.generate(names)
        return True

    yield from carry_out(changes, [FunctionCommand(generate, [], {})])


@operation()
def audited(run: HostRun) -> Commands:
    """Changes nothing; reports every location of every secret (in sync, stale or missing), and what is in sync and no
    good: an apply refuses it."""
    if not state.is_executing:
        return
    for problem in run.secrets.unfit(run.secret_names, run.token_names):
        report_problem(problem)
    stacks, store = Stacks.of(run), run.secrets
    names = {*run.secret_names, *(name for name in run.catalog.secrets if store.source(name))}
    try:
        key = store.value(LABEL_KEY)
    except NotYet as secret:
        yield failing(f"the secret `{secret}` is still to be generated: nothing can be compared", "`gpuhost apply`")
        return
    values = {name: store.optional(name) for name in sorted(names)}
    wanted = {name: None if value is None else store.fingerprint(name, value) for name, value in values.items()}
    env_files = {run.paths.env_file(stack): stacks.variables(stack) for stack in run.stacks}
    files = {path: template for name in run.services for path, template in stacks.secret_files(name).items()}
    answer = observe(run, locations.request(key, env_files, files, sorted(run.catalog.secrets)))
    if isinstance(answer, Cause):
        yield failing(f"the locations of the secrets could not be observed: {answer.what}", answer.hint)
        return
    holders = {path: [each.name for each in variables if each.secret] for path, variables in env_files.items()}
    services = {name: _holding(stacks, name, entry.secrets) for name, entry in run.services.items()}
    for location in [*_on_control(store, wanted), *locations.audit(wanted, holders, services, answer)]:
        current().report.add("secret_location", host.name, **asdict(location))


def observe(run: HostRun, request: SecretAuditRequest) -> SecretAuditAnswer | Cause:
    """What hostside.secret_audit answers, or why it does not."""
    completed = run_now(run.paths.secret_audit_command, stdin=to_json(request))
    if not completed.ok:
        return unobserved(completed)
    try:
        return from_host(SecretAuditAnswer, completed.stdout)
    except WireError as error:
        return Cause(f"its answer cannot be read: {error}", "`gpuhost apply` ships the programs that fit this gpuhost")


def _holding(stacks: Stacks, name: str, environment: Sequence[str]) -> locations.Holding:
    files = stacks.secret_files(name).items()
    return locations.Holding(
        environment, {path: [each.name for each in stacks.file_variables(template)] for path, template in files}
    )


def _on_control(store: SecretStore, wanted: Mapping[str, str | None]) -> list[SecretLocation]:
    return [
        SecretLocation(name, "control", store.source(name) or str(store.path), "missing", None)
        if fingerprint is None
        else SecretLocation(
            name, "control", store.source(name) or "", "in sync" if store.derives(name) else "stale", fingerprint
        )
        for name, fingerprint in wanted.items()
    ]

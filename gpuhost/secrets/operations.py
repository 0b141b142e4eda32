"""Secrets that can be generated, generated once, on the control side; and every place of every secret, looked at."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from pyinfra.api.command import FunctionCommand
from pyinfra.api.operation import operation
from pyinfra.context import host, state

from gpuhost.catalog.checks import LABEL_KEY
from gpuhost.engine.facts import DockerGroup
from gpuhost.plan.change import Change, Resource
from gpuhost.run.host_run import HostRun
from gpuhost.run.remote import run as run_now
from gpuhost.run.remote import unobserved
from gpuhost.run.session import Commands, carry_out, current, failing
from gpuhost.secrets import places
from gpuhost.secrets.places import Place
from gpuhost.secrets.store import NotYet, SecretStore
from gpuhost.services.stacks import Stacks


@operation()
def generated(store: SecretStore, names: Sequence[str]) -> Commands:
    """Every named secret that can be generated exists in the control's file for this host."""
    changes = [
        Change("secrets", Resource("secret", name), "generate", f"no source has it; into {store.path}", cause="secret")
        for name in store.to_generate(names)
    ]

    def generate(state: object, host: object) -> bool:
        store.generate(names)
        return True

    yield from carry_out(changes, [FunctionCommand(generate, [], {})])


@operation()
def audited(run: HostRun) -> Commands:
    """Changes nothing; reports every place of every secret: in step, stale or missing."""
    if not state.is_executing:
        return
    stacks, store = Stacks(run, host.get_fact(DockerGroup)), run.secrets
    names = {*run.secret_names, *(name for name in run.catalog.secrets if store.source(name))}
    try:
        key = store.value(LABEL_KEY)
    except NotYet as secret:
        yield failing(f"the secret `{secret}` is still to be generated: nothing can be compared", "`gpuhost apply`")
        return
    values = {name: store.optional(name) for name in sorted(names)}
    wanted = {name: None if value is None else store.fingerprint(name, value) for name, value in values.items()}
    env_files = {run.layout.env_file(stack): stacks.variables(stack) for stack in run.stacks}
    files = {path: template for name in run.services for path, template in stacks.secret_files(name).items()}
    asked = places.document(key, env_files, files, sorted(run.catalog.secrets))
    seen = observe(run, asked)
    if isinstance(seen, tuple):
        yield failing(f"the places of the secrets could not be observed: {seen[0]}", seen[1])
        return
    holders = {path: [each.name for each in variables if each.secret] for path, variables in env_files.items()}
    services = {name: _holds(stacks, name, entry.secrets) for name, entry in run.services.items()}
    for place in [*_on_control(store, wanted), *places.audit(wanted, holders, services, seen)]:
        current().report.add("place", host.name, **asdict(place))


def observe(run: HostRun, asked: dict[str, Any]) -> dict[str, Any] | tuple[str, str]:
    """What the program on the host says, or why it says nothing: (sentence, hint)."""
    completed = run_now(run.layout.secret_places, stdin=json.dumps(asked))
    if completed.ok:
        return dict(json.loads(completed.stdout))
    return unobserved(completed)


def _holds(stacks: Stacks, name: str, environment: Sequence[str]) -> places.Service:
    files = stacks.secret_files(name).items()
    return places.Service(
        environment, {path: [each.name for each in stacks.file_variables(template)] for path, template in files}
    )


def _on_control(store: SecretStore, wanted: dict[str, str | None]) -> list[Place]:
    return [
        Place(name, "control", store.source(name) or str(store.path), "missing", None)
        if fingerprint is None
        else Place(
            name, "control", store.source(name) or "", "in step" if store.derives(name) else "stale", fingerprint
        )
        for name, fingerprint in wanted.items()
    ]

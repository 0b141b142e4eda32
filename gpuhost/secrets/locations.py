"""Every location of every secret on a host, and which value it holds, by keyed fingerprint. Pure.

hostside.secret_audit observes; here is what it is asked and what its answer means.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from gpuhost.plan.change import Difference
from hostside.protocol.secret_audit import (
    EnvFileQuery,
    HeldFile,
    HeldVariable,
    HoldingContainer,
    SecretAuditAnswer,
    SecretAuditRequest,
    SecretFileQuery,
)

SHOWN = 12  # hex digits of a fingerprint that people see
TO_BE_GENERATED = "(to be generated)"
Fingerprint = Callable[[str, str], str]  # (name, value) -> 64 hex
Kind = Literal["control", "env file", "secret file", "container", "stray container"]


@dataclass(frozen=True)
class Variable:
    """One name of an env file or a secret file. `value` None: a secret still to be generated."""

    name: str
    value: str | None
    secret: bool = True


@dataclass(frozen=True)
class SecretLocation:
    """One location of one secret. `where`: a path, a container, or a source of the control side; `fingerprint`: of what
    it holds, None when it holds nothing or nobody knows what."""

    secret: str
    kind: Kind
    where: str
    state: Literal["in sync", "stale", "missing"]
    fingerprint: str | None


@dataclass(frozen=True)
class Holding:
    """What a service's container must hold: secrets in its environment, and those that it reads from `files`
    (path -> names) when it starts."""

    environment: Sequence[str]
    files: Mapping[str, Sequence[str]]


def request(
    key: str,
    env_files: Mapping[str, Iterable[Variable]],
    secret_files: Mapping[str, str],
    containers: Sequence[str] | None,
) -> SecretAuditRequest:
    """What hostside.secret_audit is asked. `secret_files`: path -> template; `containers`: the secrets to look for in
    environments, None to leave Docker alone."""
    return SecretAuditRequest(
        key=key,
        env_files=[
            EnvFileQuery(path, [variable.name for variable in variables if not variable.secret])
            for path, variables in env_files.items()
        ],
        secret_files=[SecretFileQuery(path, template) for path, template in secret_files.items()],
        containers=None if containers is None else list(containers),
    )


def shown(fingerprint: str) -> str:
    """A fingerprint as people see it in the place of a value."""
    return f"({fingerprint[:SHOWN]})"


def differences(
    wanted: Sequence[Variable], observed: Mapping[str, HeldVariable], fingerprint: Fingerprint | None
) -> tuple[Difference, ...]:
    """One for each name that is added, removed or changed: values of what is no secret, fingerprints of what is.

    `fingerprint` None: there is no key for them yet.
    """
    after = {variable.name: _shown(variable, fingerprint) for variable in wanted}
    before = {name: shown(held.fingerprint) if held.value is None else held.value for name, held in observed.items()}
    return tuple(
        Difference(name, before.get(name), after.get(name))
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    )


def _shown(variable: Variable, fingerprint: Fingerprint | None) -> str:
    if variable.value is None:
        return TO_BE_GENERATED
    if not variable.secret:
        return variable.value
    return shown(fingerprint(variable.name, variable.value)) if fingerprint else "(given)"


def audit(
    wanted: Mapping[str, str | None],
    env_files: Mapping[str, Sequence[str]],
    services: Mapping[str, Holding],
    answer: SecretAuditAnswer,
) -> list[SecretLocation]:
    """Every location of every secret on a host. `wanted`: name -> the fingerprint that is right, None when the control
    side does not know the secret; `env_files`: path -> its secrets."""
    found = []
    for path, names in env_files.items():
        variables = answer.env_files.get(path, {})
        held = {name: variable.fingerprint for name, variable in variables.items()}
        found += [_location(name, "env file", path, wanted.get(name), held.get(name)) for name in names]
    for service in services.values():
        for path, names in service.files.items():
            held = _in_file(answer.secret_files.get(path), names)
            found += [_location(name, "secret file", path, wanted.get(name), held.get(name)) for name in names]
    for name, service in services.items():
        containers = [each for each in answer.containers if each.service == name]
        for container in containers:
            found += _in_container(service, container, wanted, answer)
        if not containers:
            names = [*service.environment, *(secret for secrets in service.files.values() for secret in secrets)]
            found += [_location(secret, "container", name, wanted.get(secret), None) for secret in names]
    for container in answer.containers:
        if container.service not in services:  # no service of this host any more, and it runs on
            found += [
                _location(name, "stray container", container.name, wanted.get(name), digits)
                for name, digits in container.env.items()
            ]
    return found


def _in_file(file: HeldFile | None, names: Iterable[str]) -> dict[str, str]:
    """name -> fingerprint; "" for each of `names` when the text does not fit its template: it holds something, and
    nobody knows what."""
    if file is None:
        return {}
    return {**dict.fromkeys(names, ""), **(file.fingerprints or {})}


def _in_container(
    service: Holding, container: HoldingContainer, wanted: Mapping[str, str | None], answer: SecretAuditAnswer
) -> list[SecretLocation]:
    held = [(secret, container.env.get(secret)) for secret in service.environment]
    for path, secrets in service.files.items():
        file = answer.secret_files.get(path)
        # It read the file when it started: what was written later it does not hold.
        # A file from the future says nothing: a clock was set back.
        if file is not None and container.started_ns < file.modified_ns <= answer.now_ns:
            file = HeldFile(None, file.modified_ns)
        in_file = _in_file(file, secrets)
        held += [(secret, in_file.get(secret)) for secret in secrets]
    return [
        _location(secret, "container", container.name, wanted.get(secret), fingerprint) for secret, fingerprint in held
    ]


def _location(secret: str, kind: Kind, where: str, wanted: str | None, held: str | None) -> SecretLocation:
    """`held` "": something that nobody knows."""
    if held is None:
        return SecretLocation(secret, kind, where, "missing", None)
    return SecretLocation(secret, kind, where, "in sync" if held == wanted else "stale", held or None)

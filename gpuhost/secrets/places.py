"""Where secrets live on a host and which value each place holds, by keyed fingerprint. Pure.

files/host/secret_places.py observes; here is what it is asked and what its answer means.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from gpuhost.plan.change import Difference

SHOWN = 12  # hex digits of a fingerprint that people see
Fingerprint = Callable[[str, str], str]  # (name, value) -> 64 hex


@dataclass(frozen=True)
class Variable:
    """One name of an env file or a secret file. `value` None: a secret still to be generated."""

    name: str
    value: str | None
    secret: bool = True


@dataclass(frozen=True)
class Place:
    """One place of one secret, as it is. `place`: which kind; `where`: a path, a container, a source; `fingerprint`: of
    what it holds, None when it holds nothing."""

    secret: str
    place: Literal["control", "env file", "secret file", "container", "stray container"]
    where: str
    state: Literal["in step", "stale", "missing"]
    fingerprint: str | None


@dataclass(frozen=True)
class Service:
    """What a service's container must hold: secrets in its environment, and those that it reads from `files`
    (path -> names) when it starts."""

    environment: Sequence[str]
    files: Mapping[str, Sequence[str]]


def document(
    key: str,
    env_files: Mapping[str, Iterable[Variable]],
    secret_files: Mapping[str, str],
    containers: Sequence[str] | None,
) -> dict[str, Any]:
    """What files/host/secret_places.py is asked. `secret_files`: path -> template; `containers`: the secrets to look
    for in environments, None to leave Docker alone."""
    return {
        "key": key,
        "env_files": [
            {"path": path, "plain": [variable.name for variable in variables if not variable.secret]}
            for path, variables in env_files.items()
        ],
        "secret_files": [{"path": path, "template": template} for path, template in secret_files.items()],
        "containers": containers,
    }


def differences(
    wanted: Sequence[Variable], seen: Mapping[str, Mapping[str, str]], fingerprint: Fingerprint | None
) -> tuple[Difference, ...]:
    """One for each name that is added, removed or changed: values of what is no secret, fingerprints of what is.

    `seen`: name -> {"fingerprint", "value" when it is no secret}; `fingerprint` None: no key for them yet.
    """
    after = {variable.name: _shown(variable, fingerprint) for variable in wanted}
    before = {name: entry.get("value", f"({entry['fingerprint'][:SHOWN]})") for name, entry in seen.items()}
    return tuple(
        Difference(name, before.get(name), after.get(name))
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    )


def _shown(variable: Variable, fingerprint: Fingerprint | None) -> str:
    if variable.value is None:
        return "(to be generated)"
    if not variable.secret:
        return variable.value or "(not known yet)"
    return f"({fingerprint(variable.name, variable.value)[:SHOWN]})" if fingerprint else "(given)"


def audit(
    wanted: Mapping[str, str | None],
    env_files: Mapping[str, Sequence[str]],
    services: Mapping[str, Service],
    seen: Mapping[str, Any],
) -> list[Place]:
    """Every place of every secret on a host. `wanted`: name -> the fingerprint that is right, None when the control
    does not know the secret; `env_files`: path -> its secrets; `seen`: the program's answer."""
    found = []
    for path, names in env_files.items():
        held = {name: entry["fingerprint"] for name, entry in seen["env_files"].get(path, {}).items()}
        found += [_place(name, "env file", path, wanted.get(name), held.get(name)) for name in names]
    for service in services.values():
        for path, names in service.files.items():
            # A text that does not fit its template holds something, and nobody knows what.
            file = seen["secret_files"].get(path)
            held = dict.fromkeys(names, "") if file else {}
            held |= (file and file["fingerprints"]) or {}
            found += [_place(name, "secret file", path, wanted.get(name), held.get(name)) for name in names]
    for name, service in services.items():
        containers = [each for each in seen["containers"] if each["service"] == name]
        for container in containers or [None]:
            found += _in_container(name, service, container, wanted, seen["secret_files"], seen["now_ns"])
    for container in seen["containers"]:
        if container["service"] not in services:  # no service of this host any more, and it runs on
            held = container["env"]
            found += [_place(name, "stray container", container["name"], wanted.get(name), held[name]) for name in held]
    return found


def _in_container(
    name: str,
    service: Service,
    container: Mapping[str, Any] | None,
    wanted: Mapping[str, str | None],
    files: Mapping[str, Any],
    now_ns: int,
) -> list[Place]:
    if container is None:
        names = [*service.environment, *(secret for secrets in service.files.values() for secret in secrets)]
        return [_place(secret, "container", name, wanted.get(secret), None) for secret in names]
    found = [
        _place(secret, "container", container["name"], wanted.get(secret), container["env"].get(secret))
        for secret in service.environment
    ]
    for path, secrets in service.files.items():
        file = files.get(path)
        # It read the file when it started: what was written later it does not hold.
        # A file from the future says nothing: a clock was set back.
        read = file is not None and not container["started_ns"] < file["modified_ns"] <= now_ns
        held = (file["fingerprints"] or {}) if file and read else {}
        found += [
            _place(secret, "container", container["name"], wanted.get(secret), held.get(secret, "" if file else None))
            for secret in secrets
        ]
    return found


def _place(
    secret: str,
    place: Literal["env file", "secret file", "container", "stray container"],
    where: str,
    wanted: str | None,
    held: str | None,
) -> Place:
    """`held` "": something that nobody knows."""
    if held is None:
        return Place(secret, place, where, "missing", None)
    return Place(secret, place, where, "in step" if held == wanted else "stale", held or None)

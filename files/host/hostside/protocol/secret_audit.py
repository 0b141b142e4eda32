"""What passes between the control side and `hostside.secret_audit`. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class EnvFileQuery:
    """An env file to read; `plain`: the variables in it that are no secret, whose values are shown."""

    path: str
    plain: list[str]


@dataclass(frozen=True)
class SecretFileQuery:
    """A secret file to read, and the template (`{NAME}\\n`) that it was made from."""

    path: str
    template: str


@dataclass(frozen=True)
class SecretAuditRequest:
    """`key`: of the fingerprints; `containers`: the variables to look for in the environment of every container of
    ours, None = Docker is not asked."""

    key: str = field(repr=False)
    env_files: list[EnvFileQuery]
    secret_files: list[SecretFileQuery]
    containers: list[str] | None


@dataclass(frozen=True)
class HeldVariable:
    """A variable of an env file: the fingerprint (64 hex) of its value, and the value when it is no secret."""

    fingerprint: str
    value: str | None = None


@dataclass(frozen=True)
class HeldFile:
    """A secret file: name -> fingerprint of what it holds, None when it does not fit its template."""

    fingerprints: dict[str, str] | None
    modified_ns: int


@dataclass(frozen=True)
class HoldingContainer:
    """A container of ours, running or not. `env`: name -> fingerprint, of the variables asked for; `added`: of all
    that its image does not give it."""

    name: str
    service: str
    state: str
    started_ns: int
    env: dict[str, str]
    added: dict[str, str]


@dataclass(frozen=True)
class SecretAuditAnswer:
    """`env_files`: path -> name -> variable; `secret_files`: path -> file; what is not there is left out. `now_ns`: the
    host's clock."""

    env_files: dict[str, dict[str, HeldVariable]]
    secret_files: dict[str, HeldFile]
    containers: list[HoldingContainer]
    now_ns: int

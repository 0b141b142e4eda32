"""The JSON documents for programs, typed: what commands print with `--json`, and the file of `gpuhost plan --out`.

The version is another one when a field goes or means something else, not when one is added.
`python -m gpuhost.plan.schema NAME` prints the JSON schema of one, without NAME their names (`make docs` keeps them in
docs/reference).
"""

from __future__ import annotations

import json
import sys
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from gpuhost.plan.change import Reboot


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ResourcePart(_Part):
    """One thing on a host."""

    kind: str = Field(description="`file`, `folder`, `service`, `image`, `model`, ...")
    name: str = Field(description="its path, or the name that people have for it")


class DifferencePart(_Part):
    """One differing field; never a secret's value: a keyed fingerprint."""

    field: str
    before: str | None = Field(description="null: the field is not there")
    after: str | None


class ImpactPart(_Part):
    """What a change costs."""

    stops: list[str] = Field(description="containers that end, whoever made them")
    restarts: list[str] = Field(description="those of them that run again when it is done")
    download_bytes: int | None = Field(description="null: nobody knows yet")
    neighbour_bytes: dict[str, int] = Field(default={}, description="of them, what other hosts give, by host")
    disk_bytes: int | None = Field(default=0, description="what it takes of the disk; null: nobody knows")
    seconds: float | None = Field(
        default=0, description="how long it took the last time, a service until it was healthy; null: never measured"
    )
    starts: bool = Field(default=False, description="the service runs then")
    opens: list[str] = Field(default=[], description="addresses that are published then and were not")
    reboot: Reboot = Field(default="no", description="whether the host needs one, and who makes it")


class ChangePart(_Part):
    """One thing that an apply will do."""

    host: str
    stage: str = Field(description="the file in tasks/ that does it")
    resource: ResourcePart
    action: str
    reason: str = Field(description="why, in words")
    diff: list[DifferencePart]
    text_diff: list[str] = Field(description="lines of a unified diff of a text file, secrets masked")
    impact: ImpactPart | None


class DiskPart(_Part):
    """A file system on which something comes."""

    folder: str = Field(description="the first of gpuhost's folders on it")
    free_bytes: int
    after_bytes: int = Field(description="at most, when something is unknown")
    unknown: list[str] = Field(description="kinds of resources of which nobody knows what they take")


class PortPart(_Part):
    """An address that is published then and was not."""

    address: str = Field(description="such as 127.0.0.1:8188")
    service: str
    now: bool = Field(description="false: when somebody starts the service")
    beyond_host: bool = Field(description="others than the host itself reach it")


class TotalsPart(_Part):
    """What all changes of a host cost together, as far as it is known."""

    download_bytes: int
    download_unknown: list[str] = Field(description="kinds of resources of which nobody knows it")
    neighbour_bytes: int = Field(description="of the bytes, what other hosts of the inventory give")
    disks: list[DiskPart]
    seconds: float = Field(description="by what was measured last, with the looking and the proof of every apply")
    seconds_unknown: list[str] = Field(description="kinds of resources of which nobody measured it")
    ports: list[PortPart]
    reboot: Reboot


class ProblemPart(_Part):
    """Why a run failed."""

    what: str
    hint: str
    host: str = Field(description="empty when it concerns none")
    detail: list[str] = Field(description="the end of a log")


class SkippedPart(_Part):
    """A service that a host cannot have."""

    host: str
    service: str
    reason: str


class NotePart(_Part):
    """What is no problem and should be known."""

    host: str
    message: str


class PlanDocument(_Part):
    """What `gpuhost plan --json` prints."""

    version: Literal[1]
    result: Literal["ok", "changes", "error"] = Field(description="`ok`: nothing to do")
    changes: list[ChangePart]
    totals: dict[str, TotalsPart] = Field(description="by host; of an apply: empty")
    skipped: list[SkippedPart]
    notes: list[NotePart]
    observed: list[dict[str, Any]] = Field(description="empty in a plan; of an apply: what each service answered")
    errors: list[ProblemPart]


class ErrorDocument(_Part):
    """What a command with `--json` prints when its command line, inventory or data cannot be used."""

    version: Literal[1]
    result: Literal["error"]
    error: ProblemPart = Field(description="the first of `errors`")
    errors: list[ProblemPart]


class SavedPlan(_Part):
    """What `gpuhost plan --out FILE` writes, and `gpuhost apply FILE` does."""

    version: Literal[1]
    kind: Literal["gpuhost plan"]
    made_at: str = Field(description="UTC, ISO 8601")
    gpuhost: str = Field(description="the version that made it")
    code: str = Field(description="sha256 over the program, its stages, templates and shipped files")
    inventory: str = Field(description="its full path")
    limits: list[str] = Field(description="of --limit")
    only: list[str] = Field(description="of --only; empty: all stages")
    everything: bool = Field(default=False, description="of -v: the diffs have what is in new files, and whole labels")
    lock: str = Field(description="sha256 of lock.json, empty without one")
    data: dict[str, dict[str, Any]] = Field(description="host -> what it should be, as `gpuhost config` shows it")
    revisions: dict[str, Any] = Field(description="host -> what the hub said of models")
    changes: list[ChangePart]


class ProofPart(_Part):
    """What a service answered to the value of a secret before and after its rotation."""

    host: str
    service: str
    secret: str
    old_status: int | None = Field(description="of HTTP; null: no answer")
    new_status: int | None


class AppliedDocument(PlanDocument):
    """What `gpuhost apply --json` and the other commands that change or verify something print."""

    result: Literal["ok", "error", "stopped"] = Field(  # type: ignore[assignment]
        description="`stopped`: by Ctrl-C"
    )
    changes: list[ChangePart] = Field(description="those that were made")
    already_done: list[ChangePart] = Field(
        default=[], description="planned ones that were not necessary any more when their turn came"
    )
    proved: list[ProofPart] = Field(default=[], description="of `gpuhost secrets rotate`")


class ServicePart(_Part):
    """What a service of a host does now."""

    host: str
    service: str
    wanted: Literal["running", "on-demand", "skipped", "nothing"] = Field(
        description="`nothing`: the data does not name it any more"
    )
    state: str = Field(description="Docker's word, `absent` without a container")
    health: str = Field(description="Docker's word, empty without a health check")
    port: int | None
    gpus: list[int] = Field(description="the numbers of its cards")
    since_s: float | None = Field(description="for how long it has run, or has been ended; null: nobody knows")
    exit_code: int | None = Field(description="of its last end; null while it runs")
    restarts: int = Field(description="by Docker, since somebody started it")
    ok: bool = Field(description="it does what it should")


class StatusDocument(_Part):
    """What `gpuhost status --json` prints."""

    version: Literal[1]
    result: Literal["ok", "degraded", "error"] = Field(description="`degraded`: some service is not as it should be")
    services: list[ServicePart]
    errors: list[ProblemPart]


class HostPart(_Part):
    """What is in force for a host."""

    values: dict[str, Any] = Field(description="the fields of group_data")
    origins: dict[str, str] = Field(
        default={}, description="with --origin: field -> the file that gave it, or `default`"
    )


class ConfigDocument(_Part):
    """What `gpuhost config --json` prints."""

    version: Literal[1]
    result: Literal["ok"]
    hosts: dict[str, HostPart]
    errors: list[ProblemPart] = Field(description="empty: data that is not in order gives an error document")


class ModelPart(_Part):
    """A model that a host needs or has."""

    host: str
    name: str
    repo: str
    revision: str = Field(description="as the data says it")
    commit: str = Field(description="what it stands for; empty: not known")
    state: Literal["complete", "partial", "absent", "unused"]
    files: int
    bytes: int = Field(description="of all its files, as far as it is known")
    disk_bytes: int = Field(description="on this disk, of files that have several names once")
    verified_ns: int = Field(description="Unix time: when the file was read whose turn is the longest ago; 0: never")
    checked_against: str = Field(description="whose hashes: `lock`, `hub`, `none`")
    used_by: list[str] = Field(description="services")
    licence: str


class ModelsDocument(_Part):
    """What `gpuhost models status --json` prints."""

    version: Literal[1]
    result: Literal["ok", "incomplete", "error"]
    models: list[ModelPart]
    errors: list[ProblemPart]


class VerifiedPart(_Part):
    """What was read and hashed again on a host."""

    host: str
    files: int
    bytes: int


class ModelsVerifiedDocument(_Part):
    """What `gpuhost models verify --json` prints."""

    version: Literal[1]
    result: Literal["ok", "error"]
    verified: list[VerifiedPart]
    errors: list[ProblemPart]


class LocationPart(_Part):
    """Where a secret is, or should be."""

    host: str
    secret: str
    kind: str = Field(description="`control`, `env file`, `secret file`, `container`, `stray container`")
    where: str
    state: str = Field(description="`in sync`, `stale`, `missing`")
    fingerprint: str | None = Field(description="keyed, of the value; null: there is none")


class AuditDocument(_Part):
    """What `gpuhost secrets audit --json` prints."""

    version: Literal[1]
    result: Literal["ok", "out of sync", "error"]
    locations: list[LocationPart]
    errors: list[ProblemPart]


DOCUMENTS: dict[str, type[BaseModel]] = {
    "plan": PlanDocument,
    "applied": AppliedDocument,
    "error": ErrorDocument,
    "saved-plan": SavedPlan,
    "status": StatusDocument,
    "config": ConfigDocument,
    "models": ModelsDocument,
    "models-verified": ModelsVerifiedDocument,
    "audit": AuditDocument,
}


def schema_text(name: str) -> str:
    """The JSON schema of a document."""
    return json.dumps(DOCUMENTS[name].model_json_schema(), indent=2) + "\n"


if __name__ == "__main__":
    sys.stdout.write("".join(map(schema_text, sys.argv[1:])) or "\n".join(DOCUMENTS))

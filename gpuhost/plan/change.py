"""Changes: what differs between what should be and what is, each with its reason. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Scope = Literal["", "secret", "rendered"]
Reboot = Literal["no", "by gpuhost", "by you"]


@dataclass(frozen=True)
class Resource:
    """One thing on a host (or, for a secret, on the control side). `kind`: `file`, `folder`, `service`, `image`,
    `model`, ...; `name`: its path or the name that people have for it."""

    kind: str
    name: str


@dataclass(frozen=True)
class Difference:
    """One differing field. `before` or `after` None: the field is not there. Never a secret's value: a fingerprint."""

    field: str
    before: str | None
    after: str | None

    def line(self) -> str:
        """`~ memory: 24g -> 28g`, `+ NAME: value`, `- NAME: value`."""
        if self.before is None:
            return f"+ {self.field}: {self.after}"
        if self.after is None:
            return f"- {self.field}: {self.before}"
        return f"~ {self.field}: {self.before} -> {self.after}"


def differing(*fields: tuple[str, str, str]) -> tuple[Difference, ...]:
    """The differences among (field, as it is, as it should be)."""
    return tuple(Difference(field, before, after) for field, before, after in fields if before != after)


def in_words(diff: Iterable[Difference]) -> str:
    """`its mode is 777, not 755, its owner is a:a, not root:root`."""
    return ", ".join(f"its {each.field} is {each.before}, not {each.after}" for each in diff)


@dataclass(frozen=True)
class Impact:
    """What a change costs. `stops`: containers that end, whoever made them; `restarts`: those of them that run again
    when it is done; `download_bytes`: None when nobody knows yet; `neighbour_bytes`: those of them that other hosts of
    the inventory give, by host; `disk_bytes`: what it takes of the disk, None when nobody knows; `seconds`: how long it
    takes by what was measured last, a service until it is healthy, 0 for what takes no time worth a word, None when
    nobody has measured; `starts`: the service runs then; `opens`: addresses that are published then and were not, such
    as `127.0.0.1:8188`; `reboot`: whether the host needs one, and who makes it."""

    stops: tuple[str, ...] = ()
    restarts: tuple[str, ...] = ()
    download_bytes: int | None = 0
    neighbour_bytes: Mapping[str, int] = field(default_factory=dict)
    disk_bytes: int | None = 0
    seconds: float | None = 0.0
    starts: bool = False
    opens: tuple[str, ...] = ()
    reboot: Reboot = "no"

    @classmethod
    def of(cls, made: Mapping[str, Any]) -> Impact:
        """What `dataclasses.asdict` made this of, or JSON of that; what an earlier gpuhost did not know is left out."""
        listed = {name: tuple(made[name]) for name in ("stops", "restarts", "opens") if name in made}
        return cls(**{**made, **listed})


@dataclass(frozen=True)
class Change:
    """One thing that a run will do, or did.

    `stage`: the file in `tasks/`; `action`: the verb; `reason`: why, in words; `diff`: the fields that differ. `scope`:
    `secret` when `gpuhost secrets sync` may do it, because a secret's value or an interrupted run asks for it;
    `rendered` when it is a file that holds what was decided elsewhere; else "". `impact` is computed on the control
    side (plan/impact.py), None until then. `text_diff`: the lines of a unified diff of a text file, secrets
    masked; told in a plan alone. Two changes are the same change when stage, resource and action are (the
    reason may read differently once an earlier stage has run).
    """

    stage: str
    resource: Resource
    action: str
    reason: str
    diff: tuple[Difference, ...] = ()
    scope: Scope = ""
    impact: Impact | None = None
    text_diff: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What identifies the change in a plan."""
        return (self.stage, self.resource.kind, self.resource.name, self.action)

    @property
    def untold(self) -> tuple[Difference, ...]:
        """Of the differences those that the reason does not have in the same words."""
        return tuple(each for each in self.diff if each.line().removeprefix("~ ") != self.reason)

    def line(self) -> str:
        """One line for people."""
        return f"{self.stage}: {self.action} {self.resource.name}: {self.reason}"

    @classmethod
    def of(cls, made: Mapping[str, Any]) -> Change:
        """The change that `dataclasses.asdict` made this of, or JSON of that; further keys are left aside."""
        impact = made.get("impact")
        return cls(
            stage=made["stage"],
            resource=Resource(**made["resource"]),
            action=made["action"],
            reason=made["reason"],
            diff=tuple(Difference(**each) for each in made["diff"]),
            scope=made["scope"],
            impact=None if impact is None else Impact.of(impact),
            text_diff=tuple(made.get("text_diff", ())),
        )

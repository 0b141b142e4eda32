"""Changes: what differs between what should be and what is, each with its reason. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Change:
    """One thing that a run will do, or did.

    `stage`: the file in `tasks/`; `subject`: what is changed (a path, a service, a package set); `action`: the verb;
    `reason`: why, in words; `details`: the differences, one a line, no secret value among them. `cause`: `secret` when
    only a secret's value asks for it, `rendered` when it is a file that holds what was decided elsewhere, else "". Two
    changes are the same change when stage, subject and action are (the reason may read differently once an earlier
    stage has run).
    """

    stage: str
    subject: str
    action: str
    reason: str
    details: tuple[str, ...] = ()
    cause: Literal["", "secret", "rendered"] = ""

    @property
    def key(self) -> tuple[str, str, str]:
        """What identifies the change in a plan."""
        return (self.stage, self.subject, self.action)

    def line(self) -> str:
        """One line for people."""
        return f"{self.stage}: {self.action} {self.subject}: {self.reason}"

"""Changes: what differs between what should be and what is, each with its reason. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Change:
    """One thing that a run will do, or did.

    `stage`: the file in `tasks/`; `subject`: what is changed (a path, a service, a package set); `action`: the verb;
    `reason`: why, in words. Two changes are the same change when stage, subject and action are (the reason may read
    differently once an earlier stage has run).
    """

    stage: str
    subject: str
    action: str
    reason: str

    @property
    def key(self) -> tuple[str, str, str]:
        """What identifies the change in a plan."""
        return (self.stage, self.subject, self.action)

    def line(self) -> str:
        """One line for people."""
        return f"{self.stage}: {self.action} {self.subject}: {self.reason}"

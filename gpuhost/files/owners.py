"""Who owns a file: by name, by id where no account has it, and by the name that the id will have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from gpuhost.catalog.types import Account


def called(name: str, number: str) -> str:
    """A user or group by its name; by its id when stat knows no name."""
    return number if name == "UNKNOWN" else name


@dataclass(frozen=True)
class Owners:
    """The names that ids without one have once the accounts of a run are made: id -> name."""

    users: Mapping[str, str] = field(default_factory=dict)
    groups: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, accounts: Iterable[Account]) -> Owners:
        """From the accounts of a run."""
        made = list(accounts)
        return cls({str(each.uid): each.name for each in made}, {str(each.gid): each.name for each in made})

    def user(self, called: str) -> str:
        """A user as it will be called."""
        return self.users.get(called, called)

    def group(self, called: str) -> str:
        """A group as it will be called."""
        return self.groups.get(called, called)

    def both(self, owner: str) -> str:
        """`user:group` as they will be called."""
        user, _, group = owner.partition(":")
        return f"{self.user(user)}:{self.group(group)}"


NOBODY = Owners()

"""The accounts of ours on a host, all of them in one round trip, and why one must be made or corrected."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pyinfra.api.operation import operation
from pyinfra.context import host

from gpuhost.catalog.types import Account
from gpuhost.plan.change import Change, Resource, differing, in_words
from gpuhost.run.fact import HostFact
from gpuhost.run.remote import Script
from gpuhost.run.session import Commands, carry_out

SHELL = "/usr/sbin/nologin"


@dataclass(frozen=True)
class User:
    """A user as it is: its own group's id, its shell."""

    uid: int
    gid: int
    shell: str


@dataclass
class AccountsReading:
    """`users`, `groups`: those that are there, by name; a group's value is its id."""

    users: dict[str, User] = field(default_factory=dict)
    groups: dict[str, int] = field(default_factory=dict)


class AccountsState(HostFact[AccountsReading]):
    """The users and groups of these names."""

    def command(self, names: Iterable[str]) -> str:
        """getent's own lines; it fails when one is missing."""
        asked = shlex.join(names)
        return f"getent passwd {asked} | sed 's/^/user:/'; getent group {asked} | sed 's/^/group:/'; true"

    @staticmethod
    def default() -> AccountsReading:
        """Nobody."""
        return AccountsReading()

    def read(self, output: list[str]) -> AccountsReading:
        """passwd(5) and group(5), with their kind in front."""
        reading = AccountsReading()
        for kind, *fields in (line.split(":") for line in output):
            if kind == "user":
                reading.users[fields[0]] = User(int(fields[2]), int(fields[3]), fields[6])
            elif kind == "group":
                reading.groups[fields[0]] = int(fields[2])
        return reading


def reconcile(wanted: Sequence[Account], seen: AccountsReading) -> list[Change]:
    """The groups and users to make and to correct, groups first. Ids that differ are preflight's to refuse. Pure."""
    groups = [each for each in wanted if each.name not in seen.groups]
    changes = [Change("layout", Resource("group", each.name), "create", "no such group") for each in groups]
    for account in wanted:
        user = seen.users.get(account.name)
        resource = Resource("user", account.name)
        if user is None:
            changes.append(Change("layout", resource, "create", "no such user"))
            continue
        diff = differing(("group", str(user.gid), str(account.gid)), ("shell", user.shell, SHELL))
        if diff:
            changes.append(Change("layout", resource, "correct", in_words(diff), diff))
    return changes


def commands(changes: Sequence[Change], wanted: Sequence[Account]) -> str:
    """The script that carries them out. Pure."""
    accounts: Mapping[str, Account] = {each.name: each for each in wanted}
    return "\n".join(["set -eu", *(_command(each, accounts[each.resource.name]) for each in changes)])


def _command(change: Change, account: Account) -> str:
    if change.resource.kind == "group":
        return f"groupadd --gid {account.gid} {account.name}"
    if change.action == "correct":
        return f"usermod --gid {account.gid} --shell {SHELL} {account.name}"
    # No home of its own: what it may write is said folder by folder.
    home = "--home-dir /nonexistent --no-create-home"
    return f"useradd --uid {account.uid} --gid {account.gid} {home} --shell {SHELL} {account.name}"


def look(wanted: Sequence[Account]) -> AccountsReading:
    """Those of the wanted ones that are there."""
    return host.get_fact(AccountsState, names=[each.name for each in wanted])


@operation()
def accounts(wanted: Sequence[Account]) -> Commands:
    """Every account is there, with its group, and nobody logs in as it."""
    changes = reconcile(wanted, look(wanted))
    yield from carry_out(changes, [Script(commands(changes, wanted))])

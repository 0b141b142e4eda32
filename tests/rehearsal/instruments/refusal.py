"""What makes a run refuse, and how a refusal is told: one sentence and one hint, and no Python."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from ..world.freshhost import FreshHost, free_port
from .control import Told

PROMPT = "sudo password: "


def told_once(told: Told, what: str, hint: str) -> None:
    """One problem, with this sentence and this hint (regular expressions)."""
    assert told.code == 1, told
    assert len(told.errors) == 1, told.errors
    [error] = told.errors
    assert re.search(what, error["what"]) and re.search(hint, error["hint"]), error
    assert "\n" not in error["what"] and not error["detail"], error


def shown_once(code: int, text: str, what: str, hint: str) -> None:
    """The same for somebody who reads: the sentence, the hint below it, and no Python."""
    assert code == 1, text
    lines = [line.strip() for line in re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text).splitlines()]
    errors = [line for line in lines if line.startswith("error: ")]
    hints = [line for line in lines if line.startswith("hint: ")]
    assert len(errors) == len(hints) == 1, text
    assert re.search(what, errors[0]) and re.search(hint, hints[0]), text
    assert "Traceback" not in text and "Exception" not in text, text


@contextmanager
def inventory(host: FreshHost, **changes: object) -> Iterator[None]:
    """The inventory says something else about the host, while the block runs."""
    kept = host.inventory.read_text()
    names: dict[str, list[tuple[str, dict[str, object]]]] = {}
    exec(kept, names)
    [(name, data)] = names["hosts"]
    host.inventory.write_text(f"hosts = [({name!r}, {data | changes!r})]\n")
    try:
        yield
    finally:
        host.inventory.write_text(kept)


@contextmanager
def site(host: FreshHost, text: str) -> Iterator[None]:
    """The group_data beside the inventory ends with these lines, while the block runs."""
    file = host.run_dir / "group_data" / "all.py"
    kept = file.read_text()
    file.write_text(kept + text)
    try:
        yield
    finally:
        file.write_text(kept)


@contextmanager
def rooted(host: FreshHost, command: str, undo: str) -> Iterator[None]:
    """Root ran a command on the host, and undoes it afterwards."""
    host.root(command, check=True)
    try:
        yield
    finally:
        host.root(undo, check=True)


@contextmanager
def occupied(host: FreshHost, port: int) -> Iterator[None]:
    """A foreign process listens."""
    host.occupy_port(port)
    try:
        yield
    finally:
        host.free_port(port)


def unreachable(host: FreshHost) -> AbstractContextManager[None]:
    """Nothing listens where the inventory says that the host is."""
    return inventory(host, ssh_port=free_port())


def with_sudo_password(host: FreshHost) -> AbstractContextManager[None]:
    """sudo asks the login user for a password."""
    return rooted(
        host,
        f"echo 'admin:{host.sudo_password}' | chpasswd && echo 'admin ALL=(ALL:ALL) ALL' > /etc/sudoers.d/admin",
        "echo 'admin ALL=(ALL:ALL) NOPASSWD: ALL' > /etc/sudoers.d/admin",
    )

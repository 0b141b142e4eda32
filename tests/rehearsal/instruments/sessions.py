"""How often a host is asked, as its sshd counts it: whoever asks, and by whatever program."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ..world.freshhost import FreshHost

_SETTING = "/etc/ssh/sshd_config.d/rehearsal.conf"
_STARTED = "journalctl --sync; journalctl --quiet --output=cat --grep='^Starting session: ' | wc -l"


@dataclass
class Sessions:
    """`commands`: each a round trip; known when the block has ended."""

    commands: int = 0


@contextmanager
def counted(host: FreshHost) -> Iterator[Sessions]:
    """Counts the commands that a host is given over SSH meanwhile."""
    host.root(f"echo 'LogLevel VERBOSE' > {_SETTING} && systemctl reload ssh", check=True)
    seen, before = Sessions(), _started(host)
    yield seen
    seen.commands = _started(host) - before
    host.root(f"rm {_SETTING} && systemctl reload ssh", check=True)


def _started(host: FreshHost) -> int:
    return int(host.root(_STARTED, check=True).stdout)

"""How often a host is asked: what its sshd counts, whoever asks and by whatever program."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ..world.freshhost import FreshHost

_SETTING = "/etc/ssh/sshd_config.d/rehearsal.conf"
_STARTED = "journalctl --sync; journalctl --quiet --output=cat --grep='^Starting session: ' | wc -l"


@dataclass
class Sessions:
    """`connections`: logins; `commands`: each a round trip of its own. Both are known when the block has ended."""

    commands: int = 0


@contextmanager
def counted(host: FreshHost) -> Iterator[Sessions]:
    """Counts the commands that a host is given over SSH meanwhile. Its sshd tells them from then on."""
    host.root(f"echo 'LogLevel VERBOSE' > {_SETTING} && systemctl reload ssh", check=True)
    seen, before = Sessions(), _started(host)
    yield seen
    seen.commands = _started(host) - before


def _started(host: FreshHost) -> int:
    return int(host.root(_STARTED, check=True).stdout)

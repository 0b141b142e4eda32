"""The SSH host keys that a host shows, without a login there."""

from __future__ import annotations

import logging
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paramiko import PKey, SSHException, Transport
from paramiko.ssh_exception import IncompatiblePeer
from pyinfra.api.host import Host
from pyinfra.connectors.ssh import SSHConnector
from pyinfra.connectors.sshuserclient.client import SSHClient, get_ssh_config

from gpuhost.errors import Cause, Problem, UserError
from gpuhost.run.connection import refuse_unknown_keys
from gpuhost.run.entry import explain_connection

TIMEOUT_S = 15.0
SYSTEM_CONFIG = "/etc/ssh/ssh_config"

# Kind of key -> the algorithms with which it is proved; the best first.
ALGORITHMS = {
    "ssh-ed25519": ("ssh-ed25519",),
    "ecdsa-sha2-nistp256": ("ecdsa-sha2-nistp256",),
    "ecdsa-sha2-nistp384": ("ecdsa-sha2-nistp384",),
    "ecdsa-sha2-nistp521": ("ecdsa-sha2-nistp521",),
    "ssh-rsa": ("rsa-sha2-512", "rsa-sha2-256"),
}


@dataclass(frozen=True)
class SshTarget:
    """A host as its data and the user's ssh_config say that it is reached: `files`: of known hosts, the first is
    written; `hash_names`: ssh_config wants hashed names there; `config_file`: another ssh_config than the user's."""

    host: str
    asked: str
    hostname: str
    port: int
    files: tuple[Path, ...]
    hash_names: bool
    config_file: str | None


def ssh_target(host: Host) -> SshTarget:
    """Raises UserError for a host that is reached in another way."""
    if not issubclass(host.connector_cls, SSHConnector):
        raise UserError(Problem("this host is not reached by SSH: it has no host key", "nothing is to be done"))
    data = host.data
    asked = data.get("ssh_hostname") or host.name
    config_file = data.get("ssh_config_file")
    own = _of_config(config_file, asked)
    named = data.get("ssh_known_hosts_file")
    files = [named] if named else own.get("userknownhostsfile", "~/.ssh/known_hosts").split()
    hash_names = own.get("hashknownhosts") or _of_config(SYSTEM_CONFIG, asked).get("hashknownhosts")
    return SshTarget(
        host=host.name,
        asked=asked,
        hostname=own.get("hostname", asked),
        port=int(data.get("ssh_port") or own.get("port", 22)),
        files=tuple(Path(file).expanduser() for file in files),
        hash_names=hash_names == "yes",
        config_file=config_file,
    )


def _of_config(file: str | None, hostname: str) -> Mapping[str, Any]:
    config = get_ssh_config(file)
    return config.lookup(hostname) if config else {}


def shown_keys(target: SshTarget, kinds: Sequence[str]) -> Iterator[PKey]:
    """The key of each kind that the host has; it proved that it holds it. Raises UserError."""
    refuse_unknown_keys()  # of the hosts on the way
    for name in ("paramiko", "pyinfra"):  # they would print what is raised
        logging.getLogger(name).addHandler(logging.NullHandler())
    for kind in kinds:
        try:
            key = _shown_key(target, ALGORITHMS[kind])
        except IncompatiblePeer:
            continue
        except socket.gaierror as error:
            raise UserError(_problem(target, f"Could not resolve hostname ({error})")) from None
        except (OSError, EOFError, SSHException) as error:
            raise UserError(_problem(target, f"SSH error ({error})")) from None
        yield key


def _shown_key(target: SshTarget, algorithms: Sequence[str]) -> PKey:
    with _connection(target) as connection, closing(Transport(connection)) as transport:
        transport.get_security_options().key_types = tuple(algorithms)
        transport.start_client(timeout=TIMEOUT_S)
        return transport.get_remote_server_key()


@contextmanager
def _connection(target: SshTarget) -> Iterator[Any]:
    """To the host's port, through the hosts and programs that ssh_config names."""
    # With ProxyJump it logs in to the hosts on the way, as a run does.
    _, config, *_ = SSHClient().parse_config(
        target.asked, {"port": target.port, "timeout": TIMEOUT_S}, ssh_config_file=target.config_file
    )
    way = config.get("sock") or socket.create_connection((target.hostname, target.port), TIMEOUT_S)
    with closing(way):
        yield way


def _problem(target: SshTarget, words: str) -> Problem:
    between = re.search(r"No host key for (\S+) found|Host key for server '(\S+)' does not match", words)
    if between:
        hop = between[1] or between[2]
        return Problem(
            f"the SSH host key of {hop}, on the way to this host, is not {'known' if between[1] else 'the known one'}",
            f"compare its fingerprint and log in there once: ssh {hop}",
            target.host,
        )
    cause = explain_connection(words, target.host) or Cause(words, "log in once by `ssh` to see more")
    return Problem(*cause, target.host)

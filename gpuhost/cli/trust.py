"""`gpuhost trust`: the fingerprint of a host's SSH key, and, when the person says so, the key in known_hosts."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from paramiko import PKey

from gpuhost.cli.arguments import Commands, add_examples, host_options
from gpuhost.cli.complete import completed_by, hosts
from gpuhost.cli.console import ERROR, OK, confirmed
from gpuhost.cli.site import inventory_hosts
from gpuhost.errors import Problem, UserError, suggest
from gpuhost.run import known_hosts
from gpuhost.run.host_keys import ALGORITHMS, SshTarget, shown_keys, ssh_target

ON_HOST = "on the host: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub"


def add_to(commands: Commands) -> None:
    """Add the command to the command line."""
    about = "show the fingerprint of a host's SSH key, ask, and put the key into known_hosts"
    command = commands.add_parser("trust", help=about, description=about)
    host = command.add_argument("host", metavar="HOST", help="its name in the inventory")
    completed_by(host, hosts)
    host_options(command)
    command.add_argument(
        "--fingerprint",
        metavar="SHA256:...",
        help=f"the only one that is taken ({ON_HOST})",
    )
    command.add_argument("-y", "--yes", action="store_true", help="do not ask; only with --fingerprint")
    examples = ("gpuhost trust gpu1", "gpuhost trust gpu1 --yes --fingerprint SHA256:...")
    add_examples(command, *examples, ok="trusted", error="not, or an error")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Show, ask, write; the exit code. Raises UserError, and then nothing is written."""
    if options.yes and not options.fingerprint:
        raise UserError(Problem("--yes alone would trust whoever answers", f"add --fingerprint SHA256:... ({ON_HOST})"))
    hosts = inventory_hosts(options)
    if options.host not in hosts:
        what = f"the inventory names no host `{options.host}`"
        raise UserError(Problem(what, suggest(options.host, sorted(hosts), "host")))
    target = ssh_target(hosts[options.host])
    name = known_hosts.name_of(target.hostname, target.port)
    try:
        known = known_hosts.keys(target.files, name)
    except OSError as error:
        raise UserError(_unusable(target, "read", error)) from None
    key = _chosen(target, known, options.fingerprint)
    # The first of a kind counts: paramiko looks at no second one.
    if key == next((each for each in known if each.get_name() == key.get_name()), None):
        print(f"known already: {_line(name, key)}", file=sys.stderr)
        return OK
    for old in known:
        print(f"known:  {_line(name, old)}", file=sys.stderr)
    print(f"{'now:    ' if known else ''}{_line(name, key)}", file=sys.stderr)
    if known:
        print("THE KEY OF THIS HOST IS ANOTHER ONE: it was rebuilt, or somebody else answers", file=sys.stderr)
    if not options.yes and not _agreed(len(known)):
        return ERROR
    _write(target, name, key, replace=bool(known))
    return OK


def _chosen(target: SshTarget, known: Sequence[PKey], wanted: str | None) -> PKey:
    """The one key that is taken: that with the wanted fingerprint, else one of a kind that is known, else the best.

    One, not all that the host has: a person compares one. Raises UserError.
    """
    kinds = list(dict.fromkeys([*(key.get_name() for key in known if key.get_name() in ALGORITHMS), *ALGORITHMS]))
    shown = []
    for key in shown_keys(target, kinds):
        if wanted in (None, key.fingerprint):
            return key
        shown.append(key.fingerprint)
    if not shown:
        what, hint = "it shows no host key of a known kind", f"supported: {', '.join(ALGORITHMS)}"
        raise UserError(Problem(what, hint, target.host))
    what = f"no SSH host key has the fingerprint {wanted}: it shows {', '.join(shown)}"
    raise UserError(Problem(what, f"somebody else may answer; compare ({ON_HOST})", target.host))


def _line(name: str, key: PKey) -> str:
    """As `ssh-keygen -l` prints it: `256 SHA256:... gpu1 (ED25519)`."""
    kind = key.get_name().removeprefix("ssh-").partition("-")[0].upper()
    return f"{key.get_bits()} {key.fingerprint} {name} ({kind})"


def _agreed(known: int) -> bool:
    if not sys.stdin.isatty():
        hint = f"add --yes and --fingerprint SHA256:... ({ON_HOST})"
        raise UserError(Problem("nobody can be asked: stdin is not a terminal", hint))
    print(f"compare it with the host's own ({ON_HOST})", file=sys.stderr)
    return confirmed("Forget the old key and trust this one?" if known else "Trust this key?")


def _write(target: SshTarget, name: str, key: PKey, replace: bool) -> None:
    file: Path = target.files[0]
    try:
        hashed = target.hash_names or known_hosts.is_hashed(file)
        for each in target.files if replace else ():
            known_hosts.remove(each, name)
        known_hosts.add(file, name, key, hashed)
    except OSError as error:
        raise UserError(_unusable(target, "written", error)) from None
    print(f"trusted: {name} in {file}", file=sys.stderr)


def _unusable(target: SshTarget, how: str, error: OSError) -> Problem:
    hint = "make it a file of yours, or name another by `ssh_known_hosts_file` in the inventory"
    return Problem(f"{error.filename} cannot be {how}: {error.strerror}", hint, target.host)

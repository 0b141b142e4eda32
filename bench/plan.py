"""How long the plan of a converged host with all eight services takes, beside the least that it can take.

    python -m bench.plan [--hosts 5 20] [--rounds 3] [--work DIR]     (as root: it boots a container)

The floor is what nobody can leave out: a Python that imports what a plan imports, one SSH connection, and over it the
scripts by which that plan reads the host, one after the other in one shell. They are taken from a plan of the same run.
Each round runs the floor and `gpuhost plan` in turn, then `gpuhost status`; the best of each counts. Commands are
counted by the host's sshd.

Several hosts: they are names of the one machine, each with a connection of its own. Twenty real machines do not share
two processors, so its sshd then answers each command with what the machine said to the same one before, after the time
that it took it alone. How many answers were not known, and so came from the machine itself, is printed: none should.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import runpy
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.rehearsal.instruments.control import Control
from tests.rehearsal.instruments.converged import converged_host
from tests.rehearsal.instruments.eight import TOKEN, eight_services
from tests.rehearsal.instruments.proof import Proof, expect
from tests.rehearsal.instruments.sessions import counted
from tests.rehearsal.world.freshhost import FreshHost
from tests.rehearsal.world.machine import prepare
from tests.rehearsal.world.scenery import furnish
from tests.rehearsal.world.world import World

# pyinfra itself, which notes what it is about to run on a host.
_NOTING = """
import json, sys
from pyinfra.connectors.ssh import SSHConnector
from pyinfra_cli.main import cli
run, notes = SSHConnector.run_shell_command, open(sys.argv.pop(1), "a")
def noting(self, command, *positional, **named):
    print(json.dumps([str(command), named.get("_stdin") or ""]), file=notes, flush=True)
    return run(self, command, *positional, **named)
SSHConnector.run_shell_command = noting
cli()
"""
_FLOOR = """
import sys
import pyinfra_cli.main
from tasks import destroy, engine, gpu, images, installs, layout, models, preflight, secrets, services, stacks, verify
from gpuhost.catalog import inventory
from pyinfra.connectors.sshuserclient import SSHClient
host, port, user, key, known_hosts = sys.argv[1:]
client = SSHClient()
client.connect(host, port=int(port), username=user, key_filename=key, allow_agent=False, look_for_keys=False,
               _pyinfra_ssh_known_hosts_file=known_hosts, _pyinfra_ssh_strict_host_key_checking="yes")
stdin, stdout, stderr = client.exec_command("sudo -n sh -c 'exec sh' 2>/dev/null")
stdin.write(sys.stdin.read())
stdin.channel.shutdown_write()
assert len(stdout.read()) > 10_000 and stdout.channel.recv_exit_status() == 0
client.close()
"""


@dataclass(frozen=True)
class Took:
    """Seconds, and those of the processor on this side."""

    seconds: float
    processor_s: float

    def __str__(self) -> str:
        return f"{self.seconds:6.2f} s ({self.processor_s:5.2f} s of the processor)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", type=int, nargs="+", default=[5, 20])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", type=Path)
    asked = parser.parse_args()
    prepare()
    with ExitStack() as stack:
        folder = asked.work or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gpuhost-bench-")))
        world = stack.enter_context(World(folder / "world"))
        furnish(world)
        two = Proof(converged_host(world, "two"))
        print(f"two services:   {commands(two.control, two.host)} commands", flush=True)
        world.destroy(two.host)
        eight = eight_services(world, "eight")
        applied = eight.control.apply()
        expect(applied.code == 0, "all eight services can be applied", applied.errors)
        measured(eight.host, sorted({1, *asked.hosts}), asked.rounds)


def measured(host: FreshHost, numbers: Sequence[int], rounds: int) -> None:
    """Prints a paragraph for the machine, then one for each number of hosts that answer as it did."""
    control = _control(host, 1)
    took = compared(control, host, rounds)
    print(f"the machine itself, eight services: {commands(control, host)} commands")
    _print(took)
    print(f"  ratio  {took['plan'].seconds / took['floor'].seconds:.2f} of the floor; load {os.getloadavg()[0]:.1f}")
    with replayed(host) as replay:
        compared(control, host, 1, floor=False)
        replay.unknown()
        one = 0.0
        for number in numbers:
            took = compared(_control(host, number), host, rounds, floor=False)
            one = one or took["plan"].seconds
            print(f"{number} hosts that answer as it did ({replay.unknown()} commands with no known answer)")
            _print(took)
            print(f"  ratio  {took['plan'].seconds / one:.2f} of one; load {os.getloadavg()[0]:.1f}", flush=True)


def _print(took: Mapping[str, Took]) -> None:
    for name, each in took.items():
        print(f"  {name:6} {each}")


def commands(control: Control, host: FreshHost) -> int:
    """How many a plan gives to its host."""
    with counted(host) as seen:
        planned = control.plan()
    expect(planned.code == 0 and not planned.changes, "the host is converged", (planned.errors, planned.changes))
    return seen.commands


def compared(control: Control, host: FreshHost, rounds: int, floor: bool = True) -> dict[str, Took]:
    """The best of each."""
    scripts = _scripts(control, host) if floor else ""
    runs = {
        **({"floor": lambda: _floor(control, host, scripts)} if floor else {}),
        "plan": lambda: expect(control.plan().code == 0, "the hosts are converged"),
        "status": lambda: expect(control.text("status").returncode == 0, "every service is well"),
    }
    in_turn = [{name: _timed(each) for name, each in runs.items()} for _ in range(rounds)]
    return {name: min((took[name] for took in in_turn), key=lambda each: each.seconds) for name in runs}


def _timed(work: object) -> Took:
    assert callable(work)
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    work()
    seconds, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Took(seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def _scripts(control: Control, host: FreshHost) -> str:
    """What a plan of one host runs there, one after the other, each in a shell of its own."""
    notes = host.run_dir / "commands.jsonl"
    notes.unlink(missing_ok=True)
    notes.touch(mode=0o600)
    control.python("-c", _NOTING, str(notes), str(host.inventory), "deploy.py", "--dry", "--json")
    noted = [json.loads(each) for each in notes.read_text().splitlines()]
    notes.unlink()
    expect(len(noted) > 2, "a plan's commands are noted")
    parts = []
    for command, stdin in noted:
        parts.append(stdin if command == "exec sh" else f"({command}\n) </dev/null")
    return "\n".join(parts)


def _floor(control: Control, host: FreshHost, scripts: str) -> None:
    where = ["127.0.0.1", str(host.port), "admin", str(host.key), str(host.known_hosts)]
    done = control.python("-c", _FLOOR, *where, stdin=scripts)
    expect(done.returncode == 0, "the scripts run", done.stderr[-2000:])


# -- several hosts -----------------------------------------------------------------------------------------------------


_ANSWERS = "/var/tmp/gpuhost-bench"
_SETTING = "/etc/ssh/sshd_config.d/bench.conf"
# What sshd runs in the place of each command. Of two scripts with another mark between their answers the rest is equal.
_REPLAY = """#!/usr/bin/python3
import hashlib, os, pickle, re, subprocess, sys, time
began, command, told = time.monotonic(), os.environ.get("SSH_ORIGINAL_COMMAND", ""), sys.stdin.buffer.read()
found = re.search(rb"n([0-9a-f]{32}) %s", told)
mark = found[1] if found else b"<none>"
name = hashlib.sha256(command.encode() + b"|" + told.replace(mark, b"<mark>")).hexdigest()
path = os.path.join("@ANSWERS@", name)
if not os.path.exists(path):
    done = subprocess.run(["sh", "-c", command], input=told, capture_output=True)
    with open(path, "xb") as file:
        said = [each.replace(mark, b"<mark>") for each in (done.stdout, done.stderr)]
        pickle.dump((time.monotonic() - began, done.returncode, *said), file)
with open(path, "rb") as file:
    took, code, out, err = pickle.load(file)
time.sleep(max(0, began + took - time.monotonic()))
sys.stdout.buffer.write(out.replace(b"<mark>", mark))
sys.stderr.buffer.write(err.replace(b"<mark>", mark))
sys.exit(code)
""".replace("@ANSWERS@", _ANSWERS)


@dataclass
class Replay:
    """A machine that says again what it said."""

    host: FreshHost
    known: int = 0

    def unknown(self) -> int:
        """How many answers came from the machine itself since it was last asked."""
        before, self.known = self.known, int(self.host.root(f"ls {_ANSWERS} | wc -l", check=True).stdout)
        return self.known - before


@contextmanager
def replayed(host: FreshHost) -> Iterator[Replay]:
    """Meanwhile the host's sshd answers what it was asked before without asking the host again."""
    setting = f"MaxStartups 200\nMatch User admin\n    ForceCommand {_ANSWERS}.program\n"
    host.root(f"cat > {_ANSWERS}.program && chmod 755 {_ANSWERS}.program", input=_REPLAY, check=True)
    host.root(f"install -d -m 777 {_ANSWERS} && cat > {_SETTING} && systemctl reload ssh", input=setting, check=True)
    try:
        yield Replay(host)
    finally:
        host.root(f"rm -r {_SETTING} {_ANSWERS} {_ANSWERS}.program && systemctl reload ssh", check=True)


def _control(host: FreshHost, number: int) -> Control:
    """Of so many names of one machine, beside its group data."""
    [(name, data)] = runpy.run_path(str(host.inventory))["hosts"]
    entries = [(name, data)]
    for index in range(1, number):
        other = f"{name}-{index}"  # another name has its secrets by that name
        for file in (host.run_dir / "secrets").glob(f"{name}.*"):
            shutil.copy2(file, file.with_name(file.name.replace(name, other, 1)))
        entries.append((other, data))
    path = host.run_dir / f"inventory{number}.py"
    path.write_text(f"hosts = {entries!r}\n")
    return Control(host, environment={"HF_TOKEN": TOKEN}, inventory=path)


if __name__ == "__main__":
    main()

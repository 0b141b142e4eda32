"""How long the plan of a converged host with all eight services takes, beside the least that it can take.

    python -m bench.plan [--hosts 1 5 20] [--machines 5] [--rounds 3] [--work DIR]     (as root: it boots containers)

The floor is what nobody can leave out: a Python that imports what a plan imports, one SSH connection, and over it the
scripts by which that plan reads the host, one after the other in one shell. They are taken from a plan of the same run.
Each round runs the floor and `gpuhost plan` in turn, then `gpuhost status`; the best of each counts. Several hosts are
copies of the one, each a machine of its own with its own sshd and Docker, as far as `--machines` goes: more hosts than
that are further names of the same machines, each with a connection of its own. They and this program share the cores of
one machine, so the processor's seconds of this program alone are printed, too. Commands are counted by each sshd.
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
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.rehearsal.instruments.control import Control
from tests.rehearsal.instruments.converged import converged_host
from tests.rehearsal.instruments.eight import TOKEN, eight_services
from tests.rehearsal.instruments.proof import Proof, expect
from tests.rehearsal.instruments.sessions import Sessions, counted
from tests.rehearsal.world.freshhost import FreshHost
from tests.rehearsal.world.machine import prepare
from tests.rehearsal.world.run import run
from tests.rehearsal.world.saved import SavedHost, save
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
    parser.add_argument("--hosts", type=int, nargs="+", default=[1, 5, 20])
    parser.add_argument("--machines", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", type=Path)
    asked = parser.parse_args()
    prepare()
    with ExitStack() as stack:
        folder = asked.work or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gpuhost-bench-")))
        world = stack.enter_context(World(folder / "world"))
        furnish(world)
        two = Proof(converged_host(world, "two"))
        print(f"two services:   {commands(two.control, [two.host])} commands", flush=True)
        world.destroy(two.host)
        eight = eight_services(world, "eight")
        applied = eight.control.apply()
        expect(applied.code == 0, "all eight services can be applied", applied.errors)
        saved = stack.enter_context(_saved(eight.host, folder))
        machines = [eight.host]
        while len(machines) < min(asked.machines, max(asked.hosts)):
            machines.append(copied(world, eight.host, saved, f"copy{len(machines)}"))
        measured(machines, sorted(asked.hosts), asked.rounds)


def measured(machines: Sequence[FreshHost], numbers: Sequence[int], rounds: int) -> None:
    """Prints a paragraph for each number of hosts."""
    one = 0.0
    for number in numbers:
        used = machines[:number]
        control = Control(used[0], environment={"HF_TOKEN": TOKEN}, inventory=_inventory(used, number))
        took = compared(control, used[0], rounds)
        one = one or took["plan"].seconds
        names = f"{number} hosts (names of {len(used)} machines)" if number > len(used) else f"{number} hosts"
        print(f"{names}, eight services each: {commands(control, used)} commands a machine")
        for name, each in took.items():
            print(f"  {name:6} {each}")
        print(f"  ratio  {took['plan'].seconds / took['floor'].seconds:.2f} of the floor of one host,", end=" ")
        print(f"{took['plan'].seconds / one:.2f} of the plan of one; load {os.getloadavg()[0]:.1f}", flush=True)


def commands(control: Control, hosts: Sequence[FreshHost]) -> str:
    """How many a plan of these hosts gives to each of them; a range when they differ."""
    with ExitStack() as stack:
        each: list[Sessions] = [stack.enter_context(counted(host)) for host in hosts]
        planned = control.plan()
    expect(planned.code == 0 and not planned.changes, "the hosts are converged", (planned.errors, planned.changes))
    found = sorted({one.commands for one in each})
    return str(found[0]) if len(found) == 1 else f"{found[0]} to {found[-1]}"


def compared(control: Control, host: FreshHost, rounds: int) -> dict[str, Took]:
    """The best of each."""
    scripts = _scripts(control, host)
    runs = {
        "floor": lambda: _floor(control, host, scripts),
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


# -- copies ------------------------------------------------------------------------------------------------------------


@contextmanager
def _saved(host: FreshHost, folder: Path) -> Iterator[SavedHost]:
    """As the host is now. It runs again afterwards."""
    made = save(host, folder / "saved", f"gpuhost-bench:{host.world}")
    try:
        yield made
    finally:
        run(["docker", "image", "rm", "--force", made.image], check=False)


def copied(world: World, eight: FreshHost, saved: SavedHost, name: str) -> FreshHost:
    """A copy that has nothing left to do: a copied file has another inode, so its models are looked at again."""
    host = world.restore(saved, name)
    data = runpy.run_path(str(eight.run_dir / "group_data" / "all.py"))
    host.write_inventory({key: value for key, value in data.items() if not key.startswith("_")})
    applied = Control(host, environment={"HF_TOKEN": TOKEN}).apply()
    expect(applied.code == 0, "a copy can be applied", applied.errors)
    return host


def _inventory(machines: Sequence[FreshHost], number: int) -> Path:
    """One inventory for so many hosts, beside the group data of the first."""
    entries = []
    for index in range(number):
        host, again = machines[index % len(machines)], index // len(machines)
        [(name, data)] = runpy.run_path(str(host.inventory))["hosts"]
        if again:  # another name has its secrets by that name
            name = f"{name}-{again}"
            for file in (host.run_dir / "secrets").glob(f"{host.name}.*"):
                shutil.copy2(file, file.with_name(file.name.replace(host.name, name, 1)))
        entries.append((name, data))
    path = machines[0].run_dir / f"inventory{number}.py"
    path.write_text(f"hosts = {entries!r}\n")
    return path


if __name__ == "__main__":
    main()

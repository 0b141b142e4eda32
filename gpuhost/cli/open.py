"""`gpuhost open`: where a service is, and the tunnel to it for a host that is reached by SSH."""

from __future__ import annotations

import argparse
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

from gpuhost.cli.arguments import Commands, add_examples, host_options
from gpuhost.cli.complete import completed_by, services
from gpuhost.cli.console import OK, same_inventory
from gpuhost.cli.site import inventory_hosts, service_hosts, site
from gpuhost.errors import Problem, UserError
from gpuhost.verify.addresses import Forward, command_line, local_ports, tunnel, url

OPENS_S, POLL_S = 30.0, 0.1


def add_to(commands: Commands) -> None:
    """Add the command to the command line."""
    about = "the address of a service; for a host that is reached by SSH, open the tunnel to it (Ctrl-C ends it)"
    command = commands.add_parser("open", help=about, description=about)
    service = command.add_argument("service", metavar="SERVICE", help="its name in the data")
    completed_by(service, services)
    command.add_argument("--print", action="store_true", dest="only_print", help="print address and tunnel, open none")
    host_options(command)
    examples = ("gpuhost open comfyui-qwen", "gpuhost open comfyui-qwen --limit gpu1 --print")
    add_examples(command, *examples, ok="printed")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the address; with a tunnel, stay until it ends; the exit code. Raises UserError."""
    name, found = options.service, site(options)
    host, *others = service_hosts(found, name)
    if others:
        what = f"{name} runs on {len(others) + 1} hosts: {', '.join([host, *others])}"
        raise UserError(Problem(what, f"name one: gpuhost open {name} --limit {host}{same_inventory(options)}"))
    data = inventory_hosts(options)[host].data.dict()
    entry, local = found.catalogs[host].services[name], local_ports(found.catalogs).get((host, name))
    address = url(host, data, entry, local)
    if local is None:
        print(address)
        return OK
    words = tunnel(host, data, [Forward(local, entry.bind, entry.port)])
    print(address, flush=True)
    print(f"tunnel: {command_line(words)}", file=sys.stderr)
    return OK if options.only_print else _hold(words, local, f"gpuhost trust {host}{same_inventory(options)}")


def _hold(words: Sequence[str], local: int, trust: str) -> int:
    """Keep the tunnel open until the person or the other side ends it. Raises UserError when it cannot be opened.
    `trust`: the command that asks whether the host's key is trusted."""
    if _listens(local):
        what = f"port {local} of this machine is in use"
        raise UserError(Problem(what, "a tunnel is open already, or another program has it: open the address above"))
    quick = ["-o", "ExitOnForwardFailure=yes", "-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=3"]
    try:
        with subprocess.Popen([words[0], *quick, *words[1:]], stdin=subprocess.DEVNULL) as ssh:
            try:
                end = time.monotonic() + OPENS_S
                while ssh.poll() is None and not _listens(local) and time.monotonic() < end:
                    time.sleep(POLL_S)
                if ssh.poll() is None:
                    print("the tunnel is open; Ctrl-C ends it", file=sys.stderr, flush=True)
                ssh.wait()
            except KeyboardInterrupt:
                ssh.terminate()
                ssh.wait()
                print("\nthe tunnel is closed", file=sys.stderr)
                return OK
    except FileNotFoundError:
        raise UserError(Problem("there is no `ssh` on this machine", "install an OpenSSH client")) from None
    what = f"the tunnel ended (ssh: exit code {ssh.returncode})"
    raise UserError(Problem(what, f"the lines above are ssh's own; `{trust}` when the host key is not known"))


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0

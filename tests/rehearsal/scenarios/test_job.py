"""A detached program under a real systemd: attached to again after its connection went, told when it was killed."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest

from ..world.freshhost import FreshHost
from ..world.machine import PROJECT
from ..world.run import wait_for

pytestmark = pytest.mark.rehearsal
TOKEN = "hf_rehearsal0job0token"  # noqa: S105  (nobody's)
PROGRAMS = "/opt/programs"
PREPARE = f"""set -e
(apt-get update -q; apt-get install -qy --no-install-recommends python3) < /dev/null > /dev/null 2>&1
mkdir -p {PROGRAMS}/hostside; cat > {PROGRAMS}/hostside/job.py; touch {PROGRAMS}/hostside/__init__.py
site=$(python3 -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
mkdir -p "$site"; echo {PROGRAMS} > "$site/programs.pth"
mkfifo /root/go
"""
JOB = "sudo python3 -I -B -m hostside.job run models --folder /run/gpuhost/jobs --what 'the fetch' -- "
# It says how long the secret was that it read, and waits for a word.
WAITS = "sh -c 'read secret; echo ${#secret} 100%n; read word < /root/go; echo $word; exit 7'"
SAID = f"{len(TOKEN)} 100%n\n"
UNIT = "gpuhost-models.service"
PATTERN = f"{TOKEN[:-1]}[{TOKEN[-1]}]"  # by which what looks for it does not find itself
SEEN_BY = f"""
grep -rls -- '{PATTERN}' /run /tmp /root /proc/[0-9]*/cmdline /proc/[0-9]*/environ
systemctl show {UNIT} | grep -- '{PATTERN}'; systemctl cat {UNIT} | grep -- '{PATTERN}'
journalctl | grep -- '{PATTERN}'
"""


def start(host: FreshHost, command: str) -> subprocess.Popen[str]:
    """Over SSH, as an operation does."""
    process = subprocess.Popen(
        [*host.ssh_command.split(), JOB + command], stdin=-1, stdout=-1, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdin is not None
    process.stdin.write(f"{TOKEN}\n")
    process.stdin.close()
    process.stdin = None
    return process


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def left(host: FreshHost) -> tuple[str, str]:
    state = host.root(f"systemctl show -P ActiveState {UNIT}").stdout.strip()
    return state, host.root("ls -A /run/gpuhost/jobs").stdout


@pytest.mark.parametrize("suite", ["trixie", "bookworm"])
def test_a_detached_program_outlives_its_connection(boot: Callable[..., FreshHost], suite: str) -> None:
    host = boot(f"job-{suite}", suite=suite)
    host.root(PREPARE, input=(PROJECT / "files/host/hostside/job.py").read_bytes(), check=True)

    first = start(host, WAITS)
    assert line(first) == SAID
    assert host.root(SEEN_BY).stdout == ""
    modes = host.root("stat -c '%U %a' /run/gpuhost/jobs /run/gpuhost/jobs/*").stdout
    assert modes == "root 700\nroot 600\n"
    host.root("pkill -KILL -f '^sshd.*admin'", check=True)
    assert first.wait(60) != 0
    assert left(host)[0] == "active"

    second = start(host, "sh -c 'echo mine; exit 3'")
    # What is said about the program and what it says come by two ways, in any order.
    assert {line(second), line(second)} == {"the fetch goes on, as an earlier run started it\n", SAID}
    host.root("echo go > /root/go", check=True)
    assert second.communicate(timeout=60)[0] == "go\nmine\n" and second.returncode == 3
    assert left(host) == ("inactive", "")

    third = start(host, WAITS)
    assert line(third) == SAID
    host.root(f"systemctl kill --signal=KILL {UNIT}", check=True)
    assert third.communicate(timeout=60)[0].startswith("error: the fetch was killed (signal, KILL)\nhint: ")
    assert third.returncode == 125 and left(host) == ("inactive", "")

    refused = start(host, "/no/such/program")
    said = refused.communicate(timeout=60)[0]
    assert refused.returncode not in (0, None) and said, said
    assert left(host) == ("inactive", "")
    fourth = start(host, WAITS)
    assert line(fourth) == SAID
    wait_for(lambda: left(host)[0] == "active", "the unit", 30)
    host.reboot()  # a stop is an end like any other
    assert fourth.wait(60) != 0 and host.root("ls -A /run/gpuhost/jobs").stdout == ""
    assert start(host, "echo again").communicate(timeout=60)[0] == "again\n"

"""The orchestrator answers the network and is not root: of Docker it has the broker's three questions, and no more."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from ..instruments.converged import converged_host
from ..instruments.proof import Proof
from ..world.freshhost import FreshHost
from ..world.run import wait_for
from ..world.world import World

pytestmark = pytest.mark.rehearsal
BROKER, SOCKET = "gpuhost-broker.service", "gpuhost-broker.socket"
ENV_FILE = "/srv/genai/stacks/orchestrator/.env.docker"


@pytest.fixture(scope="module")
def converged(furnished: World) -> Iterator[Proof]:
    """A copy of a host that went the whole path."""
    proof = Proof(converged_host(furnished, "broker"))
    yield proof
    furnished.destroy(proof.host)


# What somebody does who broke into the orchestrator: its Python, its account, its mounts.
_ATTACK = r"""
import glob, json, os, socket, stat, sys
def ask(sent):
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(30); s.connect("/run/gpuhost/broker/socket"); s.sendall(sent)
        return json.loads(b"".join(iter(lambda: s.recv(65536), b"")))
def sockets(at):
    for folder, _, files in os.walk(at):
        if not folder.startswith(("/proc", "/sys")):
            yield from (p for p in (os.path.join(folder, f) for f in files) if stat.S_ISSOCK(os.lstat(p).st_mode))
def can(what, *arguments):
    try:
        what(*arguments)
    except OSError:
        return False
    return True
print(json.dumps({
    "ids": [os.getuid(), os.getgid(), os.getgroups()],
    "sockets": sorted(sockets("/")),
    "writes": can(open, "/run/gpuhost/broker/mine", "w") or can(os.chmod, "/run/gpuhost/broker/socket", 0o777),
    "devices": glob.glob("/dev/nvidia*"),
    "answers": {sent: ask(sent.encode()) for sent in json.loads(sys.argv[1])},
}))
"""
_HTTP = "{} HTTP/1.1\r\nHost: docker\r\nContent-Length: 0\r\n\r\n"
NO_QUESTIONS = [
    *(_HTTP.format(f"{method} {path}") for method, path in (
        ("POST", "/containers/create?name=mine"),
        ("POST", "/containers/orchestrator/exec"),
        ("POST", "/containers/orchestrator/attach"),
        ("GET", "/containers/comfyui-qwen/json"),
        ("GET", "/containers/comfyui-qwen/archive?path=/"),
        ("GET", "/images/json"),
        ("POST", "/build"),
        ("GET", "/volumes"),
    )),
    "remove comfyui-qwen\n",
    "stop ../containers/foreign\n",
    "list\nstop comfyui-qwen\n",
]  # fmt: skip


def attacked(host: FreshHost, questions: list[str]) -> dict[str, Any]:
    """What the attack sees from inside the orchestrator's container."""
    command = shlex.join(["docker", "exec", "orchestrator", "python", "-c", _ATTACK, json.dumps(questions)])
    seen: dict[str, Any] = json.loads(host.root(command, check=True).stdout)
    return seen


def api(host: FreshHost, method: str, path: str) -> tuple[int, Any]:
    """Status and document of a request to the orchestrator's published port, with its token."""
    script = (
        f"set -eu; . {ENV_FILE}; "
        """printf 'header = "Authorization: Bearer %s"\\n' "$ORCHESTRATOR_TOKEN" | """
        f"curl -sS -K - -X {method} -w '\\n%{{http_code}}' http://127.0.0.1:8193{path}"
    )
    body, _, status = host.root(script, check=True).stdout.rpartition("\n")
    return int(status), json.loads(body)


def states(host: FreshHost) -> dict[str, str]:
    """service -> its state, as the orchestrator's API tells."""
    status, document = api(host, "GET", "/services")
    assert status == 200, document
    return {each["name"]: each["state"] for each in document["services"]}


def test_who_breaks_into_the_orchestrator_gets_three_questions(converged: Proof) -> None:
    host = converged.host
    image = host.root("docker inspect -f '{{.Config.Image}}' orchestrator", check=True).stdout.strip()
    host.root(f"docker run -d --name foreign --entrypoint sleep {image} 600", check=True)
    others = ["stop foreign\n", "start foreign\n", "stop \n"]
    seen = attacked(host, [*NO_QUESTIONS, *others, "list\n"])
    account = host.root("stat -c '%g' /run/gpuhost/broker/socket", check=True).stdout.strip()
    assert seen["ids"][1:] == [int(account), [int(account)]] and seen["ids"][0] != 0
    assert seen["sockets"] == ["/run/gpuhost/broker/socket"]
    assert not seen["writes"] and not seen["devices"]
    told = seen["answers"].pop("list\n")
    assert {each["name"] for each in told["services"]} == {"orchestrator", "comfyui-qwen"}
    for sent, answer in seen["answers"].items():
        assert answer["services"] == [] and answer["refused"], sent
    assert states(host) == {"orchestrator": "running", "comfyui-qwen": "running"}
    names = host.root("docker ps -a --format '{{.Names}} {{.State}}' && docker rm -f foreign >/dev/null", check=True)
    assert sorted(names.stdout.splitlines()) == ["comfyui-qwen running", "foreign running", "orchestrator running"]


def test_services_are_stopped_and_started_through_the_published_port(converged: Proof) -> None:
    host = converged.host
    for action, state in (("stop", "exited"), ("start", "running")):
        status, service = api(host, "POST", f"/services/comfyui-qwen/{action}")
        assert (status, service["state"]) == (200, state)
        seen = host.root("docker inspect -f '{{.State.Status}}' comfyui-qwen", check=True).stdout.strip()
        assert seen == state == states(host)["comfyui-qwen"]
    assert api(host, "POST", "/services/foreign/stop")[0] == 404
    assert api(host, "POST", "/services/comfyui-qwen/kill")[0] == 422


def test_what_others_could_turn_elsewhere_is_not_started(converged: Proof) -> None:
    """As at an apply and at boot: a service that is started on demand meets nobody else who looks."""
    host, folder = converged.host, "/srv/genai/services/comfyui-qwen"
    assert api(host, "POST", "/services/comfyui-qwen/stop")[0] == 200
    host.root(f"chmod 777 {folder}", check=True)
    status, told = api(host, "POST", "/services/comfyui-qwen/start")
    assert status == 409 and "others than root can turn what it is given" in json.dumps(told), told
    assert "/srv" not in json.dumps(told) and states(host)["comfyui-qwen"] == "exited"
    log = host.root(f"journalctl -u {BROKER} -o cat --no-pager").stdout
    assert f"others than root may write to {folder}, and put a link there" in log
    host.root(f"chmod 755 {folder}", check=True)
    assert api(host, "POST", "/services/comfyui-qwen/start")[0] == 200
    assert states(host)["comfyui-qwen"] == "running"


def test_a_broker_that_is_killed_or_replaced_is_there_again(converged: Proof) -> None:
    host = converged.host

    def pid() -> str:
        return host.root(f"systemctl show -p MainPID --value {BROKER}", check=True).stdout.strip()

    asked = f"curl -fsS http://127.0.0.1:8193/health; echo; systemctl show -p MainPID --value {BROKER}"

    def healthy_by_another(than: str) -> bool:
        health, _, now = host.root(asked).stdout.strip().partition("\n")
        return health == '{"status":"ok"}' and now not in (than, "0")

    program = "/opt/gpuhost/programs/hostside/broker.py"
    for trouble in (
        f"systemctl kill -s KILL {BROKER}",
        f"cp -p {program} {program}.new && mv {program}.new {program}",
    ):
        before = pid()
        host.root(trouble, check=True)
        wait_for(partial(healthy_by_another, before), f"the broker after `{trouble}`", 60)
    host.root("systemctl restart docker", check=True)
    wait_for(lambda: healthy_by_another(""), "the orchestrator after dockerd's restart", 60)


def test_the_broker_is_shut_in(converged: Proof) -> None:
    """By systemd's own measure (0 is best, 10 nothing), and by what the process has."""
    host = converged.host
    assert states(host)
    told = host.root(f"systemd-analyze security --no-pager {BROKER}").stdout
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", told)
    assert found and float(found[1]) < 2.5, told[-2000:]
    pid = host.root(f"systemctl show -p MainPID --value {BROKER}", check=True).stdout.strip()
    status = host.root(f"grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/{pid}/status", check=True).stdout
    assert dict(line.split(":\t") for line in status.splitlines()) == {
        "CapEff": "0" * 16,
        "CapBnd": "0" * 16,
        "NoNewPrivs": "1",
        "Seccomp": "2",
    }
    write = "touch /etc/mine /opt/gpuhost/mine /srv/genai/mine"
    inside = f"nsenter -t {pid} -m sh -c 'ls -A /var/lib/gpuhost /var/lib/docker /root; {write}'"
    done = host.root(f"{inside} 2>&1; ls /etc/mine /opt/gpuhost/mine /srv/genai/mine 2>/dev/null")
    assert not [line for line in done.stdout.splitlines() if line and not line.endswith((":", "denied", "system"))], (
        done
    )


def test_what_somebody_did_to_the_brokers_units_is_put_right(converged: Proof) -> None:
    host = converged.host
    folder = "/etc/systemd/system"
    edit = f"sed -i 's/^SocketMode=.*/SocketMode=0666/' {folder}/{SOCKET} && systemctl daemon-reload"
    again = f"systemctl stop {BROKER} {SOCKET} && systemctl start {SOCKET}"
    mode = "stat -c '%a %U' /run/gpuhost/broker/socket"
    host.root(f"{edit} && {again} && systemctl disable -q {SOCKET}", check=True)
    assert host.root(mode).stdout.split() == ["666", "root"]
    wanted = {("stacks", f"{folder}/{SOCKET}", "write"), ("stacks", SOCKET, "enable")}
    assert set(converged.control.plan().changes) == wanted
    told = converged.control.apply()
    assert told.code == 0 and set(told.changes) == wanted, told.errors
    assert host.root(mode).stdout.split() == ["660", "root"]
    assert states(host) == {"orchestrator": "running", "comfyui-qwen": "running"}
    host.root(f"systemctl stop {BROKER} {SOCKET}", check=True)
    assert converged.control.apply().changes == [("stacks", SOCKET, "enable")]
    converged.nothing_to_do()

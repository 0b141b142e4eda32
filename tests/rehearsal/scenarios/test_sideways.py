"""Nobody gets in sideways: what neighbours on the LAN reach of the containers, what the containers reach themselves,
and what each may do at most (the checks of the CIS Docker Benchmark, the table in docs/security.md)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator
from typing import Any

import pytest

from ..instruments.converged import converged_host
from ..instruments.neighbour import ASK, Neighbour, neighbour, opened
from ..instruments.proof import Proof
from ..world.machine import PROJECT
from ..world.run import Completed, wait_for
from ..world.scenery import group_data
from ..world.world import World
from .test_services import inspect, site

pytestmark = [pytest.mark.rehearsal, pytest.mark.sampled(5)]
SERVICES = ("orchestrator", "comfyui-qwen")
LOAD = ("layout", "gpuhost", "load")


@pytest.fixture(scope="module")
def converged(furnished: World) -> Iterator[Proof]:
    """A copy of a host that went the whole path."""
    proof = Proof(converged_host(furnished, "sideways"))
    wait_for(lambda: from_host(proof, *by_address(proof).values()) == {*by_address(proof).values()}, "services", 120)
    yield proof
    furnished.destroy(proof.host)


@pytest.fixture(scope="module")
def attacker(furnished: World, converged: Proof) -> Iterator[Neighbour]:
    """A neighbour that sends whatever it likes to the host."""
    with neighbour(furnished, converged.host) as made:
        for network in group_data()["networks"].values():
            made.routes_to(network["subnet"])
        made.gives_away_its_loopback()
        yield made


def by_address(proof: Proof, services: Collection[str] = SERVICES) -> dict[str, str]:
    """service -> address and port of its container."""
    networks = {name: inspect(proof, name)["NetworkSettings"]["Networks"] for name in services}
    port = {name: group_data()["services"][name]["container_port"] for name in services}
    return {name: f"{next(iter(found.values()))['IPAddress']}:{port[name]}" for name, found in networks.items()}


def targets(proof: Proof) -> set[str]:
    """The services by their containers' addresses and by the loopback on which they are published."""
    published = {f"127.0.0.1:{group_data()['services'][name]['port']}" for name in SERVICES}
    return {*by_address(proof).values(), *published}


def from_host(proof: Proof, *wanted: str) -> set[str]:
    """Those that the host itself reaches."""
    return opened(proof.host.root(f"python3 - {' '.join(wanted)}", input=ASK, check=True))


def inside(proof: Proof, service: str, program: str, *words: str) -> Completed:
    """Run a Python program in a service's container, as its process would."""
    return proof.host.root(f"docker exec -i {service} python3 - {' '.join(words)}", input=program, check=True)


def test_a_neighbour_gets_to_no_container_whatever_it_routes_to_the_host(converged: Proof, attacker: Neighbour) -> None:
    """moby/moby#45610, in both its forms; without the rules each gets in, and the next plan says that they are gone."""
    assert from_host(converged, *targets(converged)) == targets(converged)
    assert attacker.reaches(*targets(converged)) == set()
    converged.host.root("nft delete table inet gpuhost", check=True)
    assert attacker.reaches(*targets(converged)) == targets(converged)  # so the attack is one
    told = converged.control.apply()
    assert told.code == 0 and told.changes == [LOAD], (told.changes, told.errors)
    assert attacker.reaches(*targets(converged)) == set()
    converged.nothing_to_do()


def test_a_rule_that_somebody_took_out_is_missed(converged: Proof, attacker: Neighbour) -> None:
    converged.host.root("nft flush chain inet gpuhost prerouting", check=True)
    plan = converged.control.plan()
    assert plan.changes == [LOAD]
    [change] = (plan.document or {})["changes"]
    assert change["reason"] == "what is loaded is not what /opt/gpuhost/firewall.nft says"
    assert converged.control.apply().code == 0
    assert attacker.reaches(*targets(converged)) == set()


def test_the_rules_come_back(converged: Proof, attacker: Neighbour) -> None:
    """After Debian's own unit made everybody's rules forgotten (Docker's, too, until the next boot), and at boot."""
    host, back = (
        converged.host,
        "timeout 20 sh -c 'until nft list table inet gpuhost >/dev/null 2>&1; do sleep 0.1; done'",
    )
    for what in ("start nftables; systemctl restart nftables", "reload nftables"):
        host.root(f"systemctl {what} && {back}", check=True)
        assert attacker.reaches(*targets(converged)) == set(), what
    host.reboot()
    converged.answers("verify")
    assert attacker.reaches(*targets(converged)) == set()
    assert from_host(converged, *targets(converged)) == targets(converged)
    converged.nothing_to_do()


NAMES = """
import socket, sys
for name in sys.argv[1:]:
    try:
        print(name, socket.gethostbyname(name))
    except OSError:
        pass
"""


def outside(proof: Proof, services: Collection[str] = SERVICES) -> set[str]:
    """What the host reaches and no container should: its own sshd by each of its addresses, a machine on its LAN, and
    the services' containers."""
    gateways = [inspect(proof, name)["NetworkSettings"]["Networks"] for name in services]
    own = {proof.host.address, "172.17.0.1", *(next(iter(found.values()))["Gateway"] for found in gateways)}
    return {
        *(f"{address}:22" for address in own),
        f"{proof.host.network.gateway}:443",
        *by_address(proof, services).values(),
    }


def each_reaches_itself_alone(proof: Proof, services: Collection[str]) -> None:
    """Seen from inside each container: not the host, not the LAN, no other service, no name of the world outside."""
    wanted, there = outside(proof, services), by_address(proof, services)
    assert from_host(proof, *wanted) == wanted
    assert "github.com" in proof.host.root("python3 - github.com", input=NAMES, check=True).stdout
    for service in services:
        assert opened(inside(proof, service, ASK, *wanted)) == {there[service]}
        found = inside(proof, service, NAMES, "github.com", "host.docker.internal", *services).stdout
        assert [line.split()[0] for line in found.splitlines()] == [service]


def test_a_service_reaches_nothing_but_itself(converged: Proof) -> None:
    """Those two; all eight do in test_all_services."""
    each_reaches_itself_alone(converged, SERVICES)


def test_a_way_out_and_a_port_beyond_loopback_where_the_data_says_so(converged: Proof, attacker: Neighbour) -> None:
    """The way out leads to the LAN and its names, not to the host nor to other services. The port that is published
    to the LAN is reached there, and the container still not by its own address."""
    host = converged.host
    data: dict[str, object] = {
        "networks": {"orchestrator": {"egress": True}},
        "services": {"comfyui-qwen": {"bind": host.address}},
    }
    with site(converged, **data):
        told = converged.control.apply()
        assert told.code == 0, told.errors
        assert LOAD in told.changes
        itself, lan = by_address(converged)["orchestrator"], f"{host.network.gateway}:443"
        assert opened(inside(converged, "orchestrator", ASK, *outside(converged))) == {itself, lan}
        found = inside(converged, "orchestrator", NAMES, "github.com", *SERVICES).stdout
        assert [line.split()[0] for line in found.splitlines()] == ["github.com", "orchestrator"]
        assert opened(inside(converged, "comfyui-qwen", ASK, *outside(converged), f"{host.address}:8188")) == {
            by_address(converged)["comfyui-qwen"]
        }
        published = f"{host.address}:8188"
        assert attacker.reaches(*targets(converged), published) == {published}
        converged.nothing_to_do()
    _one_network_for_both(converged)
    assert converged.control.apply().code == 0
    converged.nothing_to_do()


def _one_network_for_both(converged: Proof) -> None:
    """Services whose entries name the same network reach each other, by name and address, and nothing else."""
    with site(converged, services={"comfyui-qwen": {"network": "orchestrator"}}):
        told = converged.control.apply()
        assert told.code == 0, told.errors
        there = by_address(converged)
        for service in SERVICES:
            assert opened(inside(converged, service, ASK, *outside(converged))) == {*there.values()}
            found = inside(converged, service, NAMES, "github.com", *SERVICES).stdout
            assert {line.split()[0] for line in found.splitlines()} == {*SERVICES}


# -- what a container may do at most -----------------------------------------------------------------------------------

Inspected = dict[str, Any]
# The recommendations of the CIS Docker Benchmark 1.6 (its numbers) that hold; the others stand in the table with why.
CHECKS: dict[str, Callable[[Inspected, dict[str, Any]], bool]] = {
    "4.1": lambda seen, _: seen["Config"]["User"].partition(":")[0].isdigit() and seen["Config"]["User"][0] != "0",
    "5.4": lambda seen, _: seen["HostConfig"]["CapDrop"] == ["ALL"] and not seen["HostConfig"]["CapAdd"],
    "5.5": lambda seen, _: not seen["HostConfig"]["Privileged"],
    "5.6": lambda seen, _: all(
        each["Source"].startswith(("/srv/genai/", "/run/gpuhost")) for each in seen["Mounts"] if each["Type"] == "bind"
    ),
    "5.7": lambda seen, _: "sshd" not in json.dumps([seen["Path"], seen["Args"]]),
    "5.8": lambda seen, _: all(int(each["HostPort"]) >= 1024 for each in _published(seen)),
    "5.9": lambda seen, entry: [each["HostPort"] for each in _published(seen)] == [str(entry["port"])],
    "5.10": lambda seen, _: seen["HostConfig"]["NetworkMode"] not in ("host", "bridge", "default"),
    "5.11": lambda seen, _: 0 < seen["HostConfig"]["Memory"] == seen["HostConfig"]["MemorySwap"],
    "5.12": lambda seen, _: seen["HostConfig"]["NanoCpus"] > 0,
    "5.13": lambda seen, _: seen["HostConfig"]["ReadonlyRootfs"] and _sized(seen["HostConfig"].get("Tmpfs") or {}),
    "5.14": lambda seen, _: all(each["HostIp"] == "127.0.0.1" for each in _published(seen)),
    "5.16": lambda seen, _: seen["HostConfig"]["PidMode"] == "",
    "5.17": lambda seen, _: seen["HostConfig"]["IpcMode"] == "private",
    "5.18": lambda seen, _: not seen["HostConfig"]["Devices"],
    "5.19": lambda seen, _: {each["Name"] for each in seen["HostConfig"]["Ulimits"]} == {"core", "nofile"},
    "5.20": lambda seen, _: all(each["Propagation"] in ("rprivate", "") for each in seen["Mounts"]),
    "5.21": lambda seen, _: seen["HostConfig"]["UTSMode"] == "",
    "5.22": lambda seen, _: not any("seccomp" in each for each in seen["HostConfig"]["SecurityOpt"]),
    "5.25": lambda seen, _: seen["HostConfig"]["CgroupParent"] == "",
    "5.26": lambda seen, _: "no-new-privileges:true" in seen["HostConfig"]["SecurityOpt"],
    "5.27": lambda seen, _: bool(seen["Config"]["Healthcheck"]["Test"]),
    "5.29": lambda seen, _: 0 < seen["HostConfig"]["PidsLimit"] <= 4096,
    "5.30": lambda seen, _: "bridge" not in seen["NetworkSettings"]["Networks"],
    "5.31": lambda seen, _: seen["HostConfig"]["UsernsMode"] != "host",
    "5.32": lambda seen, _: not any(str(each["Source"]).endswith("docker.sock") for each in seen["Mounts"]),
}


def _published(seen: Inspected) -> list[dict[str, str]]:
    return [each for bound in seen["HostConfig"]["PortBindings"].values() for each in bound]


def _sized(tmpfs: dict[str, str]) -> bool:
    return all("size=" in options for options in tmpfs.values())


def not_held(proof: Proof, services: Collection[str]) -> dict[str, list[str]]:
    """service -> the checks that do not hold for its container; of those of which all do, nothing."""
    entries, seen = group_data()["services"], {name: inspect(proof, name) for name in services}
    found = {name: [n for n, holds in CHECKS.items() if not holds(seen[name], entries[name])] for name in services}
    return {name: broken for name, broken in found.items() if broken}


@pytest.mark.core
def test_what_a_container_may_do_at_most_is_what_the_table_says(converged: Proof) -> None:
    rows = re.findall(r"^\| (\d+\.\d+) \|.*\| (holds|no|host)\b", (PROJECT / "docs/security.md").read_text(), re.M)
    assert {number for number, state in rows if state == "holds"} == CHECKS.keys()
    assert {f"5.{number}" for number in range(1, 33)} <= {number for number, _ in rows}
    assert not_held(converged, SERVICES) == {}


def test_the_limits_are_at_work_inside(converged: Proof) -> None:
    """Not only written down: what the kernel says in the container."""
    read = "import resource; print(resource.getrlimit(resource.RLIMIT_CORE)); print(open('/proc/mounts').read())"
    for name in SERVICES:
        said = inside(converged, name, read).stdout
        assert said.startswith("(0, 0)")
        assert [line for line in said.splitlines() if " / " in line and " ro," in line], "the root is read-only"
        for line in said.splitlines():
            if " /tmp " in line:
                assert "size=1048576k" in line and "noexec" in line and "nosuid" in line

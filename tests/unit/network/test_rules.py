"""Networks and the packet filter's rules, decided without a host."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from hashlib import sha256
from types import SimpleNamespace
from typing import Any

import pytest

from gpuhost.catalog.types import Network
from gpuhost.engine.facts import DockerReading, DockerState
from gpuhost.files.facts import FileState
from gpuhost.files.rules import FileSpec, encoded
from gpuhost.network import operations
from gpuhost.network.facts import FirewallReading, FirewallState
from gpuhost.network.rules import UNIT, bridge, files, interface, options, reconcile
from gpuhost.plan.change import Change
from gpuhost.plan.report import Report
from gpuhost.run.session import Session
from gpuhost.systemd import operations as systemd

RULES = "/opt/tools/firewall.nft"
CLOSED, OPEN = Network(subnet="172.20.1.0/24"), Network(subnet="172.20.2.0/24", egress=True)
NETWORKS = {"inner": CLOSED, "outer": OPEN}


def state_of(spec: FileSpec) -> FileState:
    digest = sha256(encoded(spec.content())).hexdigest()
    return FileState("regular file", spec.mode, spec.user, spec.group, 1.0, digest)


def right() -> FirewallReading:
    """A host on which everything is as it should be."""
    seen = {spec.path: state_of(spec) for spec in files(NETWORKS, RULES)}
    return FirewallReading(seen, loaded=True, as_in_file=True, enabled=True, active=True)


def found(seen: FirewallReading, existing: Iterable[str] = ("inner", "outer")) -> list[Change]:
    return reconcile(files(NETWORKS, RULES), NETWORKS, seen, {name: ["172.20.1.0/24"] for name in existing})


def text(networks: dict[str, Network]) -> str:
    return files(networks, RULES)[0].content()


def test_what_is_right_is_left_alone() -> None:
    assert found(right()) == []


def test_on_a_bare_host_the_rules_come_before_the_networks() -> None:
    changes = found(FirewallReading(), existing=())
    assert [(change.resource.kind, change.resource.name, change.action) for change in changes] == [
        ("file", RULES, "create"),
        ("file", f"/etc/systemd/system/{UNIT}", "create"),
        ("unit", UNIT, "enable"),
        ("firewall", "gpuhost", "load"),
        ("network", "inner", "create"),
        ("network", "outer", "create"),
    ]


@pytest.mark.parametrize(
    ("seen", "kind", "why"),
    [
        ({"loaded": False, "as_in_file": False}, "firewall", "its rules are not loaded"),
        ({"as_in_file": False}, "firewall", f"what is loaded is not what {RULES} says"),
        ({"active": False}, "firewall", f"{UNIT} does not run"),
        ({"enabled": False}, "unit", "it does not run at boot"),
        ({"stale_unit": True}, "file", "systemd has not read it since it changed"),
    ],
)
def test_what_somebody_changed_is_found(seen: dict[str, Any], kind: str, why: str) -> None:
    [change] = found(replace(right(), **seen))
    assert (change.resource.kind, change.reason) == (kind, why)


def test_another_file_is_loaded() -> None:
    seen = right()
    seen.files[RULES] = replace(seen.files[RULES], sha256="0" * 64)
    assert [(change.resource.kind, change.reason) for change in found(seen)] == [
        ("file", "the content differs"),
        ("firewall", f"{RULES} changes"),
    ]


def test_a_way_out_is_for_the_network_that_says_so() -> None:
    lines = [line.strip() for line in text(NETWORKS).splitlines()]
    [way_out] = [line for line in lines if "169.254.0.0/16" in line]
    assert 'iifname "gh-outer"' in way_out and "172.20.1.0/24" in way_out and way_out.endswith("accept")
    [translated] = [line for line in lines if line.endswith("masquerade")]
    assert "172.20.2.0/24" in translated
    assert 'iifname { "gh-outer" } reject with icmpx admin-prohibited' in lines  # what is for the host
    closed = text({"inner": CLOSED})
    assert not any(word in closed for word in ("masquerade", "169.254", "chain input"))


def test_the_last_word_on_what_comes_from_a_container_is_no() -> None:
    chain = text(NETWORKS).partition("chain from_containers {")[2].partition("}\n{")[0]
    rules = [line.strip() for line in chain.partition("\n\t}")[0].splitlines() if line.strip()]
    assert rules[-1].startswith("reject")


def test_the_rules_do_not_depend_on_the_order_of_the_data() -> None:
    assert text(NETWORKS) == text(dict(reversed(NETWORKS.items())))


def test_without_networks_there_are_still_rules() -> None:
    assert "127.0.0.0/8 drop" in text({}) and "{  }" not in text({})


@pytest.mark.parametrize(
    ("network", "start"),
    [("inner", "gh-inner"), ("comfyui-qwen", "gh-comfyui-qwen"), ("orchestrator2", "gh-orchest-")],
)
def test_a_bridge_has_the_networks_name_as_far_as_the_kernel_lets_it(network: str, start: str) -> None:
    assert len(interface(network)) <= 15 and interface(network).startswith(start)


def test_two_long_names_are_two_bridges() -> None:
    assert interface("a-long-network-one") != interface("a-long-network-two")


def test_a_bridge_is_made_as_the_rules_know_it() -> None:
    made = bridge("outer", OPEN)
    assert (made.interface, made.gateway, made.egress) == ("gh-outer", "172.20.2.1", True)
    assert options("outer") == {
        "com.docker.network.bridge.name": "gh-outer",
        "com.docker.network.bridge.enable_ip_masquerade": "false",
    }


def test_the_fact_reads_files_and_what_is_loaded() -> None:
    digest = "a" * 64
    seen = FirewallState().read(
        [
            f"firewall_file\tstat\t{RULES}\tregular file\t644\troot\t0\troot\t0\t1700000000.5",
            f"firewall_file\tsha256\t{RULES}\t{digest}  -",
            "firewall\tloaded",
            "firewall\tenabled",
        ]
    )
    assert (seen.loaded, seen.as_in_file, seen.enabled, seen.active, seen.stale_unit) == (
        True,
        False,
        True,
        False,
        False,
    )
    assert seen.files[RULES].sha256 == digest


@pytest.mark.parametrize(
    ("executing", "planned", "found"),
    [(True, [["layout", "file", f"/etc/systemd/system/{UNIT}", "write"]], 1), (True, [], 0), (False, None, 0)],
)
def test_its_unit_is_read_when_the_plan_found_it_unread_though_an_earlier_step_let_systemd_read_it(
    monkeypatch: pytest.MonkeyPatch, executing: bool, planned: list[list[str]] | None, found: int
) -> None:
    changes: list[Change] = []
    answers: dict[Any, object] = {
        FirewallState: right(),
        DockerState: DockerReading(networks={name: [] for name in NETWORKS}),
    }
    here = SimpleNamespace(name="gpu1", get_fact=lambda fact, **_: answers[fact])
    session = Session(Report(None), None if planned is None else {"gpu1": planned})
    for module in (operations, systemd):
        monkeypatch.setattr(module, "host", here)
    monkeypatch.setattr(systemd, "state", SimpleNamespace(is_executing=executing))
    monkeypatch.setattr(systemd, "current", lambda: session)
    monkeypatch.setattr(operations, "carry_out", lambda wanted, steps: changes.extend(wanted) or ())
    list(operations.networks._inner(wanted=NETWORKS, rules_file=RULES, backups="/backups"))
    assert [change.action for change in changes] == ["write"] * found

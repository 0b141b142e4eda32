"""The switches of a whole catalogue on a host: the test profile, the login switched off, a service that is exposed."""

from __future__ import annotations

import json
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

import pytest

from ..instruments.converged import GPU, QUICK, converged_host
from ..instruments.proof import Proof
from ..world.freshhost import FreshHost
from ..world.world import World

pytestmark = [pytest.mark.rehearsal, pytest.mark.soak]
STATUS = "curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1:8188/system_stats"


def inspect(proof: Proof, container: str) -> dict[str, Any]:
    """What Docker says of a container."""
    found: list[dict[str, Any]] = json.loads(proof.host.root(f"docker inspect {container}", check=True).stdout)
    return found[0]


def test_the_test_profile_without_the_login(furnished: World, boot: Callable[..., FreshHost]) -> None:
    """On a host of its own: networks in the test network, reduced limits, nothing starts by itself; one is started,
    looked at through its port without any token, and stopped."""
    host = boot("tests", gpus=[GPU])
    host.write_inventory({**furnished.host_data(), **QUICK, "profile": "test", "comfyui_login": False})
    proof = Proof(host)
    planned = proof.control.plan()
    told = proof.control.apply()
    assert told.code == 0, told.errors
    assert sorted(told.changes) == sorted(planned.changes)
    for name, memory, cpus in (("orchestrator", 1, 1), ("comfyui-qwen", 34, 2)):
        seen = inspect(proof, name)
        limits = seen["HostConfig"]
        assert seen["State"]["Status"] == "created" and limits["RestartPolicy"]["Name"] == "no"
        assert (limits["Memory"], limits["NanoCpus"]) == (memory * 2**30, cpus * 10**9)
        assert limits["LogConfig"]["Config"] == {"max-size": "5m", "max-file": "2"}
    nets = host.root("docker network inspect orchestrator comfyui-qwen -f '{{(index .IPAM.Config 0).Subnet}}'").stdout
    assert [net.split(".")[:2] for net in nets.split()] == [["172", "25"], ["172", "25"]]
    proof.nothing_to_do()

    host.root("docker start comfyui-qwen", check=True)
    told = proof.control.verify()
    assert told.code == 0 and told.document, told.errors
    [seen] = told.document["observed"]
    assert seen["service"] == "comfyui-qwen" and {probe["status"] for probe in seen["probes"]} == {200}
    assert host.root(STATUS).stdout == "200"
    [port] = inspect(proof, "comfyui-qwen")["NetworkSettings"]["Ports"]["8188/tcp"]
    assert ip_address(port["HostIp"]).is_loopback
    proof.nothing_to_do()  # whether it runs is nobody's concern
    host.root("docker stop comfyui-qwen", check=True)
    proof.nothing_to_do()


def test_a_service_that_is_exposed_asks_everybody_for_the_login(furnished: World) -> None:
    proof = Proof(converged_host(furnished, "exposed"))
    file = proof.host.run_dir / "group_data" / "all.py"
    kept = file.read_text()
    try:
        file.write_text(f"{kept}comfyui_login = False\nexpose = ['comfyui-qwen']\n")
        refused = proof.control.plan()
        assert refused.code == 1 and any("comfyui-qwen" in error["what"] for error in refused.errors), refused.errors
        file.write_text(f"{kept}expose = ['comfyui-qwen']\n")
        plan = proof.control.plan()
        assert ("stacks", "comfyui-qwen", "recreate") in plan.changes and plan.document
        assert any("open to the network" in note["message"] for note in plan.document["notes"])
        told = proof.control.apply()
        assert told.code == 0, told.errors
        everywhere = STATUS.replace("127.0.0.1", proof.host.address)
        assert proof.host.root(everywhere).stdout == "401"
        proof.nothing_to_do()
    finally:
        furnished.destroy(proof.host)

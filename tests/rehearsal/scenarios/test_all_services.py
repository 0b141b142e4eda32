"""All eight services of the catalogue, on a host with three GPUs of 24 GB, then with one, then with none."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest

from ..instruments.control import Told
from ..instruments.converged import GPU
from ..instruments.eight import eight_services
from ..instruments.proof import Proof
from ..instruments.sessions import counted
from ..world.scenery import group_data
from ..world.world import World
from .test_binds import uid
from .test_deploy import COMMANDS_OF_A_PLAN
from .test_sideways import each_reaches_itself_alone, not_held

pytestmark = pytest.mark.rehearsal
SHIPPED = group_data()
ALL, ALWAYS = set(SHIPPED["enabled_services"]), {"orchestrator", "comfyui-qwen"}
MEDIUM = "it needs 2 NVIDIA GPUs, this host has 1"


@pytest.fixture(scope="module")
def converged(furnished: World) -> Iterator[Proof]:
    """A copy of a host that went the whole path, whose site now enables what is shipped."""
    proof = eight_services(furnished, "eight")
    yield proof
    furnished.destroy(proof.host)


def orchestrator(proof: Proof, method: str, path: str) -> Any:
    """What the orchestrator answers; why not, when that is `detail`."""
    shown = proof.control.text("secrets", "show", "ORCHESTRATOR_TOKEN", "--force")
    header = f"Authorization: Bearer {shown.stdout.strip()}"
    ask = f"curl -sS -m 150 -X {method} -H {shlex.quote(header)} http://127.0.0.1:8193{path}"
    return json.loads(proof.host.root(ask, check=True).stdout)


def refused(proof: Proof, name: str) -> bool:
    """Whether a service was refused: its GPUs have no room for it beside those that the answer names."""
    answer = orchestrator(proof, "POST", f"/services/{name}/start")
    if "detail" not in answer:
        return False
    assert re.search(r"for all together, beside `.+; stop `.+ first$", answer["detail"]), answer
    return True


def taken(proof: Proof) -> dict[str, int]:
    """GPU -> what the services that run on it, when there are several, take of it together, in MiB."""
    shown = proof.host.root("docker inspect $(docker ps -q --filter label=gpuhost.vram_mib)", check=True).stdout
    of: dict[str, list[int]] = {}
    for seen in json.loads(shown):
        for card in seen["HostConfig"]["DeviceRequests"][0]["DeviceIDs"]:
            of.setdefault(card, []).append(int(seen["Config"]["Labels"]["gpuhost.vram_mib"]))
    return {card: sum(each) for card, each in of.items() if len(each) > 1}


def states(proof: Proof) -> dict[str, str]:
    """service -> state of its container."""
    listed = proof.host.root("docker ps -a --format '{{.Names}} {{.State}}'", check=True).stdout
    return dict(line.split() for line in listed.splitlines())


def gpus_of(proof: Proof, name: str) -> list[str]:
    """The UUIDs that a container has."""
    seen = json.loads(proof.host.root(f"docker inspect {name}", check=True).stdout)[0]
    return [uuid.removeprefix("nvidia.com/gpu=") for uuid in seen["HostConfig"]["DeviceRequests"][0]["DeviceIDs"]]


def skipped(told: Told) -> dict[str, str]:
    """service -> why it does not run here."""
    assert told.document
    return {each["service"]: each["reason"] for each in told.document["skipped"]}


def asked(told: Told) -> dict[str, set[int]]:
    """service -> the statuses that it answered with, when all of them were as they must be."""
    assert told.code == 0 and told.document, (told.errors, told.stderr[-3000:])
    return {seen["service"]: {probe["status"] for probe in seen["probes"]} for seen in told.document["observed"]}


def shut_in(proof: Proof, running: set[str]) -> dict[str, int]:
    """Of each that runs: what the table in docs/security.md says, nobody else within reach. service -> its uid."""
    assert not_held(proof, running) == {}
    each_reaches_itself_alone(proof, sorted(running))
    return {name: uid(proof, name) for name in running}


def test_all_eight_on_three_cards_then_on_one_then_without(converged: Proof) -> None:
    host, control = converged.host, converged.control
    plan = control.plan()
    assert plan.code == 2 and skipped(plan) == {}, (plan.errors, plan.stderr[-3000:])
    told = control.apply()
    assert told.code == 0, (told.errors, told.stderr[-3000:])
    assert sorted(told.changes) == sorted(plan.changes)
    assert states(converged) == {name: "running" if name in ALWAYS else "created" for name in ALL}
    assert asked(told).keys() == ALWAYS
    # Nobody waits on the card that comfyui-qwen fills, as long as there are others.
    [full] = gpus_of(converged, "comfyui-qwen")
    assert {name for name in ALL - {"orchestrator"} if full in gpus_of(converged, name)} == {"comfyui-qwen"}
    assert len(gpus_of(converged, "qwen3-medium")) == 2

    seen, accounts = dict[str, set[int]](), dict[str, int]()
    left = [name for name in sorted(ALL - ALWAYS) if refused(converged, name)]
    while True:  # as many at a time as have room
        assert all(mib <= 0.9 * GPU.memory_mib for mib in taken(converged).values()), taken(converged)
        seen |= asked(control.verify())
        accounts |= shut_in(converged, {name for name, state in states(converged).items() if state == "running"})
        if not left:
            break
        for name in seen.keys() - ALWAYS:
            orchestrator(converged, "POST", f"/services/{name}/stop")
        left, before = [name for name in left if refused(converged, name)], left
        assert len(left) < len(before)
    assert seen.keys() == ALL
    assert all({200, 401} <= statuses for statuses in seen.values()), seen
    assert accounts.keys() == ALL and len({*accounts.values()} - {0}) == len(ALL)
    second = control.apply()
    assert (second.code, second.changes) == (0, []), second.errors
    with counted(host) as asked_of_eight:
        assert control.plan().changes == []
    assert asked_of_eight.commands == COMMANDS_OF_A_PLAN

    host.set_gpus([GPU])
    host.reboot()
    told = control.apply()
    assert told.code == 0, (told.errors, told.stderr[-3000:])
    assert skipped(told) == {"qwen3-medium": MEDIUM}
    assert {name for name, state in states(converged).items() if state == "running"} == ALWAYS
    assert asked(told).keys() == ALWAYS and states(converged).keys() == ALL - {"qwen3-medium"}
    assert control.plan().changes == []

    host.set_gpus([])
    told = control.apply()
    assert told.code == 0, (told.errors, told.stderr[-3000:])
    assert skipped(told).keys() == ALL - {"orchestrator"} and states(converged) == {"orchestrator": "running"}
    assert control.plan().changes == []

"""A vLLM server joins a converged host, on the card of another service, survives a reboot, and leaves again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from ..instruments.control import Told
from ..instruments.converged import converged_host
from ..instruments.proof import Proof
from ..world.scenery import ENABLED, group_data
from ..world.world import World

pytestmark = pytest.mark.rehearsal
STACKS, SERVICE = "/srv/genai/stacks", "qwen3-micro"


@pytest.fixture(scope="module")
def converged(furnished: World) -> Iterator[Proof]:
    """A copy of a host that went the whole path."""
    proof = Proof(converged_host(furnished, "vllm"))
    yield proof
    furnished.destroy(proof.host)


def inspect(proof: Proof, container: str) -> dict[str, Any]:
    """What Docker says of a container."""
    found: list[dict[str, Any]] = json.loads(proof.host.root(f"docker inspect {container}", check=True).stdout)
    return found[0]


def changes(told: Told, *kinds: str) -> dict[str, str]:
    """name -> action of what a run did, or planned, with these kinds of resources."""
    assert told.code in (0, 2) and told.document, (told.errors, told.stderr[-2000:])
    listed = [each for each in told.document["changes"] if each["resource"]["kind"] in kinds]
    return {each["resource"]["name"]: each["action"] for each in listed}


def answers(told: Told) -> dict[str, int]:
    """question -> status of what the server was asked."""
    assert told.code == 0 and told.document, (told.errors, told.stderr[-2000:])
    [seen] = [each for each in told.document["observed"] if each["service"] == SERVICE]
    return {probe["name"]: probe["status"] for probe in seen["probes"]}


def test_a_vllm_server_joins_shares_a_card_survives_a_reboot_and_leaves(converged: Proof) -> None:
    host, control = converged.host, converged.control
    data = host.run_dir / "group_data" / "all.py"
    before = data.read_text()
    # Both always run, and together they take no more than the card has.
    shared = {SERVICE: {"start": "always"}, "comfyui-qwen": {"gpu": {"vram_mib": 12000, "vram_least_mib": None}}}
    data.write_text(before + f"enabled_services = {[*ENABLED, SERVICE]!r}\nservices = {shared!r}\n")
    foreign = f"{STACKS}/comfyui-qwen/docker-compose-no-auth.yml"
    host.root(f"mkdir {STACKS}/old && echo 'services: {{}}' | tee {STACKS}/old/compose.yml > {foreign}", check=True)

    plan = control.plan()
    # The card has two users now: both wait for the boot unit, which starts them one after the other.
    assert changes(plan, "service") == {SERVICE: "create", "comfyui-qwen": "recreate"}
    told = control.apply()
    assert sorted(told.changes) == sorted(plan.changes), (told.errors, told.stderr[-2000:])
    assert (
        told.document
        and changes(told, "file")[foreign] == changes(told, "file")[f"{STACKS}/old/compose.yml"] == "archive"
    )
    kept = host.root(f"cd {STACKS}/archived/* && find . -type f | sort", check=True).stdout.split()
    assert kept == ["./comfyui-qwen/docker-compose-no-auth.yml", "./old/compose.yml"]
    _is_as_declared(inspect(converged, SERVICE))
    asked = answers(control.verify())
    assert (
        asked["/v1/models is refused without a token"]
        == asked["POST /invocations is refused without a token (1)"]
        == 401
    )
    assert asked["/v1/models answers with the token"] == asked["completes a text"] == 200

    host.reboot()
    assert answers(control.verify())["completes a text"] == 200
    assert control.plan().changes == []
    log = host.root("journalctl -b -u gpuhost-services.service -o cat", check=True).stdout
    assert log.index("starting comfyui-qwen") < log.index(f"starting {SERVICE}")
    first, second = inspect(converged, "comfyui-qwen")["State"], inspect(converged, SERVICE)["State"]
    healthy = next(check for check in first["Health"]["Log"] if check["ExitCode"] == 0)
    assert first["StartedAt"] < second["StartedAt"] and (
        len(first["Health"]["Log"]) > 4 or healthy["Start"] < second["StartedAt"]
    )

    data.write_text(before)
    told = control.apply()
    assert changes(told, "service") == {SERVICE: "remove", "comfyui-qwen": "recreate"}
    assert changes(told, "file")[f"{STACKS}/{SERVICE}/docker-compose-{SERVICE}.yml"] == "archive"
    host.root(f"test -d /srv/genai/services/{SERVICE}/data && test -f {STACKS}/archived/*/{SERVICE}/*.yml", check=True)
    converged.nothing_to_do()
    converged.answers("verify after it left")


def _is_as_declared(seen: dict[str, Any]) -> None:
    """What stands in the data of a vLLM server is what Docker has."""
    made, shipped = seen["HostConfig"], group_data()["services"][SERVICE]
    assert seen["Config"]["Image"] == "docker.io/vllm/vllm-openai:v0.32.0"
    assert seen["Config"]["User"] == f"{shipped['account']['uid']}:{shipped['account']['gid']}"
    assert (
        seen["Config"]["Entrypoint"] == ["vllm", "serve"] and "--gpu-memory-utilization=0.38" in seen["Config"]["Cmd"]
    )
    assert (made["ShmSize"], made["IpcMode"], made["Init"]) == (8 * 2**30, "private", True)
    assert (made["RestartPolicy"]["Name"], made["ReadonlyRootfs"]) == ("on-failure", True)
    mounts = {each["Destination"]: each["RW"] for each in seen["Mounts"]}
    assert mounts == {"/data": True, "/cache/huggingface": False, "/config/gpuhost_guard.py": False}
    names = {variable.partition("=")[0] for variable in seen["Config"]["Env"]}
    assert {"VLLM_API_KEY", "HF_HUB_OFFLINE"} <= names and not {"VLLM_PORT", "CUDA_VISIBLE_DEVICES", "HF_TOKEN"} & names

"""Services as steps: what somebody did to a container is put right; what moves in the data moves in one apply."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from gpuhost.plan.sizes import about

from ..instruments.control import Told
from ..instruments.converged import GPU, converged_host
from ..instruments.proof import Proof
from ..world.scenery import group_data
from ..world.world import World

pytestmark = [pytest.mark.rehearsal, pytest.mark.sampled(4)]


@pytest.fixture(scope="module")
def converged(furnished: World) -> Iterator[Proof]:
    """A copy of a host that went the whole path."""
    proof = Proof(converged_host(furnished, "services"))
    yield proof
    furnished.destroy(proof.host)


@contextmanager
def site(proof: Proof, **data: object) -> Iterator[None]:
    """The site's data says this besides, while the block runs."""
    file = proof.host.run_dir / "group_data" / "all.py"
    kept = file.read_text()
    file.write_text(kept + "".join(f"{name} = {value!r}\n" for name, value in data.items()))
    try:
        yield
    finally:
        file.write_text(kept)


def changed(told: Told) -> dict[str, tuple[str, str]]:
    """service -> (action, reason) of a run that went well, or was planned well."""
    assert told.code in (0, 2) and told.document, told.errors
    services = [each for each in told.document["changes"] if each["resource"]["kind"] == "service"]
    return {each["resource"]["name"]: (each["action"], each["reason"]) for each in services}


def fields(told: Told, service: str) -> set[str]:
    """The fields of a service of which the plan says that they differ."""
    changes = (told.document or {})["changes"]
    [change] = [each for each in changes if each["resource"] == {"kind": "service", "name": service}]
    return {difference["field"] for difference in change["diff"]}


def planned_then_done(proof: Proof, actions: dict[str, str]) -> Told:
    """The plan names exactly these services with these actions, and one apply does it; the plan's document."""
    plan = proof.control.plan()
    assert {name: action for name, (action, _) in changed(plan).items()} == actions
    told = proof.control.apply()
    assert told.code == 0, told.errors
    assert {name: action for name, (action, _) in changed(told).items()} == actions
    return plan


def inspect(proof: Proof, container: str) -> dict[str, Any]:
    """What Docker says of a container."""
    found: list[dict[str, Any]] = json.loads(proof.host.root(f"docker inspect {container}", check=True).stdout)
    return found[0]


def test_what_docker_update_and_another_network_did_is_put_right_and_a_paused_service_woken(converged: Proof) -> None:
    host = converged.host
    host.root(
        "docker update --memory 1g --memory-swap 2g --memory-reservation 512m --cpus 1 --cpuset-cpus 0 "
        "--cpu-shares 512 --pids-limit 9999 --restart no orchestrator",
        check=True,
    )
    host.root(
        "docker network disconnect orchestrator orchestrator && docker network connect bridge orchestrator", check=True
    )
    host.root("docker pause comfyui-qwen", check=True)
    started = inspect(converged, "comfyui-qwen")["State"]["StartedAt"]
    plan = planned_then_done(converged, {"orchestrator": "recreate", "comfyui-qwen": "unpause"})
    assert fields(plan, "orchestrator") == {
        *("memory", "swap", "mem_reservation", "cpus", "cpuset", "cpu_shares", "pids", "restart", "networks"),
    }
    assert changed(plan)["comfyui-qwen"][1] == "it is paused"
    seen = inspect(converged, "orchestrator")["HostConfig"]
    assert (seen["Memory"], seen["NanoCpus"], seen["RestartPolicy"]["Name"]) == (2 * 2**30, 2 * 10**9, "unless-stopped")
    assert inspect(converged, "comfyui-qwen")["State"]["StartedAt"] == started  # woken, not made anew
    converged.nothing_to_do()


def test_a_container_made_again_with_another_token_is_found_though_file_and_label_are_right(converged: Proof) -> None:
    host, folder = converged.host, "/srv/genai/stacks/orchestrator"
    other = f"sed 's/^ORCHESTRATOR_TOKEN=.*/ORCHESTRATOR_TOKEN=\"{'x' * 40}\"/' {folder}/.env.docker > /tmp/other.env"
    up = f"docker compose -f {folder}/docker-compose-orchestrator.yml --env-file /tmp/other.env up -d --no-deps"
    host.root(f"{other} && {up} && rm /tmp/other.env", check=True)
    plan = planned_then_done(converged, {"orchestrator": "recreate"})
    assert (
        changed(plan)["orchestrator"][1]
        == "its environment holds another value of ORCHESTRATOR_TOKEN than its label records"
    )
    converged.nothing_to_do()


def test_a_container_from_which_nothing_of_proc_is_kept_is_seen(converged: Proof) -> None:
    """The engine's client sends no such option: it leaves the lists of masked paths empty."""
    folder = "/srv/genai/stacks/orchestrator"
    over = json.dumps({"services": {"orchestrator": {"security_opt": ["systempaths=unconfined"]}}})
    files = f"-f {folder}/docker-compose-orchestrator.yml -f /root/over.yml --env-file {folder}/.env.docker"
    up = f"docker compose -p orchestrator {files} up -d --no-deps"
    converged.host.root(f"echo {shlex.quote(over)} > /root/over.yml && {up} && rm /root/over.yml", check=True)
    plan = planned_then_done(converged, {"orchestrator": "recreate"})
    assert fields(plan, "orchestrator") == {"security_opt"}
    converged.nothing_to_do()


def measures(proof: Proof) -> dict[tuple[str, str], float]:
    """(kind, name) -> seconds, as the host has noted them."""
    lines = proof.host.root("cat /var/lib/gpuhost/measures", check=True).stdout.splitlines()
    return {(kind, name): float(seconds) for kind, name, seconds, _ in (line.split("\t") for line in lines)}


def away_s(proof: Proof, service: str, since_s: float) -> float:
    """By Docker's events since then: from the end of the container before to the first good answer."""
    kinds = "--filter event=kill --filter event=die --filter event=health_status"
    shown = "--format '{{.TimeNano}} {{.Action}}'"
    listed = f"docker events --since {since_s} --until $(date +%s) --filter container={service} {kinds} {shown}"
    events = [line.split(" ", 1) for line in proof.host.root(listed, check=True).stdout.splitlines()]
    [first, *_] = [int(at) for at, what in events if what.startswith(("kill", "die"))]
    [last, *_] = [int(at) for at, what in events if what == "health_status: healthy" and int(at) > first]
    return (last - first) / 10**9


def test_a_plan_says_for_how_long_a_service_is_away_and_the_apply_takes_about_so_long(converged: Proof) -> None:
    before = measures(converged)
    assert {("service", "orchestrator"), ("service", "comfyui-qwen"), ("install", "comfyui")} <= before.keys()
    began_s = float(converged.host.root("date +%s", check=True).stdout)
    both = {"comfyui-qwen": {"port": 8288}, "orchestrator": {"memory": "1g"}}
    with site(converged, services=both):
        text, plan = converged.control.text("plan", "--no-diff").stdout, converged.control.plan()
        applied = converged.control.text("apply", "--yes", "--no-diff")
        assert applied.returncode == 0, applied.stderr
        after, away = measures(converged), {service: away_s(converged, service, began_s) for service in both}
        for service, real in away.items():
            expected = before["service", service]
            assert impact_of(plan, service)["seconds"] == expected
            print(f"{service}: planned {expected} s, away {real:.1f} s, noted then {after['service', service]} s")
            assert f"stops for about {about(expected)}, as at its last start" in text
        [totals] = (plan.document or {})["totals"].values()
        [(minutes, seconds)] = re.findall(r"made in (?:(\d+) min )?(\d+) s", applied.stdout)
        took_s = int(minutes or 0) * 60 + int(seconds)
        print(f"the whole: planned {totals['seconds']} s, took {took_s} s\n{text}")
        assert totals["seconds"] > sum(before["service", each] for each in both)  # and it looks, and asks
        for service, real in away.items():  # noted from before the old one's end, until it was seen to be healthy
            assert real - 1 < after["service", service] < took_s
        assert (totals["seconds_unknown"], totals["reboot"], totals["disks"]) == ([], "no", [])
        assert totals["ports"] == [
            {"address": "127.0.0.1:8288", "service": "comfyui-qwen", "now": True, "beyond_host": False}
        ]
        assert "New ports: 127.0.0.1:8288 comfyui-qwen\n" in text
        converged.nothing_to_do()  # and nothing is noted
        assert measures(converged) == after
    planned_then_done(converged, dict.fromkeys(both, "recreate"))


def test_a_plan_says_what_the_disk_has_and_what_a_build_took_of_it_the_last_time(converged: Proof) -> None:
    host = converged.host
    listed = "docker image ls --filter label=gpuhost.image=orchestrator --format '{{.Repository}}:{{.Tag}}'"
    [tag] = host.root(listed, check=True).stdout.split()
    size = int(host.root(f"docker image inspect --format '{{{{.Size}}}}' {tag}", check=True).stdout)
    host.root(f"docker tag {tag} kept:1 && docker rmi {tag}", check=True)
    asked = "df -P -B1 /var/lib/docker | awk 'NR==2{print $4}'"
    free = [int(host.root(asked, check=True).stdout)]
    try:
        plan = converged.control.plan()
        free.append(int(host.root(asked, check=True).stdout))
    finally:
        host.root(f"docker tag kept:1 {tag} && docker rmi kept:1", check=True)
    assert ("images", tag, "build") in plan.changes
    [totals] = (plan.document or {})["totals"].values()
    [disk] = totals["disks"]
    print(f"{totals}\ndf: {free}, image: {size}")
    assert disk["unknown"] == []
    assert min(free) - 5 * 10**8 < disk["free_bytes"] < max(free) + 5 * 10**8  # others write to this disk meanwhile
    assert disk["free_bytes"] - disk["after_bytes"] == size
    assert totals["download_unknown"] == ["image"] and not totals["seconds_unknown"]
    converged.nothing_to_do()


def impact_of(plan: Told, service: str) -> dict[str, Any]:
    """What the plan says that a service's change costs."""
    changes = (plan.document or {})["changes"]
    [change] = [each for each in changes if each["resource"] == {"kind": "service", "name": service}]
    return dict(change["impact"])


def test_two_services_swap_their_ports_in_one_apply_and_back(converged: Proof) -> None:
    both = {"orchestrator": "recreate", "comfyui-qwen": "recreate"}
    with site(converged, services={"orchestrator": {"port": 8188}, "comfyui-qwen": {"port": 8193}}):
        plan = planned_then_done(converged, both)
        assert fields(plan, "orchestrator") == {"ports"}
        assert converged.control.plan().changes == []
    planned_then_done(converged, both)


def started(proof: Proof) -> dict[str, str]:
    """service -> when its container was started."""
    listed = "docker inspect -f '{{.Name}} {{.State.StartedAt}}' $(docker ps -q --filter label=gpuhost.service)"
    return dict(line.split() for line in proof.host.root(listed, check=True).stdout.splitlines())


CHANGED = {
    "a port": ("comfyui-qwen", {"port": 8288}),
    "a limit": ("orchestrator", {"memory": "1g"}),
    "an argument": ("comfyui-qwen", {"arguments": ["--max-upload-size=99"]}),
    "a variable": ("orchestrator", {"environment": {"MORE": "of it"}}),
    "a file that is shipped": ("comfyui-qwen", {"shipped_files": {"more.json": "workflows/flux-1-dev.json"}}),
}


def test_another_value_makes_the_service_anew_that_it_concerns_and_no_other(converged: Proof) -> None:
    """Start times prove it. Each change also takes back the one before."""
    last: set[str] = set()
    for what, (service, over) in CHANGED.items():
        before = started(converged)
        with site(converged, services={service: over}):
            planned_then_done(converged, dict.fromkeys({service, *last}, "recreate"))
            after = started(converged)
        made = {name.removeprefix("/") for name, when in after.items() if before[name] != when}
        assert made == {service, *last}, what
        last = {service}
    assert converged.control.apply().code == 0
    converged.nothing_to_do()


def test_another_start_order_is_the_boot_units_and_makes_no_container_anew(converged: Proof) -> None:
    unit = "/etc/systemd/system/gpuhost-services.service"
    started = {name: inspect(converged, name)["State"]["StartedAt"] for name in ("orchestrator", "comfyui-qwen")}
    for order, first in ((99, "comfyui-qwen"), (10, "orchestrator")):
        with site(converged, services={"orchestrator": {"start_order": order}}):
            plan = converged.control.plan()
            assert plan.changes == [("stacks", unit, "write")]
            told = converged.control.apply()
            assert (told.code, told.changes) == (0, plan.changes)
            assert f'start_services.sh "{first} ' in converged.host.root(f"cat {unit}", check=True).stdout
    assert started == {name: inspect(converged, name)["State"]["StartedAt"] for name in started}
    converged.nothing_to_do()


def test_renamed_on_demand_and_a_second_card(converged: Proof) -> None:
    """One apply: a service under another name takes the port of the old one, another waits to be asked for, and a
    second GPU service gets the second card. A `docker compose run` of somebody's is left alone. One apply back."""
    host = converged.host
    files = "-f /srv/genai/stacks/orchestrator/docker-compose-orchestrator.yml"
    one_off = f"docker compose {files} --env-file /srv/genai/stacks/orchestrator/.env.docker run -d --no-deps"
    own = host.root(f"{one_off} orchestrator sleep 3600", check=True).stdout.strip()
    host.set_gpus([GPU, GPU])
    shipped = group_data()["services"]
    account = {"name": "genai-second", "uid": 10009, "gid": 10009}
    second = {**shipped["comfyui-qwen"], "port": 8199, "stack": "second", "account": account, "start_order": 60}
    renamed = {**shipped["orchestrator"], "stack": "conductor"}
    data: dict[str, object] = {
        "services": {
            "orchestrator": None,
            "conductor": renamed,
            "second": second,
            "comfyui-qwen": {"start": "on-demand"},
        },
        "enabled_services": ["conductor", "comfyui-qwen", "second"],
    }
    with site(converged, **data):
        planned_then_done(
            converged,
            {"orchestrator": "remove", "conductor": "create", "comfyui-qwen": "recreate", "second": "create"},
        )
        cards = [
            inspect(converged, name)["HostConfig"]["DeviceRequests"][0]["DeviceIDs"]
            for name in ("comfyui-qwen", "second")
        ]
        assert sorted(cards) == sorted([[f"nvidia.com/gpu={uuid}"] for uuid in host.gpu_uuids])
        assert inspect(converged, own)["State"]["Running"]
        host.root("docker stop -t 20 comfyui-qwen", check=True)
        assert converged.control.plan().changes == []  # whether it runs is its user's affair
        verified = converged.control.verify()
        assert verified.code == 0, verified.errors
    host.set_gpus([GPU])
    host.root(f"docker rm -f {own}", check=True)
    told = converged.control.apply()
    assert told.code == 0, told.errors
    assert {name: action for name, (action, _) in changed(told).items()} == {
        "conductor": "remove",
        "second": "remove",
        "orchestrator": "create",
        "comfyui-qwen": "recreate",
    }
    assert host.root("test -d /srv/genai/services/second/data").rc == 0  # its data stays
    converged.nothing_to_do()
    converged.answers("verify after the way back")


def install_changes(told: Told) -> list[tuple[str, str, set[str]]]:
    """(action, reason, differing paths) of what is to be done with installs."""
    changes = [each for each in (told.document or {})["changes"] if each["resource"]["kind"] == "install"]
    return [(each["action"], each["reason"], {one["field"] for one in each["diff"]}) for each in changes]


def test_a_damaged_install_is_set_aside_and_made_anew_under_its_service(converged: Proof) -> None:
    """Five kinds of damage in one plan; the service then runs from the new folder, and holds the old one no more."""
    host = converged.host
    app = host.root("ls -d /srv/genai/installs/comfyui/*", check=True).stdout.strip()
    damage = f"""
        set -eu; cd {app}/ComfyUI; ls server.py folder_paths.py nodes.py main.py >/dev/null
        truncate -s 10 server.py
        touch -r nodes.py /tmp/time; printf X | dd of=nodes.py conv=notrunc bs=1 count=1 2>/dev/null
        touch -r /tmp/time nodes.py; rm /tmp/time
        rm folder_paths.py; mkdir __pycache__; chmod 666 main.py
    """
    host.root(damage, check=True)
    before = converged.host.snapshot()["files"]
    plan = converged.control.plan()
    assert converged.host.snapshot()["files"] == before
    [(action, reason, paths)] = install_changes(plan)
    assert action == "reinstall" and "ComfyUI/folder_paths.py is gone and 4 more differ; what is there (" in reason
    assert paths == {
        f"ComfyUI/{name}" for name in ("server.py", "nodes.py", "folder_paths.py", "__pycache__", "main.py")
    }
    assert changed(plan) == {"comfyui-qwen": ("recreate", "its install `comfyui` is made anew")}
    told = converged.control.apply()
    assert told.code == 0, told.errors
    assert sorted(told.changes) == sorted(plan.changes) and len(plan.changes) == 2
    [aside] = host.root(f"ls -d {app}.replaced-*", check=True).stdout.split()
    assert host.root(f"stat -c %s {aside}/ComfyUI/server.py", check=True).stdout.strip() == "10"
    held = host.root("docker exec comfyui-qwen stat -c '%d:%i' /app", check=True).stdout
    assert held == host.root(f"stat -c '%d:%i' {app}", check=True).stdout
    converged.nothing_to_do()
    converged.answers("verify with the new install")


def test_a_touched_file_of_an_install_costs_neither_an_install_nor_a_restart(converged: Proof) -> None:
    app = converged.host.root("ls -d /srv/genai/installs/comfyui/*[0-9a-f]", check=True).stdout.split()[0]
    started = inspect(converged, "comfyui-qwen")["State"]["StartedAt"]
    converged.host.root(f"touch {app}/ComfyUI/server.py", check=True)
    told = converged.control.apply()
    assert told.code == 0, told.errors
    reason = "ComfyUI/server.py was touched; the bytes are those that were installed"
    assert install_changes(told) == [("record", reason, set())] and changed(told) == {}
    assert inspect(converged, "comfyui-qwen")["State"]["StartedAt"] == started
    converged.nothing_to_do()

"""From a bare host to answering services: the whole path, seen from outside."""

from __future__ import annotations

import runpy
import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from ..instruments.control import Control
from ..instruments.proof import Proof
from ..world.freshhost import FreshHost, free_port
from ..world.gpus import Gpu
from ..world.machine import PROJECT
from ..world.run import wait_for
from ..world.scenery import group_data
from ..world.world import World

pytestmark = pytest.mark.rehearsal
Boot = Callable[..., FreshHost]
GPU = Gpu("NVIDIA GeForce RTX 3090", 24576)


@pytest.fixture(scope="module")
def proved(furnished: World) -> Iterator[Proof]:
    """A host that went the whole path; the scenarios after it start from there and end there."""
    proof = Proof(furnished.boot("ws1", gpus=[GPU]))
    proof.run()
    yield proof
    proof.host.destroy()
    furnished.hosts.pop("ws1", None)


def test_the_whole_path_is_proved_and_a_second_run_changes_nothing(proved: Proof) -> None:
    """The steps are the fixture's; here is what they saw."""
    performed = next(run["performed"] for run in proved.runs if run["run"] == "apply on the bare host")
    assert len(performed) > 50
    assert {(probe["service"], probe["name"], probe["status"]) for probe in proved.probes} >= {
        ("comfyui-qwen", "refused without a token", 401),
        ("comfyui-qwen", "answers with the token", 200),
        ("orchestrator", "refused without a token", 401),
        ("orchestrator", "answers with the token", 200),
    }


def test_the_ssh_line_at_the_end_reaches_the_services_from_the_operators_machine(proved: Proof) -> None:
    done = Control(proved.host).text("verify")
    line = next(line for line in done.stdout.splitlines() if "ssh -N" in line).partition(": ")[2]
    local = free_port()
    words = shlex.split(line.replace("-L 8193:", f"-L {local}:").replace("-L 8188:", f"-L {free_port()}:"))
    options = ["-F", "/dev/null", "-o", f"UserKnownHostsFile={proved.host.known_hosts}"]
    tunnel = subprocess.Popen([words[0], *options, *words[1:]], stdin=subprocess.DEVNULL)
    try:
        wait_for(lambda: _answers(local), "the orchestrator through the tunnel", 15)
        assert httpx.get(f"http://127.0.0.1:{local}/services").status_code == 401
    finally:
        tunnel.terminate()
        tunnel.wait(10)


def _answers(port: int) -> bool:
    try:
        return bool(httpx.get(f"http://127.0.0.1:{port}/health").json() == {"status": "ok"})
    except httpx.HTTPError:
        return False


def test_a_service_that_fails_ends_the_deploy_with_cause_code_and_log(proved: Proof) -> None:
    services = group_data()["services"]
    services["orchestrator"]["secrets"] = []  # its program refuses to start without its token
    with _data(proved, services=services):
        told = proved.control.apply()
        assert told.code == 1
        error = next(error for error in told.errors if "orchestrator" in error["what"])
        assert "exited with code 1" in error["what"] and error["hint"]
        shown = proved.control.text("verify")
        assert "ORCHESTRATOR_TOKEN" in shown.stderr  # the last words of the container
        assert shown.returncode == 1
    assert proved.control.apply().code == 0
    proved.nothing_to_do()


def test_what_somebody_changed_by_hand_is_seen_and_put_right(proved: Proof) -> None:
    host, stack = proved.host, "/srv/genai/stacks/orchestrator"
    host.root(f"echo '# mine' >> {stack}/docker-compose-orchestrator.yml; chmod 644 {stack}/.env.docker", check=True)
    host.root("docker rm -f comfyui-qwen", check=True)
    wanted = {
        ("stacks", f"{stack}/docker-compose-orchestrator.yml", "write"),
        ("stacks", f"{stack}/.env.docker", "write"),
        ("stacks", "comfyui-qwen", "create"),
    }
    assert set(proved.control.plan().changes) == wanted
    told = proved.control.apply()
    assert told.code == 0 and set(told.changes) == wanted
    backup = host.root("cat /var/lib/gpuhost/backups/*/srv/genai/stacks/orchestrator/docker-compose-orchestrator.yml")
    assert "# mine" in backup.stdout
    modes = host.root(
        "stat -c %a /var/lib/gpuhost/backups /var/lib/gpuhost/backups/*/srv/genai/stacks/*/*"
    ).stdout.split()
    assert modes[0] == "700" and set(modes[1:]) == {"600"}
    proved.nothing_to_do()


def test_other_keys_of_daemon_json_stay_and_dockerd_runs_with_ours(proved: Proof) -> None:
    host = proved.host
    host.root('echo \'{"debug": true, "log-opts": {"tag": "x"}}\' > /etc/docker/daemon.json', check=True)
    told = proved.control.apply()
    assert told.code == 0, told.errors
    assert ("engine", "/etc/docker/daemon.json", "write") in told.changes
    assert ("engine", "dockerd", "restart") in told.changes
    merged = host.root("cat /etc/docker/daemon.json").stdout
    assert '"debug": true' in merged and '"tag": "x"' in merged and '"max-size": "10m"' in merged
    assert host.root("docker info --format '{{.Debug}}'").stdout.strip() == "true"
    proved.nothing_to_do()


def test_a_change_that_was_not_planned_is_refused(proved: Proof) -> None:
    """The host changes between plan and apply: an own operation fails before it acts."""
    container = proved.host.root("docker inspect -f '{{.Id}}' orchestrator").stdout
    allow = proved.host.run_dir / "allow.json"
    allow.write_text('{"ws1": []}')
    proved.host.root("docker rm -f comfyui-qwen", check=True)
    report = proved.host.run_dir / "report.jsonl"
    done = proved.control.pyinfra("-y", f"--data=gpuhost_allow={allow}", f"--data=gpuhost_report={report}")
    assert done.returncode == 1
    assert "was not planned" in done.stderr and "hint:" in done.stderr
    assert proved.host.root("docker ps -aq --filter name=comfyui-qwen").stdout == ""
    assert proved.host.root("docker inspect -f '{{.Id}}' orchestrator").stdout == container
    assert proved.control.apply().code == 0


def test_a_second_run_is_kept_out_while_one_works_and_let_in_when_it_died(proved: Proof) -> None:
    holder = subprocess.Popen(
        [*shlex.split(proved.host.ssh_command), "flock --nonblock /var/lib sh -c 'echo held; cat'"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout and holder.stdout.readline() == b"held\n"
    told = proved.control.apply()
    assert told.code == 1 and "another gpuhost run works on this host" in told.errors[0]["what"]
    assert proved.control.plan().code == 0  # a plan only reads
    holder.kill()
    holder.wait()
    free = "until flock --nonblock /var/lib true; do sleep 0.1; done"
    proved.host.root(f"timeout 20 sh -c '{free}'", check=True)
    assert proved.control.apply().code == 0


def test_a_power_cut_leaves_services_that_come_back(proved: Proof) -> None:
    proved.host.power_cut()
    proved.host.power_on()
    proved.answers("verify after the power cut")
    proved.nothing_to_do()


def test_a_login_that_breaks_keeps_the_door_shut_and_the_next_apply_mends_it(proved: Proof) -> None:
    """An empty key file lets ComfyUI-Login's import fail; ComfyUI alone would then serve everything to anybody."""
    host, key = proved.host, "/srv/genai/services/comfyui-qwen/session-key.txt"
    host.root(f": > {key} && docker restart -t 20 comfyui-qwen", check=True)
    told = proved.control.verify()
    assert told.code == 1
    error = next(error for error in told.errors if "comfyui-qwen" in error["what"])
    assert "gpuhost-guard" in "\n".join(error["detail"])
    opened = "wget -q -O /dev/null http://127.0.0.1:8188/system_stats || curl -sf http://127.0.0.1:8188/system_stats"
    assert host.root(opened).rc != 0
    mended = proved.control.apply()
    assert mended.code == 0 and ("comfyui", key, "create") in mended.changes
    proved.nothing_to_do()


@pytest.fixture(scope="module")
def without_gpu(furnished: World) -> Iterator[Proof]:
    """A host without a GPU, with the distribution's own Docker packages, that went the whole path."""
    host = furnished.boot("nogpu", gpus=[])
    host.write_inventory({**furnished.host_data(), "engine_source": "distro"})
    proof = Proof(host, gpu=False)
    proof.run()
    yield proof
    host.destroy()
    furnished.hosts.pop("nogpu", None)


def test_without_a_gpu_its_services_are_skipped_and_the_rest_works(without_gpu: Proof) -> None:
    skipped = without_gpu.control.plan().document
    assert skipped and skipped["skipped"] == [
        {"host": "nogpu", "service": "comfyui-qwen", "reason": "it needs 1 NVIDIA GPU, this host has none"}
    ]
    assert "no NVIDIA GPU on this host" in without_gpu.control.text("plan").stderr
    installed = without_gpu.host.root("dpkg-query -W -f '${Package}\\n'").stdout.split()
    assert "docker.io" in installed and not [name for name in installed if "nvidia" in name]


def test_two_hosts_in_one_inventory_and_one_is_refused(
    proved: Proof, without_gpu: Proof, furnished: World, tmp_path: Path
) -> None:
    """One with a GPU, one without: planned and applied together; the refusal of one does not stop the other."""
    one, other = (runpy.run_path(str(proof.host.inventory))["hosts"][0] for proof in (proved, without_gpu))
    other[1]["engine_source"] = "distro"
    (tmp_path / "inventory.py").write_text(f"hosts = {[one, other]!r}\n")
    (tmp_path / "group_data").mkdir()
    data = "".join(f"{name} = {value!r}\n" for name, value in furnished.host_data().items())
    (tmp_path / "group_data" / "all.py").write_text(data)
    both = Control(proved.host, inventory=tmp_path / "inventory.py")
    assert both.plan().code == 0
    for proof in (proved, without_gpu):
        proof.host.root("docker rm -f orchestrator", check=True)
    told = both.apply()
    assert told.code == 0, told.errors
    assert told.document and [(each["host"], each["resource"]["name"]) for each in told.document["changes"]] == [
        ("ws1", "orchestrator"),
        ("nogpu", "orchestrator"),
    ]
    proved.host.root("docker rm -f orchestrator && cp /etc/docker/daemon.json /root/kept", check=True)
    without_gpu.host.root("echo '{' > /etc/docker/daemon.json", check=True)
    told = both.plan()
    assert told.code == 1 and [error["host"] for error in told.errors] == ["nogpu"]
    assert ("stacks", "orchestrator", "create") in told.changes
    plain = both.pyinfra("-y")
    assert plain.returncode == 1 and "[nogpu] /etc/docker/daemon.json is not JSON" in plain.stderr
    assert proved.host.root("docker ps -q --filter name=orchestrator").stdout  # the other one went its way
    without_gpu.host.root("rm /etc/docker/daemon.json", check=True)
    assert both.apply().code == 0
    assert both.plan().code == 0


def test_a_workstation_deploys_itself_as_root(furnished: World, boot: Boot) -> None:
    """`@local`: the checkout is on the host, and one command sets up everything and deploys."""
    host = boot("self", gpus=[])
    tools = "apt-get update -qq && apt-get install -y -qq --no-install-recommends python3 make git ca-certificates"
    host.root(f"{tools} >/dev/null 2>&1", check=True)
    files = subprocess.run(["git", "ls-files", "-z"], cwd=PROJECT, capture_output=True, check=True).stdout
    packed = subprocess.run(
        ["tar", "-cz", "--null", "-T", "-"], cwd=PROJECT, input=files, capture_output=True, check=True
    ).stdout
    host.root("mkdir -p /root/gpuhost && tar -xz -C /root/gpuhost", input=packed, check=True)
    site = "".join(f"{name} = {value!r}\n" for name, value in furnished.host_data().items())
    host.root("cat > /root/gpuhost/group_data/inventory.py", input=site, check=True)
    run = "cd /root/gpuhost && SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt"
    assert host.root(f"{run} make plan >/tmp/out 2>&1 </dev/null").rc != 0  # changes: make passes exit code 2 on as 2
    deployed = host.root(f"{run} make deploy ARGS=--yes 2>&1 </dev/null")
    assert deployed.rc == 0, deployed.stdout[-3000:]
    assert "orchestrator: http://127.0.0.1:8193" in deployed.stdout
    again = host.root(f"{run} make plan 2>&1 </dev/null")
    assert again.rc == 0 and "Nothing to do." in again.stdout
    assert host.root("stat -c '%a %n' /root/gpuhost/secrets /root/gpuhost/secrets/*.env").stdout.split()[::2] == [
        "700",
        "600",
    ]


class _data:
    """A proof's host with other data in its inventory's group_data, while the block runs."""

    def __init__(self, proof: Proof, **data: object) -> None:
        self._file = proof.host.run_dir / "group_data" / "all.py"
        self._data = data
        self._kept = self._file.read_text()

    def __enter__(self) -> None:
        self._file.write_text(self._kept + "".join(f"{name} = {value!r}\n" for name, value in self._data.items()))

    def __exit__(self, *error: object) -> None:
        self._file.write_text(self._kept)

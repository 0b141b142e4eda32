"""The engine and the GPUs of a host that others use, too: what a restart of Docker stops, a daemon.json of somebody's,
locks and cuts of dpkg, cards that come and go, the chain from the driver to a computation."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from ..instruments.control import Told
from ..instruments.converged import GPU, converged_host
from ..instruments.damages import DENY_GPUS
from ..instruments.proof import Proof
from ..instruments.refusal import rooted, site, told_once
from ..world.gpus import DATA_DIR, Gpu
from ..world.world import World

pytestmark = [pytest.mark.rehearsal, pytest.mark.sampled(6)]

JSON = "/etc/docker/daemon.json"
STAMP = "/var/lib/gpuhost/engine-config.json"
SECOND = Gpu("NVIDIA L4", 23034)
# Three of somebody's: one that ends with Docker, one that Docker removes then, one that is frozen.
THEIRS = r"""
set -eu
image="$(docker image ls -q | head -n1)"
start() { docker run -d --name "$@" --entrypoint sleep "$image" infinity >/dev/null; sleep 0.2; }
start theirs-second; start theirs-first
docker stop -t 1 theirs-second >/dev/null; docker start theirs-second >/dev/null
start theirs-frozen; docker pause theirs-frozen >/dev/null
start theirs-gone --rm
"""
FOREIGN = ["theirs-first", "theirs-frozen", "theirs-gone", "theirs-second"]


@pytest.fixture(scope="module")
def proof(furnished: World) -> Iterator[Proof]:
    """A converged host; each test leaves it converged."""
    made = Proof(converged_host(furnished, "layers"))
    yield made
    furnished.destroy(made.host)


@pytest.fixture
def theirs(proof: Proof) -> Iterator[None]:
    """Somebody's containers run."""
    proof.host.root(THEIRS, check=True)
    yield
    proof.host.root("docker unpause theirs-frozen; docker rm -f $(docker ps -aq --filter name=theirs)")


def started(proof: Proof) -> dict[str, str]:
    """Container -> when it was started, of all that run."""
    shown = proof.host.root("docker ps -q | xargs docker inspect --format '{{.Name}} {{.State.StartedAt}}'").stdout
    return {name.removeprefix("/"): at for name, at in (line.split() for line in shown.splitlines())}


def states(proof: Proof) -> dict[str, str]:
    """Container -> its state, of somebody's."""
    shown = proof.host.root("docker ps -a --filter name=theirs --format '{{.Names}} {{.State}}'").stdout
    return dict(line.split() for line in shown.splitlines())


def impact(told: Told) -> dict[str, list[str]]:
    """What the restart of dockerd in a plan stops."""
    assert told.document
    [change] = [each for each in told.document["changes"] if each["resource"]["kind"] == "engine"]
    return dict(change["impact"])


@pytest.mark.usefixtures("theirs")
@pytest.mark.core
def test_a_restart_of_docker_stops_no_container(proof: Proof) -> None:
    """It is lent live-restore; afterwards daemon.json is theirs and ours, in the order of theirs."""
    host = proof.host
    theirs = '{"debug": true, "log-driver": "local"}'
    host.root(f"cat > {JSON}", input=theirs, check=True)
    before = started(proof)
    planned = proof.control.plan()
    assert ("engine", "dockerd", "restart") in planned.changes and impact(planned)["stops"] == []
    pid = host.root("cat /run/docker.pid").stdout
    told = proof.control.apply()
    assert told.code == 0, told.errors
    assert host.root("cat /run/docker.pid").stdout != pid and started(proof) == before
    assert list(json.loads(host.root(f"cat {JSON}").stdout)) == ["debug", "log-driver", "features", "log-opts"]
    assert host.root("docker info --format '{{.LiveRestoreEnabled}} {{.Debug}}'").stdout.strip() == "false true"
    assert host.root("ls /etc/docker").stdout.split() == ["daemon.json"]
    assert host.root(f"cat $(ls -dt /var/lib/gpuhost/backups/*{JSON} | head -n1)").stdout == theirs
    proof.second_run()


@pytest.mark.usefixtures("theirs")
def test_live_restore_comes_and_goes_with_the_data_and_stops_no_container(proof: Proof) -> None:
    host, asked = proof.host, "docker info --format '{{.LiveRestoreEnabled}}'"
    before = started(proof)
    with site(host, "engine_config = {'live-restore': True}\n"):
        told = proof.control.apply()
        assert told.code == 0, told.errors
        assert host.root(asked).stdout.strip() == "true" and started(proof) == before
        proof.second_run()
    planned = proof.control.plan()
    assert planned.document and impact(planned)["stops"] == []
    assert planned.document["changes"][0]["reason"] == "no longer in `engine_config`: live-restore"
    told = proof.control.apply()
    assert told.code == 0, told.errors
    assert host.root(asked).stdout.strip() == "false" and started(proof) == before
    proof.second_run()


@pytest.mark.usefixtures("theirs")
def test_in_a_swarm_what_stops_is_named_asked_for_and_runs_again(proof: Proof) -> None:
    """There is no live-restore in a swarm."""
    host = proof.host
    host.root("docker swarm init --advertise-addr 127.0.0.1", check=True)
    try:
        with site(host, "engine_config = {'live-restore': True}\n"):
            told_once(proof.control.plan(), "Docker is a member of a swarm", 'leave `"live-restore"` out')
        host.root(f"cat > {JSON}", input='{"debug": true}', check=True)
        seen = impact(proof.control.plan())
        assert sorted(seen["stops"][:4]) == FOREIGN and set(seen["stops"][4:]) == {"orchestrator", "comfyui-qwen"}
        assert set(seen["stops"]) - set(seen["restarts"]) == {"theirs-gone"}
        before = started(proof)
        refused = proof.control.apply()
        told_once(refused, "Docker's restart stops containers that are not gpuhost's: .*theirs-first", "--stop-foreign")
        assert started(proof) == before and host.root(f"cat {JSON}").stdout == '{"debug": true}'
        shown = proof.control.typed("apply", answers=[("[y/N]", "n")])
        assert shown.code == 1 and "theirs-first" in shown.text.rpartition("Apply ")[2]
        proof.control.options = ["--stop-foreign"]
        told = proof.control.apply()
        proof.control.options = []
        assert told.code == 0, told.errors
        after = started(proof)
        assert states(proof) == {"theirs-first": "running", "theirs-second": "running", "theirs-frozen": "paused"}
        assert before["theirs-second"] < after["theirs-first"] < after["theirs-second"] < after["theirs-frozen"]
        proof.nothing_to_do()
    finally:
        host.root("docker swarm leave --force", check=True)
    proof.second_run()


@pytest.mark.usefixtures("theirs")
def test_a_restart_that_is_killed_on_the_way_is_made_good(proof: Proof) -> None:
    """The record of what ran outlives the run; the next one starts the rest."""
    host = proof.host
    ids = host.root("docker ps -q --no-trunc --filter name=theirs-first --filter name=theirs-second").stdout
    host.root("mkdir -p /run/gpuhost; cat > /run/gpuhost/ran-before-restart", input=ids, check=True)
    host.root("docker stop -t 1 theirs-first theirs-second", check=True)
    planned = proof.control.plan()
    assert planned.changes == [("engine", "dockerd", "restart")]
    assert planned.document and "cut off" in planned.document["changes"][0]["reason"]
    assert proof.control.apply().code == 0
    assert states(proof)["theirs-first"] == states(proof)["theirs-second"] == "running"
    proof.second_run()


def test_a_daemon_json_that_is_no_file_of_ours_to_write(proof: Proof) -> None:
    host = proof.host
    keep = f"mv {JSON} /root/kept"
    back = f"rm -rf {JSON}; mv /root/kept {JSON}"
    with rooted(host, f"{keep}; echo '{{}}' > /root/theirs; ln -s /root/theirs {JSON}", back):
        told_once(
            proof.control.plan(), "is a link to /root/theirs, and these keys differ there", "--remove-destination"
        )
        assert host.root("cat /root/theirs").stdout == "{}\n"
    with rooted(host, f"{keep}; ln -s /root/nowhere {JSON}", back):
        told_once(proof.control.plan(), "is a link to /root/nowhere, where no file is", "remove it")
    with rooted(host, f"{keep}; mkdir {JSON}", back):
        told_once(proof.control.plan(), "cannot be read: it is a directory", "move it away")
    with rooted(host, f"{keep}; printf '{{\\n \"debug\": true,\\n}}\\n' > {JSON}", back):
        told_once(proof.control.plan(), "is not JSON: .*line 2 column|is not JSON: .*line 3 column", "mend or move")
    with rooted(host, f"cp -p {JSON} /root/theirs; {keep}; ln -s /root/theirs {JSON}", back):
        # All is right there: nothing is written, but dockerd started before the link was made.
        told = proof.control.apply()
        assert (told.code, told.changes) == (0, [("engine", "dockerd", "restart")]), told.errors
        proof.second_run()
        assert host.root(f"readlink {JSON}").stdout.strip() == "/root/theirs"
    host.root("systemctl restart docker", check=True)
    proof.second_run()


def test_what_dockerd_itself_refuses_is_not_written(proof: Proof) -> None:
    """Its own `--validate` reads the new file first."""
    host = proof.host
    before, pid = host.root(f"cat {JSON}").stdout, host.root("cat /run/docker.pid").stdout
    with site(host, "engine_config = {'no-such-key': True}\n"):
        told = proof.control.apply()
        told_once(told, "dockerd refuses the new daemon.json: .*no-such-key", "check engine_config in group_data")
    assert host.root(f"cat {JSON}").stdout == before and host.root("cat /run/docker.pid").stdout == pid
    assert host.root("ls /run/gpuhost-daemon.*").stdout == ""


def test_a_key_that_the_data_drops_is_taken_out_of_daemon_json(proof: Proof) -> None:
    """What gpuhost wrote, and nobody else: not what was there already, nor what somebody changed since."""
    host = proof.host
    before = json.loads(host.root(f"cat {JSON}").stdout)
    theirs = {**before, "debug": True}
    host.root(f"cat > {JSON}; systemctl restart docker", input=json.dumps(theirs), check=True)
    data = "{'registry-mirrors': ['https://mirror.example'], 'debug': True, 'max-concurrent-downloads': 5}"
    with site(host, f"engine_config = {data}\n"):
        told = proof.control.apply()
        assert told.code == 0, told.errors
        assert set(told.changes) == {("engine", JSON, "write"), ("engine", "dockerd", "restart")}
        shown = host.root("docker info --format '{{json .RegistryConfig.Mirrors}}'").stdout
        assert json.loads(shown) == ["https://mirror.example/"]
        assert host.root(f"stat -c %a {STAMP}").stdout.strip() == "600"
        proof.second_run()
    host.root(f"sed -i /downloads/s/5/4/ {JSON}", check=True)
    host.root("systemctl restart docker", check=True)
    planned = proof.control.plan()
    assert planned.document, planned.errors
    whys = {change["resource"]["name"]: change["reason"] for change in planned.document["changes"]}
    assert whys.pop(JSON) == "no longer in `engine_config`: registry-mirrors"
    assert whys.pop(STAMP).startswith("max-concurrent-downloads: no longer in `engine_config`, changed by hand: stays")
    assert list(whys) == ["dockerd"]
    told = proof.control.apply()
    assert told.code == 0, told.errors
    assert json.loads(host.root("docker info --format '{{json .RegistryConfig.Mirrors}}'").stdout) in (None, [])
    assert json.loads(host.root(f"cat {JSON}").stdout) == {**theirs, "max-concurrent-downloads": 4}
    proof.second_run()
    host.root(f"cat > {JSON}; systemctl restart docker", input=json.dumps(before), check=True)
    proof.second_run()


def test_a_source_of_somebodys_with_a_key_of_its_own(proof: Proof) -> None:
    """With it and ours apt reads nothing at all."""
    host, file = proof.host, "/etc/apt/sources.list.d/docker.list"
    url = "https://download.docker.com/linux/debian"
    line = f"deb [signed-by=/etc/apt/keyrings/theirs.asc] {url} trixie stable\n"
    host.root("cp /etc/apt/keyrings/gpuhost-docker.asc /etc/apt/keyrings/theirs.asc", check=True)
    with rooted(host, f"printf '{line}deb [trusted=yes] file:/srv/theirs ./\\n' > {file}", f"rm {file}"):
        what = f"{file} declares {url} with a key of its own, and others besides"
        told_once(proof.control.plan(), what, f"take it out of {file}; gpuhost then declares the repository")
    host.root(f"cat > {file}", input=line, check=True)
    assert "Conflicting values set for option Signed-By" in host.root("apt-get update 2>&1").stdout
    told = proof.control.apply()
    assert told.code == 0, told.errors
    assert ("engine", file, "disable") in told.changes
    assert host.root(f"cat {file}.disabled").stdout == line
    assert host.root("apt-get -o APT::Update::Error-Mode=any update 2>&1").rc == 0
    proof.second_run()
    host.root(f"rm {file}.disabled /etc/apt/keyrings/theirs.asc", check=True)


HOLD = """
import fcntl, subprocess, sys, time
held = [open(path, "a") for path in ("/var/lib/dpkg/lock-frontend", "/var/lib/apt/lists/lock")]
for file in held: fcntl.lockf(file, fcntl.LOCK_EX)
time.sleep(20)
"""


def test_a_lock_of_apt_is_waited_for(proof: Proof) -> None:
    """As at boot, when apt's own timers work: both locks, for twenty seconds."""
    host = proof.host
    host.root("apt-get -qy remove docker-buildx-plugin; rm /var/lib/gpuhost/apt-updated-docker", check=True)
    host.root("cat > /root/hold.py", input=HOLD, check=True)
    host.root("systemd-run --quiet --unit=holds-locks python3 /root/hold.py", check=True)
    told = proof.control.apply()
    assert told.code == 0, told.errors
    assert {("engine", "apt index of docker", "update"), ("engine", "Docker Engine", "install")} <= set(told.changes)
    assert host.root("systemctl is-active holds-locks").stdout.strip() == "inactive"
    proof.second_run()


def test_a_dpkg_that_was_cut_off_is_repaired(proof: Proof) -> None:
    host = proof.host
    host.root("cd /tmp && apt-get -q download tree && dpkg --unpack tree_*.deb && rm tree_*.deb", check=True)
    planned = proof.control.plan()
    assert planned.changes == [("engine", "dpkg", "repair")], planned.errors
    assert planned.document and planned.document["changes"][0]["reason"].endswith("cut off: tree")
    assert proof.control.apply().code == 0
    assert host.root("dpkg-query -W -f '${db:Status-Abbrev}' tree").stdout.strip() == "ii"
    proof.second_run()
    host.root("dpkg --purge tree", check=True)


def test_the_engine_is_stopped(proof: Proof) -> None:
    """A plan starts nothing."""
    with rooted(proof.host, "systemctl stop docker.socket docker", "systemctl start docker"):
        told_once(proof.control.plan(), "dockerd does not run or does not answer", "systemctl restart docker")
    proof.second_run()


def test_an_engine_too_old_for_cdi_gets_the_nvidia_runtime(proof: Proof) -> None:
    """A host whose Docker says that it is 25, and that is upgraded then."""
    host, record = proof.host, "/var/lib/gpuhost/gpu-proof.json"
    given = "docker inspect -f '{{.HostConfig.Runtime}} {{range .HostConfig.DeviceRequests}}{{.Driver}}{{end}}' "
    wrapper = '#!/bin/sh\ncase "$*" in *Server.Version*) echo 25.0.5;; *) exec /usr/bin/docker "$@";; esac\n'
    host.root("cat > /usr/local/bin/docker && chmod 755 /usr/local/bin/docker", input=wrapper, check=True)
    try:
        planned = proof.control.plan()
        assert planned.document, planned.errors
        notes = [note["message"] for note in planned.document["notes"]]
        assert any("nvidia runtime, not by CDI: Docker 25.0.5 runs here" in note for note in notes), notes
        with site(host, "gpu_access = 'cdi'\n"):
            told_once(proof.control.plan(), "Docker 25.0.5 runs on this host: CDI needs 26.1", "upgrade it")
        told = proof.control.apply()
        assert told.code == 0, told.errors
        assert {("engine", JSON, "write"), ("stacks", "comfyui-qwen", "recreate")} <= set(told.changes)
        # One merge and one restart for both.
        assert [change[1:] for change in told.changes if change[0] == "engine"] == [
            (JSON, "write"),
            ("dockerd", "restart"),
        ]
        assert host.root(f"{given} comfyui-qwen").stdout.split() == ["nvidia", "nvidia"]
        assert json.loads(host.root(f"cat {record}").stdout)["access"] == "runtime"
        proof.second_run()
    finally:
        host.root("rm /usr/local/bin/docker", check=True)
    told = proof.control.apply()
    assert told.code == 0 and ("stacks", "comfyui-qwen", "recreate") in told.changes, told.errors
    assert host.root(f"{given} comfyui-qwen").stdout.split() == ["runc", "cdi"]
    assert json.loads(host.root(f"cat {record}").stdout)["access"] == "cdi"
    proof.second_run()


def test_cards_come_and_go_between_runs(proof: Proof) -> None:
    host = proof.host
    host.set_gpus([GPU, SECOND])
    planned = proof.control.plan()
    assert ("gpu", "/var/run/cdi/nvidia.yaml", "refresh") in planned.changes
    assert ("gpu", "containers reach the GPUs", "prove") in planned.changes
    told = proof.control.apply()
    assert told.code == 0, told.errors
    proof.second_run()
    host.set_gpus([])
    gone = proof.control.apply()
    assert gone.code == 0 and gone.document, gone.errors
    assert [each["service"] for each in gone.document["skipped"]] == ["comfyui-qwen"]
    proof.second_run()
    host.set_gpus([GPU])
    told = proof.control.apply()
    assert told.code == 0, told.errors
    proof.second_run()


def test_the_toolkit_goes_back_and_forth(proof: Proof) -> None:
    host = proof.host
    with site(host, "nvidia_toolkit_version = '1.19.0-1'\n"):
        told = proof.control.apply()
        assert told.code == 0, told.errors
        assert {("gpu", "NVIDIA Container Toolkit", "install"), ("gpu", "containers reach the GPUs", "prove")} <= set(
            told.changes
        )
        assert host.root("nvidia-ctk --version").stdout.split()[5] == "1.19.0"
        proof.second_run()
    assert proof.control.apply().code == 0
    assert host.root("nvidia-ctk --version").stdout.split()[5] == "1.20.0"
    held = host.root("apt-mark showhold").stdout.split()
    assert len([name for name in held if "nvidia" in name]) == 4
    proof.second_run()


@pytest.mark.core
def test_every_link_of_the_chain_is_proved(proof: Proof) -> None:
    host, control = proof.host, proof.control
    record = "/var/lib/gpuhost/gpu-proof.json"
    assert json.loads(host.root(f"cat {record}").stdout)["access"] == "cdi"
    shown = control.text("verify", "--gpu")
    assert shown.returncode == 0 and "computes rightly, from a container by cdi" in shown.stderr, shown.stderr
    links = {
        "device files": ("mv /dev/nvidia-uvm /dev/kept", "mv /dev/kept /dev/nvidia-uvm", "/dev/nvidia-uvm"),
        "toolkit": ("mv /usr/bin/nvidia-ctk /root/", "mv /root/nvidia-ctk /usr/bin/", "nvidia-ctk is not there"),
        "container": (
            "sed -i 's/GPU-/GPU-0/' /var/run/cdi/nvidia.yaml",
            "systemctl restart nvidia-cdi-refresh.service",
            "does not run",
        ),
    }
    for link, (breaks, mends, what) in links.items():
        with rooted(host, breaks, mends):
            told = control.text("verify", "--gpu")
            assert told.returncode == 1 and f"link `{link}`" in told.stderr and what in told.stderr, told.stderr
            assert "hint:" in told.stderr
    assert control.text("verify", "--gpu").returncode == 0
    # A reload of systemd, and a restart of what is not ours, take no GPU from a container that has it by CDI.
    host.root("systemctl daemon-reload && systemctl restart systemd-journald", check=True)
    opened = host.root("docker exec comfyui-qwen sh -c ': < /dev/nvidiactl'")  # the stand-in's file has no driver
    assert "No such device or address" in opened.stderr, opened.stderr
    proof.nothing_to_do()
    host.root(DENY_GPUS, check=True)
    assert "Operation not permitted" in host.root("docker exec comfyui-qwen sh -c ': < /dev/nvidiactl'").stderr
    repaired = control.apply()
    assert (repaired.code, repaired.changes) == (0, [("stacks", "comfyui-qwen", "recreate")]), repaired.errors
    assert "No such device" in host.root("docker exec comfyui-qwen sh -c ': < /dev/nvidiactl'").stderr
    proof.second_run()


def test_a_proof_that_fails_leaves_no_record_and_is_made_again(proof: Proof) -> None:
    """A card that computes wrongly: the deploy ends there, and no old record vouches for it."""
    host, record = proof.host, "/var/lib/gpuhost/gpu-proof.json"
    host.root(f"rm {record}; touch {DATA_DIR}/wrong; systemctl restart nvidia-cdi-refresh.service", check=True)
    told = proof.control.apply()
    told_once(told, "link `computation`: GPU-.* computes wrongly: 1 results are not right", "the card or its memory")
    assert host.root(f"ls {record}").stdout == ""
    host.root(f"rm {DATA_DIR}/wrong; systemctl restart nvidia-cdi-refresh.service", check=True)
    assert proof.control.plan().changes == [("gpu", "containers reach the GPUs", "prove")]
    assert proof.control.apply().code == 0
    proof.second_run()

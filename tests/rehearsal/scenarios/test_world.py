"""Each stand-in proved by the real client on a fresh host."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ..world.freshhost import FreshHost
from ..world.gpus import Gpu
from ..world.machine import PREPARE
from ..world.mirrors import public_debian, public_pypi
from ..world.run import Completed, run
from ..world.world import World, diff_snapshots

pytestmark = pytest.mark.rehearsal

PYTHON = "python:3.12.11-slim-bookworm"
BUSYBOX = "busybox:1.36.1"
INSTALL_ENGINE = """
set -e
export DEBIAN_FRONTEND=noninteractive
apt-get update -q
apt-get install -y -q --no-install-recommends curl git python3
install -d /etc/apt/keyrings
curl -fsSL https://download.docker.com/linux/debian/gpg -o /etc/apt/keyrings/docker.asc
curl -fsSL https://nvidia.github.io/libnvidia-container/gpgkey -o /etc/apt/keyrings/nvidia.asc
. /etc/os-release
echo "deb [signed-by=/etc/apt/keyrings/docker.asc] https://download.docker.com/linux/debian $VERSION_CODENAME stable" \
    > /etc/apt/sources.list.d/docker.list
echo 'deb [signed-by=/etc/apt/keyrings/nvidia.asc] https://nvidia.github.io/libnvidia-container/stable/deb/$(ARCH) /' \
    > /etc/apt/sources.list.d/nvidia.list
mkdir -p /etc/docker
echo '{"features": {"cdi": true}}' > /etc/docker/daemon.json
apt-get update -q
apt-get install -y -q docker-ce docker-ce-cli containerd.io docker-buildx-plugin docker-compose-plugin
v=1.20.0-1
apt-get install -y -q nvidia-container-toolkit=$v nvidia-container-toolkit-base=$v libnvidia-container-tools=$v \
    libnvidia-container1=$v
# The engine looks for the toolkit's hook when it starts.
systemctl restart docker
"""
COMPOSE = """
services:
  gpu:
    image: {image}
    command: sleep infinity
    init: true
    ipc: host
    mem_limit: 512m
    cpus: 1
    ulimits: {{memlock: -1, stack: 67108864}}
    deploy:
      resources:
        reservations:
          devices: [{{driver: cdi, device_ids: ["nvidia.com/gpu={uuid}"], capabilities: [gpu]}}]
    networks: [genai]
networks:
  genai: {{ipam: {{config: [{{subnet: 172.20.0.0/16}}]}}}}
"""


@pytest.fixture(scope="module")
def host(world: World) -> Iterator[FreshHost]:
    """A host with two GPUs whose engine came from the stand-in repositories."""
    gpus = [Gpu("NVIDIA GeForce RTX 3090", 24576), Gpu("NVIDIA H200", 143771, reserved_mib=615)]
    host = world.boot("smoke", gpus=gpus)
    host.ssh("sudo sh -s", input=INSTALL_ENGINE, check=True)
    yield host
    world.destroy(host)


def sudo(host: FreshHost, command: str) -> Completed:
    """Run as root over SSH; fail the test with what it said."""
    done = host.ssh(f"sudo sh -c '{command}'")
    assert done.rc == 0, done.stdout + done.stderr
    return done


def test_bare_host_has_nothing_extra(boot: Callable[..., FreshHost]) -> None:
    bare = boot("bare", gpus=[])
    assert bare.ssh("systemctl is-system-running").stdout.strip() == "running"
    assert bare.ssh("command -v python3 curl gpg docker nvidia-smi").stdout == ""
    assert public_debian().main in bare.ssh("cat /etc/apt/sources.list").stdout
    assert bare.ssh("getent hosts example.com").rc == 2
    bare.set_gpus([Gpu("NVIDIA GeForce RTX 4090", 24564)])
    assert "RTX 4090" in bare.ssh("nvidia-smi -L").stdout
    bare.set_gpus([])
    assert bare.ssh("nvidia-smi").rc == 127


def test_sudo_variants_and_os(boot: Callable[..., FreshHost]) -> None:
    asks = boot("asks", sudo="password", os_release="alpine", data_tmpfs_mib=64)
    assert asks.ssh("sudo -n true").rc != 0
    assert asks.ssh("sudo -S id -un", input=asks.sudo_password + "\n").stdout.strip() == "root"
    assert "ID=alpine" in asks.ssh("cat /etc/os-release").stdout
    assert asks.ssh("df --output=size -m /srv | tail -1").stdout.strip() == "64"
    assert boot("never", sudo="none").ssh("sudo -n true").rc != 0


def test_rebuilt_host_has_other_keys(boot: Callable[..., FreshHost]) -> None:
    again = boot("again")
    line = [*again.ssh_command.split(), "true"]
    assert run(line, check=False).rc == 0
    again.rebuild()
    refused = run(line, check=False)
    assert refused.rc == 255 and "verification failed" in refused.stderr
    again.trust_new_key()
    assert run(line, check=False).rc == 0
    wrong = [str(again.wrong_key) if part == str(again.key) else part for part in line]
    assert "Permission denied" in run(wrong, check=False).stderr


def test_engine_and_registry(host: FreshHost, world: World) -> None:
    assert sudo(host, "docker version -f {{.Server.Version}}").stdout.startswith("26.1.5")
    sudo(host, f"docker pull -q {PYTHON} && docker pull -q {BUSYBOX}")
    assert any("/v2/library/python/manifests/" in line for line in world.requests("registry"))
    sudo(host, f"docker run -d --name web -p 127.0.0.1:8189:8000 {PYTHON} python -m http.server 8000")
    sudo(host, "curl -fsS --retry 20 --retry-connrefused --retry-delay 0 --retry-max-time 10 http://127.0.0.1:8189/")
    sudo(host, "docker rm -f web")
    assert sudo(host, f"docker run --rm --gpus all {BUSYBOX} echo ok").stdout == "ok\n"
    pulled = host.ssh("sudo docker pull busybox:0.0.0")
    assert pulled.rc == 1 and "manifest unknown" in pulled.stderr + pulled.stdout


def test_limits_and_cdi_gpu_in_compose(host: FreshHost) -> None:
    text = COMPOSE.format(image=PYTHON, uuid=host.gpu_uuids[1])
    host.ssh("mkdir -p gpu && cat > gpu/compose.yml", input=text, check=True)
    compose = "docker compose -f /home/admin/gpu/compose.yml"
    sudo(host, f"{compose} up -d --wait")
    seen = sudo(host, f"{compose} exec -T gpu nvidia-smi --query-gpu=uuid,name --format=csv,noheader").stdout
    assert seen == f"{host.gpu_uuids[1]}, NVIDIA H200\n"
    limit = sudo(host, f"{compose} exec -T gpu cat /sys/fs/cgroup/memory/memory.limit_in_bytes").stdout
    assert int(limit) == 512 << 20
    assert sudo(host, f"{compose} exec -T gpu getent hosts {public_pypi().name}").stdout
    sudo(host, f"{compose} down -t 1")


def test_pip_and_apt_in_a_build(host: FreshHost) -> None:
    lines = f"FROM {PYTHON}\nRUN pip install idna==3.10 && apt-get update -q && apt-get install -y tini\n"
    built = host.ssh("sudo docker build -q -", input=lines)
    assert built.rc == 0, built.stdout + built.stderr


def test_gpu_queries_like_the_recorded_ones(host: FreshHost) -> None:
    query = "index,uuid,name,memory.total,memory.free,memory.used,driver_version,compute_cap,mig.mode.current"
    command = f"nvidia-smi --query-gpu={query} --format=csv,noheader,nounits"
    second = host.ssh(command).stdout.splitlines()[1]
    assert second == f"1, {host.gpu_uuids[1]}, NVIDIA H200, 143771, 143156, 0, 580.159.04, 9.0, Disabled"
    assert host.ssh("nvidia-smi --query-gpu=memory.total --format=csv -i 0").stdout == "memory.total [MiB]\n24576 MiB\n"
    assert host.ssh("nvidia-smi --query-gpu=bogus --format=csv").rc == 2
    apps = host.ssh("nvidia-smi --query-compute-apps=pid,process_name,used_memory,gpu_uuid --format=csv").stdout
    assert apps == "pid, process_name, used_gpu_memory [MiB], gpu_uuid\n"
    host.break_driver()
    assert host.ssh("nvidia-smi").rc == 9
    host.break_driver(False)


def test_git_over_https(host: FreshHost, world: World, tmp_path: Path) -> None:
    work, bare = tmp_path / "work", world.git_root / "someone/thing.git"
    git = ["git", "-C", str(work), "-c", "user.name=x", "-c", "user.email=x@x.invalid"]
    run(["git", "init", "-q", "-b", "main", work])
    (work / "README").write_text("hello\n")
    run([*git, "add", "."])
    run([*git, "commit", "-qm", "first"])
    run(["git", "clone", "-q", "--bare", work, bare])
    sha = run([*git, "rev-parse", "HEAD"]).stdout.strip()
    for url in ("https://github.com/someone/thing", "https://github.com/someone/thing.git"):
        host.ssh(f"rm -rf thing && git clone -q {url} thing", check=True)
    assert host.ssh("git -C thing rev-parse HEAD").stdout.strip() == sha
    fetched = f"rm -rf one && git init -q one && git -C one fetch -q --depth 1 https://github.com/someone/thing {sha}"
    assert host.ssh(fetched).rc == 0
    with world.misbehave("git", "cut"):
        assert host.ssh("rm -rf thing && git clone -q https://github.com/someone/thing thing").rc == 128
    assert host.ssh("GIT_TERMINAL_PROMPT=0 git clone -q https://github.com/someone/none").rc == 128


HUB_CLIENT = """
import sys
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
cache = sys.argv[1]
info = HfApi().model_info("org/open", files_metadata=True)
assert info.sha == sys.argv[2] and len(info.siblings) == 3, info
folder = snapshot_download("org/open", cache_dir=cache)
assert open(folder + "/sub/w.safetensors", "rb").read() == bytes(range(256)) * 4096
assert open(hf_hub_download("org/open", "config.json", revision=sys.argv[2], cache_dir=cache)).read() == "{}"
plan = snapshot_download("org/gated", cache_dir=cache, token="hf_good", dry_run=True)
assert sum(item.file_size for item in plan) == 5, plan
HfApi(token="hf_good").auth_check("org/gated")
for token, status in ((False, 401), ("hf_other", 403)):
    try:
        hf_hub_download("org/gated", "a.bin", token=token, cache_dir=cache)
    except GatedRepoError as error:
        assert error.response.status_code == status, error
    else:
        raise SystemExit("gated repository was open")
try:
    HfApi().model_info("org/none", token=False)
except RepositoryNotFoundError as error:
    assert not isinstance(error, GatedRepoError), error
assert HfApi().whoami(token="hf_good")["name"] == "rehearsal"
"""


def test_hub_with_its_real_client(world: World, tmp_path: Path) -> None:
    """From the control side, where gpuhost asks the hub for access and sizes."""
    weights = bytes(range(256)) * 4096
    files: dict[str, bytes | Path] = {"config.json": b"{}", "a.txt": b"x", "sub/w.safetensors": weights}
    sha = world.hub_add("org/open", files)
    world.hub_add("org/gated", {"a.bin": b"12345"}, gated=True)
    world.hub_grant("hf_good", ["org/gated"])
    world.hub_grant("hf_other", [])
    (tmp_path / "client.py").write_text(HUB_CLIENT)
    done = world.operator([sys.executable, tmp_path / "client.py", tmp_path / "hub", sha])
    assert done.rc == 0, done.stdout + done.stderr


def test_misbehaviour(host: FreshHost, world: World) -> None:
    url = "https://huggingface.co/org/big/resolve/main/w.bin"
    world.hub_add("org/big", {"w.bin": b"x" * 1_000_000})
    fetch = f"curl -sS -m 20 -o w.bin -w %{{http_code}} {url}"
    assert host.ssh(f"{fetch} && sha256sum w.bin").rc == 0
    for mode in ("401", "403", "404", "503"):
        with world.misbehave("hub", mode):
            assert host.ssh(fetch).stdout == mode
    with world.misbehave("hub", "cut"):
        assert host.ssh(fetch).rc in (18, 56) and 0 < int(host.ssh("stat -c %s w.bin").stdout) <= 500_000
    with world.misbehave("hub", "down"):
        assert host.ssh(fetch).rc in (35, 52, 56)
    with world.misbehave("hub", "wrong-bytes"):
        assert host.ssh(fetch).stdout == "200" and host.ssh("tr -d x < w.bin | wc -c").stdout != "0\n"
    with world.misbehave("hub", "slow", slow_bytes_per_s=100_000):
        assert host.ssh(f"timeout 2 {fetch}").rc == 124
    with world.misbehave("hub", 503, times=2):
        assert [host.ssh(fetch).stdout for _ in range(3)] == ["503", "503", "200"]
    assert host.ssh(f"curl -sS -r 10-19 {url} | wc -c").stdout == "10\n"


def test_apt_refuses_a_tampered_index(host: FreshHost, world: World) -> None:
    for name, source in (("docker-apt", "docker"), ("nvidia-apt", "nvidia")):
        only = f"-o Dir::Etc::sourcelist=/etc/apt/sources.list.d/{source}.list -o Dir::Etc::sourceparts=/dev/null"
        update = f"rm -rf /var/lib/apt/lists/*; apt-get {only} --error-on=any update"
        assert host.root(update).rc == 0
        with world.misbehave(name, "tampered-index"):
            refused = host.root(update)
            assert refused.rc == 100 and "signature" in (refused.stdout + refused.stderr).lower()
    host.root("apt-get update -q", check=True)


def test_torch_index(host: FreshHost, world: World) -> None:
    (world.torch_wheels / "torch-2.9.1+cu128-py3-none-any.whl").write_bytes(b"not really a wheel")
    listed = host.ssh("curl -fsS https://download.pytorch.org/whl/cu128/torch/").stdout
    assert "torch-2.9.1+cu128-py3-none-any.whl</a>" in listed and "#sha256=" in listed
    href = "https://download.pytorch.org/whl/cu128/torch-2.9.1%2Bcu128-py3-none-any.whl"
    assert host.ssh(f"curl -fsS {href}").stdout == "not really a wheel"


def test_network_cut(host: FreshHost) -> None:
    probe = f"curl -sS -m 2 -o /dev/null {public_pypi().simple_url}idna/"
    assert host.ssh(probe).rc == 0
    with host.network_cut():
        assert host.ssh(probe).rc in (6, 28)
    with host.network_cut(keep_ssh=False):
        assert run(["timeout", "3", *host.ssh_command.split(), "true"], check=False).rc != 0
    assert host.ssh(probe).rc == 0


def test_port_and_subnet_taken(host: FreshHost) -> None:
    host.occupy_port(8188)
    assert ":8188" in host.ssh("ss -ltn").stdout
    host.free_port(8188)
    host.route_subnet("172.25.0.0/16")
    assert "172.25.0.0/16" in host.ssh("ip route").stdout


def test_snapshot_reboot_and_power_cut(host: FreshHost) -> None:
    sudo(host, f"docker run -d --init --name keep --restart unless-stopped {BUSYBOX} sleep infinity")
    before = host.snapshot()
    assert diff_snapshots(before, host.snapshot()) == []
    host.ssh("echo changed | sudo tee /etc/motd", check=True)
    assert [line.split(":")[0] for line in diff_snapshots(before, host.snapshot())] == ["file /etc/motd"]
    host.reboot()
    assert sudo(host, "docker inspect -f {{.State.Running}} keep").stdout == "true\n"
    assert host.ssh("ls /var/run/cdi").stdout == "nvidia.yaml\n"
    changed = [line for line in diff_snapshots(before, host.snapshot()) if line.startswith(("file", "packages"))]
    assert [line.split(":")[0] for line in changed] == ["file /etc/motd"], changed
    host.power_cut()
    started = time.monotonic()
    host.power_on()
    assert time.monotonic() - started < 30
    assert sudo(host, "docker inspect -f {{.State.Running}} keep").stdout == "true\n"


def test_bookworm_engine(boot: Callable[..., FreshHost]) -> None:
    old = boot("old", suite="bookworm")
    old.ssh("sudo sh -s", input=INSTALL_ENGINE, check=True)
    assert sudo(old, f"docker run --rm {BUSYBOX} echo ok").stdout == "ok\n"


@pytest.mark.parametrize("suite", ["trixie", "bookworm"])
def test_prepare_on_a_bare_machine(boot: Callable[..., FreshHost], suite: str) -> None:
    bare = boot(f"control-{suite}", suite=suite, gpus=[])
    script = PREPARE.read_text()
    done = bare.ssh("cat > prepare.sh && sudo sh prepare.sh", input=script)
    assert done.rc == 0, done.stdout + done.stderr
    started = time.monotonic()
    assert bare.ssh("sudo sh prepare.sh").rc == 0
    assert time.monotonic() - started < 2
    assert bare.ssh("sudo docker version -f '{{.Server.Version}}'").stdout.startswith(("20.10", "26.1"))

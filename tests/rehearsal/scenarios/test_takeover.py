"""A workstation that somebody set up by hand, and uses, becomes ours: nothing of it stops, and nothing is lost."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable

import pytest

from ..instruments.converged import GPU, QUICK
from ..instruments.guide import shown
from ..instruments.proof import Proof
from ..instruments.refusal import site
from ..world.freshhost import FreshHost
from ..world.scenery import weights
from ..world.world import World

pytestmark = pytest.mark.rehearsal

THEIRS = {
    "max-concurrent-downloads": 2,
    "debug": True,
    "default-address-pools": [{"base": "172.31.0.0/16", "size": 24}],
}
# Debian's Docker with a daemon.json of their own, a compose project of two, a user who may ask Docker, and the toolkit
# of an earlier version, held, from a source with a key of its own.
BY_HAND = r"""
set -eu; export DEBIAN_FRONTEND=noninteractive
apt-get update -q
apt-get install -y -q --no-install-recommends docker.io docker-cli docker-compose busybox-static curl ca-certificates
printf %s '@JSON@' > /etc/docker/daemon.json; chmod 600 /etc/docker/daemon.json
systemctl restart docker
tar -C / -c bin/busybox usr/bin/busybox 2>/dev/null | docker import - theirs:1 >/dev/null
mkdir -p /srv/theirs; cd /srv/theirs
cat > compose.yml <<'Y'
services:
  once: {image: "theirs:1", command: [/bin/busybox, sleep, "100000"], restart: "no"}
  ever: {image: "theirs:1", command: [/bin/busybox, sleep, "100000"], restart: unless-stopped, depends_on: [once]}
Y
docker compose -p theirs up -d 2>/dev/null
useradd --create-home painter; usermod -aG docker painter
curl -fsSL https://nvidia.github.io/libnvidia-container/gpgkey -o /etc/apt/keyrings/nvidia.asc
echo 'deb [signed-by=/etc/apt/keyrings/nvidia.asc] https://nvidia.github.io/libnvidia-container/stable/deb/$(ARCH) /' \
  > /etc/apt/sources.list.d/nvidia.list
apt-get update -q
names='nvidia-container-toolkit nvidia-container-toolkit-base libnvidia-container-tools libnvidia-container1'
apt-get install -y -q $(for name in $names; do echo "$name=1.19.0-1"; done)
apt-mark hold $names >/dev/null
"""
TREE, MODELS = "/home/painter/ComfyUI/models", ("qwen-image-edit", "qwen-image-encoder", "qwen-image-vae")
SOURCE = "/etc/apt/sources.list.d/nvidia.list"
STARTED = "docker inspect -f '{{.Name}} {{.Id}} {{.State.StartedAt}}' theirs-once-1 theirs-ever-1"


def test_a_host_prepared_by_hand_is_taken_over(furnished: World, boot: Callable[..., FreshHost]) -> None:
    host = boot("byhand", gpus=[GPU])
    host.root(BY_HAND.replace("@JSON@", json.dumps(THEIRS)), check=True)
    data: dict[str, object] = {"engine_source": "distro", "enabled_services": ["orchestrator"]}
    data["services"] = {"orchestrator": {"open_files": 16384}}  # its runc is not ours to wrap
    host.write_inventory({**furnished.host_data(), **QUICK, **data})
    before, pid = host.root(STARTED, check=True).stdout, host.root("cat /run/docker.pid").stdout

    proof = Proof(host)
    planned = proof.control.plan()
    assert planned.code == 2 and planned.document, planned.errors
    [restart] = [each for each in planned.document["changes"] if each["resource"]["kind"] == "engine"]
    assert restart["impact"]["stops"] == [] and ("gpu", "NVIDIA Container Toolkit", "install") in planned.changes
    assert ("gpu", SOURCE, "disable") in planned.changes
    told = proof.control.apply()
    assert told.code == 0, told.errors
    assert sorted(told.changes) == sorted(planned.changes)

    assert host.root("cat /run/docker.pid").stdout != pid and host.root(STARTED, check=True).stdout == before
    found = json.loads(host.root("cat /etc/docker/daemon.json").stdout)
    assert {name: found[name] for name in THEIRS} == THEIRS and list(found)[:3] == list(THEIRS)
    assert host.root("stat -c %a /etc/docker/daemon.json").stdout.strip() == "600"
    assert "painter" in host.root("getent group docker").stdout
    assert host.root(f"ls {SOURCE}*").stdout.split() == [f"{SOURCE}.disabled"]
    assert host.root("apt-get -q update 2>&1").rc == 0
    versions = host.root("dpkg-query -W -f '${Version}\\n' 'nvidia-container-toolkit*' 'libnvidia-container*'").stdout
    assert versions.split() == ["1.20.0-1"] * 4
    assert len(host.root("apt-mark showhold").stdout.split()) == 4
    proof.second_apply()
    assert host.root(STARTED, check=True).stdout == before
    models_that_are_there_are_not_downloaded(proof, furnished)


def models_that_are_there_are_not_downloaded(proof: Proof, world: World) -> None:
    """As docs/howto/move-from-hand-made.md says: enabled, imported, and nothing is left to fetch."""
    host, control = proof.host, proof.control
    for name in MODELS:
        host.root(f"mkdir -p {TREE}/{name}; cat > '{TREE}/{name}/a name.safetensors'", input=weights(name), check=True)
    first, command, second, _ = (
        shlex.split(line, comments=True)[1:] for line in shown("move-from-hand-made", "sh")[2].splitlines()
    )
    assert command[:2] == ["models", "import"] and command[2].startswith("/home/me/")
    world.forget_requests()
    with site(host, 'enabled_services = ["orchestrator", "comfyui-qwen"]\n'):
        asked = control.text(*first)
        assert asked.returncode == 2 and "to fetch" in asked.stderr, (asked.stdout, asked.stderr)
        told = control.models("import", TREE)
        assert told.code == 0 and {name for _, name, action in told.changes if action == "import"} == {*MODELS}, told
        then = control.plan(*second[1:])
        left = {action for stage, _, action in then.changes if stage == "models"}
        assert then.code == 2 and left <= {"link"}, then.changes  # the name of the branch, without a download
    assert not [each for each in world.requests("hub") if "/resolve/" in each]

"""A host that is deployed over SSH is installed anew, and docs/howto/rebuild.md is typed: it becomes what it was."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ..instruments.converged import GPU, QUICK
from ..instruments.guide import shown
from ..instruments.proof import Proof
from ..world.freshhost import FreshHost
from ..world.world import World

pytestmark = [pytest.mark.rehearsal, pytest.mark.soak]
WORKFLOW = "/srv/genai/services/comfyui-qwen/data/user/default/workflows/mine.json"
PICTURE = "/srv/genai/outputs/comfyui-qwen/mine.png"
MAKE = f"""
set -eu
for file in {WORKFLOW} {PICTURE}; do
  mkdir -p "$(dirname "$file")"; echo mine > "$file"; chown -R genai-comfyui-qwen: "$(dirname "$file")"
done
"""
OWNERS = f"stat -c '%U %u %n' {WORKFLOW} {PICTURE}"


def carried(host: FreshHost, disk: Path) -> None:
    """The machine is installed anew, and the data disk, /srv, is put into it again."""
    host.root("systemctl stop docker.service docker.socket", check=True)
    copy = ["docker", "exec", "-i", host.container, "tar", "--numeric-owner"]
    with disk.open("wb") as file:
        subprocess.run([*copy, "-C", "/", "-c", "srv"], stdout=file, check=True)
    host.rebuild()
    host.root("mkdir /disk", check=True)
    with disk.open("rb") as file:
        subprocess.run([*copy, "-C", "/disk", "-x"], stdin=file, check=True)


def test_a_rebuilt_host_with_its_data_disk_becomes_what_it_was(
    furnished: World, boot: Callable[..., FreshHost], tmp_path: Path
) -> None:
    host = boot("gpu1", gpus=[GPU])
    host.write_inventory({**furnished.host_data(), **QUICK, "data_mount": "/srv"})
    host.root("mount --bind /srv /srv", check=True)
    proof = Proof(host)
    control = proof.control
    made = control.apply()
    assert made.code == 0, made.errors
    host.root(MAKE, check=True)
    owners, secrets = host.root(OWNERS).stdout, (host.run_dir / "secrets/gpu1.env").read_bytes()

    carried(host, tmp_path / "disk.tar")
    refused = control.plan()
    assert refused.code == 1 and "gpuhost trust gpu1" in str(refused.errors), refused.errors
    trust, plan, apply = (shlex.split(line, comments=True)[1:] for line in shown("rebuild", "sh")[-1].splitlines())
    trusted = control.typed(*trust, answers=[("[y/N]", "y")])
    assert trusted.code == 0 and "THE KEY OF THIS HOST IS ANOTHER ONE" in trusted.text, trusted.text
    unmounted = control.typed(*plan, answers=[])
    assert unmounted.code == 1 and "nothing is mounted at /srv" in unmounted.text, unmounted.text
    host.root("mount --bind /disk/srv /srv", check=True)

    planned = control.plan()
    assert planned.code == 2 and planned.document, planned.errors
    actions: dict[str, set[str]] = {}
    for change in planned.document["changes"]:
        actions.setdefault(change["resource"]["kind"], set()).add(change["action"])
    assert (actions["model"], actions["install"]) == ({"verify"}, {"reinstall"}) and "secret" not in actions
    furnished.forget_requests()
    applied = control.typed(*apply, answers=[("[y/N]", "y")])
    assert applied.code == 0 and "2 of 2 services answer" in applied.text, applied.text[-3000:]
    assert not [each for each in furnished.requests("hub") if "/resolve/" in each]
    assert (host.run_dir / "secrets/gpu1.env").read_bytes() == secrets
    assert host.root(OWNERS).stdout == owners
    assert len(host.root("ls -d /srv/genai/installs/comfyui/*.replaced-*").stdout.split()) == 1
    proof.nothing_to_do()

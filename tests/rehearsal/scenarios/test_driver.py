"""A host with a card and no driver: one apply installs it, reboots the host, and goes on until services answer."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from ..instruments.converged import GPU, QUICK
from ..instruments.proof import Proof
from ..standins.apt_repo import Package, packages_index
from ..world.freshhost import FreshHost
from ..world.gpus import DATA_DIR, gpu_files
from ..world.run import run
from ..world.world import World

pytestmark = pytest.mark.rehearsal

# What the kernel of such a machine shows: a card on the bus, and nouveau on it until NVIDIA's driver is there at boot.
CARD = f"""[Unit]
Before=ssh.service
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -ec '\\
  device=/sys/bus/pci/devices; mount -t tmpfs card $device; mkdir $device/0000:01:00.0; \\
  echo 0x10de > $device/0000:01:00.0/vendor; echo 0x030000 > $device/0000:01:00.0/class; \\
  if [ -e /usr/bin/nvidia-smi ]; then rm -f {DATA_DIR}/broken; exit 0; fi; \\
  mount -t tmpfs modules /sys/module; mkdir /sys/module/nouveau'
[Install]
WantedBy=multi-user.target
"""
NON_FREE = "deb [trusted=yes] file:/srv/non-free ./\n"
BEFORE = "/run/before-the-reboot"


def packages(host: str, work: Path) -> bytes:
    """Debian's packages of the driver, as stand-ins, in a tar of their repository."""
    smi = work / "nvidia-driver"
    for path, (content, mode) in gpu_files(host, [GPU]).items():
        file = smi / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        file.chmod(mode)
    (smi / DATA_DIR.lstrip("/") / "broken").touch()  # until nouveau has let go of the card
    debs = work / "non-free"
    debs.mkdir()
    for name in ("linux-headers-amd64", "nvidia-kernel-dkms", "nvidia-driver"):
        (work / name).mkdir(exist_ok=True)
        Package(name, "999.1", work / name).build(debs)
    packages_index(debs, ".", debs / "Packages")
    kept = io.BytesIO()
    with tarfile.open(fileobj=kept, mode="w") as tar:
        tar.add(debs, "srv/non-free")
    return kept.getvalue()


def test_one_apply_installs_the_driver_reboots_and_goes_on(
    furnished: World, boot: Callable[..., FreshHost], tmp_path: Path
) -> None:
    host = boot("driver", gpus=[])
    run(["docker", "update", "--restart", "always", host.container])  # a machine that reboots comes back
    host.root("tar -x -C /", input=packages(host.name, tmp_path), check=True)
    host.root("cat > /etc/apt/sources.list.d/non-free.list", input=NON_FREE, check=True)
    host.root("cat > /etc/systemd/system/card.service", input=CARD, check=True)
    host.root(f"systemctl daemon-reload && systemctl enable --now -q card.service && touch {BEFORE}", check=True)
    data: dict[str, object] = {"driver": "550", "allow_reboot": True, "enabled_services": ["orchestrator"]}
    host.write_inventory({**furnished.host_data(), **QUICK, **data})

    proof = Proof(host)
    planned = proof.control.plan()
    assert planned.code == 2, planned.errors
    assert ("gpu", "NVIDIA driver 550", "reboot") in planned.changes
    assert not [change for change in planned.changes if change[0] == "stacks"]
    told = proof.control.apply()
    assert told.code == 0, told.errors
    assert host.root(f"test -e {BEFORE}").rc == 1  # it was rebooted
    assert told.changes[: len(planned.changes)] == planned.changes
    assert {("gpu", "NVIDIA Container Toolkit", "install"), ("stacks", "orchestrator", "create")} <= {*told.changes}
    assert told.document and [seen["service"] for seen in told.document["observed"]] == ["orchestrator"]
    proof.nothing_to_do()

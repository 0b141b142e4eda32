"""nvidia.github.io: the container toolkit's flat repository, with shell stand-ins for its programs."""

from __future__ import annotations

import shutil
from pathlib import Path

from ..world.cache import cached, digest
from ..world.pki import signing_key
from .apt_repo import Package, packages_index, write_release
from .docker_apt import put, unit_scripts

HERE = Path(__file__).resolve().parent
VERSIONS = ("1.19.0-1", "1.20.0-1")
REFRESH_SERVICE = """[Unit]
Description=Refresh NVIDIA CDI specification file
ConditionPathExists=|/usr/bin/nvidia-smi
ConditionPathExists=|/usr/lib/wsl/lib/nvidia-smi
ConditionPathExists=/usr/bin/nvidia-ctk

[Service]
Type=oneshot
EnvironmentFile=-/etc/nvidia-container-toolkit/nvidia-cdi-refresh.env
ExecStart=/usr/bin/nvidia-ctk cdi generate --output=/var/run/cdi/nvidia.yaml

[Install]
WantedBy=multi-user.target
"""
# The real one watches the kernel modules; the stand-in GPUs are files in this folder.
REFRESH_PATH = """[Unit]
Description=Trigger CDI refresh on NVIDIA driver install / uninstall events

[Path]
PathChanged=/usr/lib/nvidia-standin

[Install]
WantedBy=multi-user.target
"""
# Its presence lets the engine accept --gpus.
HOOK = "#!/bin/sh\n# Stand-in: nothing to do.\ncat >/dev/null\nexit 0\n"
UNITS = ["nvidia-cdi-refresh.path", "nvidia-cdi-refresh.service"]


def _packages(version: str, work: Path) -> list[Package]:
    upstream = version.split("-")[0]
    base, toolkit = work / "base", work / "toolkit"
    put(base, "usr/bin/nvidia-ctk", (HERE / "scripts/nvidia-ctk").read_text().replace("@VERSION@", upstream), 0o755)
    put(base, "usr/bin/nvidia-cdi-hook", "#!/bin/sh\nexit 0\n", 0o755)
    put(base, "usr/bin/nvidia-container-runtime", HERE / "scripts/nvidia-container-runtime", 0o755)
    put(base, "usr/lib/systemd/system/nvidia-cdi-refresh.service", REFRESH_SERVICE)
    put(base, "usr/lib/systemd/system/nvidia-cdi-refresh.path", REFRESH_PATH)
    put(toolkit, "usr/bin/nvidia-container-runtime-hook", HOOK, 0o755)
    put(work / "tools", "usr/bin/nvidia-container-cli", f"#!/bin/sh\necho cli-version: {upstream}\n", 0o755)
    put(work / "lib", "usr/share/libnvidia-container1/stand-in", "no library inside\n")
    lib, tools = f"libnvidia-container1 (>= {version}), libnvidia-container1 (<< 2.0.0)", "libnvidia-container-tools"
    needs = f"{tools} (>= {version}), {tools} (<< 2.0.0), nvidia-container-toolkit-base (= {version})"
    return [
        Package("nvidia-container-toolkit-base", version, base, scripts=unit_scripts(UNITS)),
        Package("nvidia-container-toolkit", version, toolkit, needs),
        Package("libnvidia-container-tools", version, work / "tools", lib),
        Package("libnvidia-container1", version, work / "lib"),
    ]


def _build(folder: Path) -> None:
    key = signing_key("nvidia")
    site = folder / "tree/libnvidia-container"
    flat = site / "stable/deb/amd64"
    flat.mkdir(parents=True)
    for version in VERSIONS:
        for package in _packages(version, folder / "work" / version):
            package.build(flat)
    packages_index(flat, ".", flat / "Packages")
    write_release(flat, key, {"Origin": "https://nvidia.github.io/libnvidia-container", "Suite": "stable"})
    shutil.copyfile(key.public, site / "gpgkey")
    listing = "deb https://nvidia.github.io/libnvidia-container/stable/deb/$(ARCH) /\n"
    (site / "stable/deb/nvidia-container-toolkit.list").write_text(listing)
    shutil.rmtree(folder / "work")


def nvidia_repository(timings: dict[str, float] | None = None) -> Path:
    """The tree that nvidia.github.io serves."""
    scripts = (HERE / "scripts/nvidia-ctk", HERE / "scripts/nvidia-container-runtime")
    sources = [Path(__file__), HERE / "apt_repo.py", HERE / "docker_apt.py", *scripts]
    return cached("nvidia-apt", digest(*sources, signing_key("nvidia").public), _build, timings) / "tree"

"""download.docker.com: docker-ce and friends under their own names, with Debian's real binaries inside."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..world.cache import cached, digest
from ..world.mirrors import debian_mirror
from ..world.pki import signing_key
from .apt_repo import Package, fetch_debs, packages_index, write_release

HERE = Path(__file__).resolve().parent
SUITES = {"trixie": "13", "bookworm": "12"}
ENGINE, CONTAINERD, BUILDX, COMPOSE = "26.1.5", "1.7.24", "0.13.1", "2.26.1"

DOCKER_SERVICE = """[Unit]
Description=Docker Application Container Engine
Documentation=https://docs.docker.com
After=network-online.target nss-lookup.target docker.socket firewalld.service containerd.service time-set.target
Wants=network-online.target containerd.service
Requires=docker.socket
StartLimitBurst=3
StartLimitIntervalSec=60

[Service]
Type=notify
ExecStart=/usr/bin/dockerd -H fd:// --containerd=/run/containerd/containerd.sock
ExecReload=/bin/kill -s HUP $MAINPID
TimeoutStartSec=0
RestartSec=2
Restart=always
LimitNPROC=infinity
LimitCORE=infinity
TasksMax=infinity
Delegate=yes
KillMode=process
OOMScoreAdjust=-500

[Install]
WantedBy=multi-user.target
"""
DOCKER_SOCKET = """[Unit]
Description=Docker Socket for the API

[Socket]
ListenStream=/run/docker.sock
SocketMode=0660
SocketUser=root
SocketGroup=docker

[Install]
WantedBy=sockets.target
"""
CONTAINERD_SERVICE = """[Unit]
Description=containerd container runtime
Documentation=https://containerd.io
After=network.target dbus.service

[Service]
ExecStartPre=-/sbin/modprobe overlay
ExecStart=/usr/bin/containerd
Type=notify
Delegate=yes
KillMode=process
Restart=always
RestartSec=5
LimitNPROC=infinity
LimitCORE=infinity
TasksMax=infinity
OOMScoreAdjust=-999

[Install]
WantedBy=multi-user.target
"""
# As debhelper writes it.
START_UNIT = """
if deb-systemd-helper --quiet was-enabled '{unit}'; then
    deb-systemd-helper enable '{unit}' >/dev/null || true
else
    deb-systemd-helper update-state '{unit}' >/dev/null || true
fi
"""
RESTART_UNITS = """
if [ -d /run/systemd/system ]; then
    systemctl --system daemon-reload >/dev/null || true
    if [ -n "$2" ]; then action=restart; else action=start; fi
    deb-systemd-invoke $action {units} >/dev/null || true
fi
"""
PRERM = """#!/bin/sh
set -e
if [ -d /run/systemd/system ] && [ "$1" = remove ]; then deb-systemd-invoke stop {units} >/dev/null || true; fi
"""
POSTRM = """#!/bin/sh
set -e
if [ "$1" = remove ] && [ -d /run/systemd/system ]; then systemctl --system daemon-reload >/dev/null || true; fi
if [ "$1" = purge ] && [ -x /usr/bin/deb-systemd-helper ]; then
    deb-systemd-helper purge {units} >/dev/null || true
    deb-systemd-helper unmask {units} >/dev/null || true
fi
"""


def postinst(units: list[str], before: str = "") -> str:
    """A postinst that enables and starts `units` as Docker's own packages do."""
    enable = "".join(START_UNIT.format(unit=unit) for unit in units)
    restart = RESTART_UNITS.format(units=" ".join(f"'{unit}'" for unit in units))
    return f'#!/bin/sh\nset -e\nif [ "$1" = configure ]; then\n{before}{enable}{restart}fi\n'


def unit_scripts(units: list[str], before: str = "") -> dict[str, str]:
    """All maintainer scripts for `units`."""
    names = " ".join(units)
    return {
        "postinst": postinst(units, before),
        "prerm": PRERM.format(units=names),
        "postrm": POSTRM.format(units=names),
    }


def put(root: Path, name: str, content: str | Path, mode: int = 0o644) -> None:
    """Put a file, from text or from another file, below `root`."""
    path = root / name.lstrip("/")
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, Path):
        shutil.copyfile(content, path)
    else:
        path.write_text(content)
    path.chmod(mode)


def _containerd(debs: dict[str, Path], runc: Path, root: Path, version: str) -> Package:
    source = debs["containerd"] / "usr/bin"
    for binary in ("containerd", "containerd-shim-runc-v2", "ctr"):
        put(root, f"usr/bin/{binary}", source / binary, 0o755)
    put(root, "usr/bin/runc", HERE / "scripts/runc", 0o755)
    put(root, "usr/libexec/rehearsal/runc", runc / "usr/sbin/runc", 0o755)
    put(root, "usr/lib/systemd/system/containerd.service", CONTAINERD_SERVICE)
    put(root, "etc/containerd/config.toml", 'disabled_plugins = ["cri"]\n')
    fields = {"Provides": "containerd, runc", "Conflicts": "containerd, runc", "Replaces": "containerd, runc"}
    scripts = {**unit_scripts(["containerd.service"]), "conffiles": "/etc/containerd/config.toml\n"}
    return Package("containerd.io", version, root, "libc6 (>= 2.34), libseccomp2 (>= 2.5.0)", fields, scripts)


def _engine(debs: dict[str, Path], root: Path, version: str) -> Package:
    source = debs["docker.io"]
    put(root, "usr/bin/dockerd", source / "usr/sbin/dockerd", 0o755)
    put(root, "usr/bin/docker-proxy", source / "usr/sbin/docker-proxy", 0o755)
    put(root, "usr/bin/docker-init", debs["tini"] / "usr/bin/tini-static", 0o755)
    put(root, "usr/lib/systemd/system/docker.service", DOCKER_SERVICE)
    put(root, "usr/lib/systemd/system/docker.socket", DOCKER_SOCKET)
    group = "getent group docker >/dev/null || groupadd --system docker\n"
    fields = {"Conflicts": "docker, docker.io", "Replaces": "docker", "Recommends": "docker-buildx-plugin"}
    depends = "containerd.io (>= 1.6.24), docker-ce-cli, iptables, libsystemd0, libc6 (>= 2.34)"
    return Package(
        "docker-ce", version, root, depends, fields, unit_scripts(["docker.service", "docker.socket"], group)
    )


def _build_suite(suite: str, number: str, debs: dict[str, Path], runc: Path, folder: Path) -> None:
    """All packages of one suite: pool and index below `folder`."""
    pool = folder / f"linux/debian/dists/{suite}/pool/stable/amd64"
    pool.mkdir(parents=True)
    roots = folder.parent / "roots" / suite
    tail = f"-1~debian.{number}~{suite}"
    plugins = "usr/libexec/docker/cli-plugins"
    cli, buildx, compose = roots / "cli", roots / "buildx", roots / "compose"
    put(cli, "usr/bin/docker", debs["docker-cli"] / "usr/bin/docker", 0o755)
    put(buildx, f"{plugins}/docker-buildx", debs["docker-buildx"] / plugins / "docker-buildx", 0o755)
    put(compose, f"{plugins}/docker-compose", debs["docker-compose"] / plugins / "docker-compose", 0o755)
    packages = [
        _containerd(debs, runc, roots / "containerd", f"{CONTAINERD}-1"),
        _engine(debs, roots / "engine", f"5:{ENGINE}{tail}"),
        Package("docker-ce-cli", f"5:{ENGINE}{tail}", cli, "libc6 (>= 2.34)", {"Conflicts": "docker-cli"}),
        Package("docker-buildx-plugin", f"{BUILDX}{tail}", buildx, "", {"Conflicts": "docker-buildx"}),
        Package("docker-compose-plugin", f"{COMPOSE}{tail}", compose, "", {"Conflicts": "docker-compose"}),
    ]
    with ThreadPoolExecutor(2) as pool_of_workers:
        list(pool_of_workers.map(lambda package: package.build(pool), packages))


def _build(folder: Path) -> None:
    key = signing_key("docker")
    work = folder / "work"
    names = ["docker.io", "docker-cli", "containerd", "runc", "docker-buildx", "docker-compose", "tini"]
    debs = fetch_debs("trixie", names, work / "trixie")
    # Only runc needs a newer C library than Debian 12 has; there it gets Debian 12's own.
    runc_of = {"trixie": debs["runc"], "bookworm": fetch_debs("bookworm", ["runc"], work / "bookworm")["runc"]}
    tree = folder / "tree"
    for suite, number in SUITES.items():
        _build_suite(suite, number, debs, runc_of[suite], tree)
        debian = tree / "linux/debian"
        packages_index(
            debian, f"dists/{suite}/pool/stable/amd64", debian / f"dists/{suite}/stable/binary-amd64/Packages"
        )
        fields = {"Origin": "Docker", "Label": "Docker CE", "Suite": suite, "Codename": suite}
        write_release(debian / f"dists/{suite}", key, {**fields, "Components": "stable", "Architectures": "amd64"})
    shutil.copyfile(key.public, tree / "linux/debian/gpg")
    shutil.rmtree(work)
    shutil.rmtree(folder / "roots", ignore_errors=True)


def docker_repository(timings: dict[str, float] | None = None) -> Path:
    """The tree that download.docker.com serves."""
    mirror = debian_mirror()
    sources = [Path(__file__), HERE / "apt_repo.py", HERE / "scripts/runc", signing_key("docker").public]
    return cached("docker-apt", digest(*sources, mirror.main, mirror.security), _build, timings) / "tree"

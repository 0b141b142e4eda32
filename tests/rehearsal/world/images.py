"""Root file systems, built by mmdebstrap from this machine's own Debian mirror and cached."""

from __future__ import annotations

import inspect
import tarfile
import time
from pathlib import Path

from ..standins.apt_repo import fetch_debs
from .cache import cached, digest, locked
from .mirrors import debian_mirror, public_debian
from .pki import certificate_authority
from .run import run

HOST_PACKAGES = (
    *("systemd", "systemd-sysv", "dbus", "libpam-systemd", "openssh-server", "sudo"),
    *("ca-certificates", "iproute2", "kmod", "procps", "netbase"),
)
PYTHON_PACKAGES = ("ca-certificates", "netbase", "python3", "python3-venv", "python3-pip")
# The mirror behind the stand-in may be a dated snapshot, whose Valid-Until is over.
APT_CONF = 'Acquire::Check-Valid-Until "false";\nAcquire::Check-Date "false";\n'
CA_IN_IMAGE = "/usr/local/share/ca-certificates/gpuhost-rehearsal.crt"
# Python clients that bring their own list of CAs (certifi) obey this, as on any site with its own CA.
CA_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"

HOST_SETUP = r"""
set -e
rm -f "$1"/etc/ssh/ssh_host_* "$1"/var/lib/dbus/machine-id
: > "$1"/etc/machine-id
chroot "$1" useradd --create-home --shell /bin/bash admin
mkdir -p "$1"/etc/ssh/sshd_config.d "$1"/etc/systemd/system.conf.d
printf 'PasswordAuthentication no\nPermitRootLogin no\n' > "$1"/etc/ssh/sshd_config.d/rehearsal.conf
printf '[Manager]\nDefaultEnvironment=SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt\n' \
    > "$1"/etc/systemd/system.conf.d/rehearsal.conf
printf 'SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt\n' >> "$1"/etc/environment
printf 'Defaults env_keep += "SSL_CERT_FILE"\n' > "$1"/etc/sudoers.d/site-ca
chmod 440 "$1"/etc/sudoers.d/site-ca
# The outer container has no clock, modules or consoles of its own.
rm -f "$1"/etc/systemd/system/getty.target.wants/*
"""
PYTHON_SETUP = r"""
set -e
ln -sf /usr/bin/python3 "$1"/usr/local/bin/python3
ln -sf /usr/bin/python3 "$1"/usr/local/bin/python
ln -sf /usr/bin/pip3 "$1"/usr/local/bin/pip
rm -f "$1"/usr/lib/python3*/EXTERNALLY-MANAGED
"""
COMMON_SETUP = r"""
set -e
rm -rf "$1"/usr/share/doc/* "$1"/usr/share/man/* "$1"/usr/share/locale/* "$1"/var/cache/apt/archives/*.deb
rm -f "$1"/etc/resolv.conf "$1"/etc/hostname
"""


def public_sources(suite: str) -> str:
    """The sources.list of a Debian that nobody configured."""
    public = public_debian()
    return (
        f"deb {public.main} {suite} main\n"
        f"deb {public.main} {suite}-updates main\n"
        f"deb {public.security} {suite}-security main\n"
    )


def _mmdebstrap(suite: str, packages: tuple[str, ...], setup: str, tar: Path) -> None:
    mirror = debian_mirror()
    work = tar.parent
    ca = certificate_authority() / "ca.crt"
    (work / "setup.sh").write_text(COMMON_SETUP + setup)
    (work / "apt.conf").write_text(APT_CONF)
    (work / "dpkg.cfg").write_text("force-unsafe-io\n")
    (work / "sources.list").write_text(public_sources(suite))
    keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
    lines = [
        f"deb [signed-by={keyring}] {mirror.main} {suite} main",
        f"deb [signed-by={keyring}] {mirror.main} {suite}-updates main",
        f"deb [signed-by={keyring}] {mirror.security} {suite}-security main",
    ]
    options = [
        '--aptopt=Acquire::Check-Valid-Until "false"',
        '--aptopt=Acquire::Check-Date "false"',
        '--aptopt=Acquire::Languages "none"',
        "--dpkgopt=force-unsafe-io",
        '--essential-hook=mkdir -p "$1"/usr/local/share/ca-certificates',
        f"--essential-hook=upload {ca} {CA_IN_IMAGE}",
        f'--customize-hook=sh {work}/setup.sh "$1"',
        '--customize-hook=rm -rf "$1"/etc/apt/sources.list.d/* "$1"/etc/apt/apt.conf.d/99mmdebstrap',
        f"--customize-hook=upload {work}/apt.conf /etc/apt/apt.conf.d/80rehearsal",
        f"--customize-hook=upload {work}/dpkg.cfg /etc/dpkg/dpkg.cfg.d/80rehearsal",
        f"--customize-hook=upload {work}/sources.list /etc/apt/sources.list",
    ]
    what = ["--quiet", "--variant=minbase", "--mode=root", "--include=" + ",".join(packages)]
    run(["mmdebstrap", *what, *options, suite, tar, *lines], timeout_s=900)


def rootfs(kind: str, suite: str, timings: dict[str, float] | None = None) -> Path:
    """The tar of a root file system; `kind` is "host" or "python"."""
    packages, setup = (HOST_PACKAGES, HOST_SETUP) if kind == "host" else (PYTHON_PACKAGES, PYTHON_SETUP)
    mirror = debian_mirror()
    recipe = [inspect.getsource(_mmdebstrap), COMMON_SETUP, setup, public_sources(suite), APT_CONF, suite, *packages]
    key = digest(certificate_authority() / "ca.crt", mirror.main, mirror.security, *recipe)

    def build(folder: Path) -> None:
        _mmdebstrap(suite, packages, setup, folder / "rootfs.tar")

    made = cached(f"rootfs-{kind}-{suite}", key, build, timings)
    return made / "rootfs.tar"


def host_image(suite: str, timings: dict[str, float] | None = None) -> str:
    """The outer engine's image of a fresh host; imported once, kept with the cache."""
    tar = rootfs("host", suite, timings)
    image = f"gpuhost-rehearsal-host:{tar.parent.name.removeprefix('rootfs-host-')}"
    with locked(image.replace(":", "-")):
        if run(["docker", "image", "inspect", image], check=False).rc != 0:
            started = time.monotonic()
            run(["docker", "import", "--change", "LABEL gpuhost.rehearsal.cache=1", tar, image])
            if timings is not None:
                timings[f"import {suite}"] = round(time.monotonic() - started, 2)
    return image


def busybox_layer(timings: dict[str, float] | None = None) -> Path:
    """A layer with a static busybox and a link for each of its programs."""

    def build(folder: Path) -> None:
        binary = fetch_debs("trixie", ["busybox-static"], folder)["busybox-static"] / "usr/bin/busybox"
        with tarfile.open(folder / "layer.tar", "w") as tar:
            for name in ("bin", "tmp", "root", "etc", "proc", "sys", "dev"):
                entry = tarfile.TarInfo(name)
                entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
                tar.addfile(entry)
            tar.add(binary, "bin/busybox")
            for applet in run([binary, "--list"]).stdout.split():
                if applet != "busybox":
                    entry = tarfile.TarInfo(f"bin/{applet}")
                    entry.type, entry.linkname = tarfile.LNKTYPE, "bin/busybox"
                    entry.mode = 0o755
                    tar.addfile(entry)

    mirror = debian_mirror()
    return cached("busybox", digest(inspect.getsource(busybox_layer), mirror.main), build, timings) / "layer.tar"

"""A host as it once was, to be restored in seconds: its disk, its engine's volumes, and the operator's files for it.

The disk is an image of the outer engine (a restored host shares its layers); the volumes are copied, for overlayfs
does not stack on overlayfs. A restored host may have another name, address and port; it keeps its machine id, its SSH
host key, its GPUs and every secret.
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from .cache import cache_dir, locked
from .freshhost import FreshHost, HostSpec
from .gpus import Gpu
from .machine import PROJECT
from .run import run

KIND = "host"
KEPT = 6  # of this tree and of those that were used last, in any checkout; each is more than a gigabyte
# The sections of a snapshot that a copy shares with what was saved: it boots, so services and containers start anew.
SAME_IN_A_COPY = ("files", "packages", "images", "volumes")
OPERATOR = ("id_ed25519", "id_ed25519.pub", "ssh_host_ed25519_key", "ssh_host_ed25519_key.pub")
# What decides how a host becomes: the product, what it is told, and the world that it lives in.
MAKERS = (
    *("gpuhost", "tasks", "templates", "files", "group_data", "deploy.py", "config.py", "inventory.py"),
    *("pyproject.toml", "requirements.lock", "tests/rehearsal/world", "tests/rehearsal/standins"),
)


def makers() -> list[str | bytes | Path]:
    """Everything in the checkout that decides how a host becomes, for a digest."""
    parts: list[str | bytes | Path] = []
    for name in MAKERS:
        top = PROJECT / name
        for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
            if path.is_file() and "__pycache__" not in path.parts:
                parts += [f"{path.relative_to(PROJECT)} {path.stat().st_mode:o}", path]
    return parts


@dataclass(frozen=True)
class SavedHost:
    """What save() wrote into `folder`; it names the outer engine's image of the disk."""

    folder: Path

    @property
    def image(self) -> str:
        """The outer engine's name of it."""
        return (self.folder / "image").read_text()

    @property
    def spec(self) -> HostSpec:
        """What was booted; its GPUs keep their UUIDs whatever the restored host is called."""
        facts = json.loads((self.folder / "spec.json").read_text())
        gpus = tuple(Gpu(**{**gpu, "apps": tuple(map(tuple, gpu["apps"]))}) for gpu in facts.pop("gpus"))
        return HostSpec(**facts, gpus=gpus)

    @property
    def snapshot(self) -> dict[str, Any]:
        """How it looked when it was saved."""
        seen: dict[str, Any] = json.loads((self.folder / "snapshot.json").read_text())
        return seen

    def fill(self, host: FreshHost) -> None:
        """Give a host that is not booted yet the volumes and the operator's files."""
        with locked(self.folder.name):
            for name, volume in host.volumes.items():
                run(["docker", "volume", "create", volume])
                _copy(self.folder / name, _mountpoint(volume))
            host.run_dir.mkdir(parents=True, exist_ok=True)
            for name in OPERATOR:
                shutil.copy2(self.folder / "operator" / name, host.run_dir / name)
            shutil.copytree(self.folder / "operator/secrets", host.run_dir / "secrets", copy_function=shutil.copy2)
        for path in (host.run_dir / "secrets").glob(f"{self.spec.name}.*"):
            path.rename(path.with_name(path.name.replace(self.spec.name, host.name, 1)))


def image_of(key: str) -> str:
    """The name of a saved disk."""
    return f"gpuhost-rehearsal-saved:{key}"


def save(host: FreshHost, folder: Path, image: str) -> SavedHost:
    """Write a host into `folder` and an image of that name; it is shut down for it and runs again afterwards."""
    folder.mkdir(exist_ok=True)
    (folder / "image").write_text(image)
    (folder / "snapshot.json").write_text(json.dumps(host.snapshot()))
    with host.shut_down():
        run(["docker", "commit", "--change", "LABEL gpuhost.rehearsal.cache=1", host.container, image])
        for name, volume in host.volumes.items():
            (folder / name).mkdir()
            _copy(_mountpoint(volume), folder / name)
    operator = folder / "operator"
    operator.mkdir()
    for name in OPERATOR:
        shutil.copy2(host.run_dir / name, operator / name)
    shutil.copytree(host.run_dir / "secrets", operator / "secrets", copy_function=shutil.copy2)
    uuids = zip(host.spec.gpus, host.gpu_uuids, strict=True)
    spec = replace(host.spec, gpus=tuple(replace(gpu, uuid=uuid) for gpu, uuid in uuids))
    (folder / "spec.json").write_text(json.dumps(asdict(spec)))
    return SavedHost(folder)


def drop_without_image(key: str) -> None:
    """Forget a folder whose image the outer engine has lost, so that it is made anew."""
    folder = cache_dir() / "built" / f"{KIND}-{key}"
    with locked(folder.name):
        if folder.exists() and run(["docker", "image", "inspect", image_of(key)], check=False).rc != 0:
            shutil.rmtree(folder)


def forget_old() -> None:
    """Remove all but the KEPT hosts that were used last; what another process reads just now stays."""
    built = cache_dir() / "built"
    folders = sorted(built.glob(f"{KIND}-????????????????"), key=lambda path: path.stat().st_mtime)
    kept = {image_of(folder.name.removeprefix(f"{KIND}-")) for folder in folders[-KEPT:]}
    repository = image_of("").removesuffix(":")
    for image in run(["docker", "images", "--format", "{{.Repository}}:{{.Tag}}", repository]).stdout.split():
        key = image.rpartition(":")[2]
        folder = built / f"{KIND}-{key.removesuffix('-draft')}"  # who makes it from a draft holds its lock
        with _unless_locked(folder.name) as free:
            # The engine refuses while there is a host of that image.
            gone = free and image not in kept and run(["docker", "image", "rm", image], check=False).rc == 0
            if gone and not key.endswith("-draft"):
                shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _unless_locked(name: str) -> Iterator[bool]:
    with (cache_dir() / "locks" / name).open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def _mountpoint(volume: str) -> Path:
    return Path(run(["docker", "volume", "inspect", "-f", "{{.Mountpoint}}", volume]).stdout.strip())


def _copy(source: Path, target: Path) -> None:
    """All of a folder: owners, times, hard links, extended attributes, and overlayfs's whiteouts (device nodes)."""
    run(["cp", "--archive", "--reflink=auto", f"{source}/.", target])

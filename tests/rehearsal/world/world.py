"""A world: hosts on a network of their own, and stand-ins under the real names for all that they talk to."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import cached_property
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from ..standins.docker_apt import docker_repository
from ..standins.front import NAMES
from ..standins.hub import HubStore
from ..standins.misbehaviour import MODES, Order, Orders
from ..standins.nvidia_apt import nvidia_repository
from ..standins.registry import RegistryStore, layer_of
from .cache import cache_dir
from .freshhost import FreshHost, HostSpec, SudoMode, free_port
from .gpus import Gpu
from .images import CA_BUNDLE, busybox_layer, host_image, rootfs
from .machine import PROJECT
from .mirrors import debian_mirror, pip_indexes, public_debian, public_pypi
from .network import LABEL, Network, make_network, start_dns
from .pki import certificate_authority, server_certificate, signing_key
from .run import Completed, RunError, run, wait_for
from .saved import SavedHost
from .snapshot import diff_snapshots

__all__ = ["Gpu", "World", "clean", "diff_snapshots"]

PYTHON_IMAGE = "python:3.12.11-slim-bookworm"
BUSYBOX_IMAGE = "busybox:1.36.1"
PYTHON_CONFIG = {
    "Env": [
        "PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG=C.UTF-8",
        "PYTHON_VERSION=3.11.2",  # what the stand-in has, in the words of the real image
        f"SSL_CERT_FILE={CA_BUNDLE}",
        f"PIP_CERT={CA_BUNDLE}",
        f"REQUESTS_CA_BUNDLE={CA_BUNDLE}",
        "PIP_ROOT_USER_ACTION=ignore",
    ],
    "Cmd": ["python3"],
}
STANDINS = sorted({*NAMES.values(), "debian", "pypi"})
OPERATOR = """#!/bin/sh
# Runs a command on this machine as an operator inside the world would: its names, its CA.
export SSL_CERT_FILE={bundle} REQUESTS_CA_BUNDLE={bundle} CURL_CA_BUNDLE={bundle}
export GIT_SSL_CAINFO={bundle} PIP_CERT={bundle}
exec unshare --mount sh -c 'mount --bind {hosts} /etc/hosts && exec "$@"' sh "$@"
"""
REGISTRY_CONFIG = """version: 0.1
log: {{level: error}}
storage:
  filesystem: {{rootdirectory: {root}}}
  maintenance: {{readonly: {{enabled: true}}}}
http: {{addr: "127.0.0.1:{port}"}}
"""


class World:
    """Network, names, stand-ins and hosts; everything goes when it ends, unless `keep`.

    `run_dir` holds all of its state, so a kept world goes on without this process (see World.attach).
    """

    def __init__(self, run_dir: Path, keep: bool = False, suites: tuple[str, ...] = ("trixie",)) -> None:
        self.run_dir = Path(run_dir).resolve()
        self.keep = keep
        self.suites = suites
        self.id = secrets.token_hex(3)
        self.timings: dict[str, float] = {}
        self.data_overrides: dict[str, object] = {}
        self.hosts: dict[str, FreshHost] = {}
        self.network: Network | None = None
        self._pids: list[int] = []
        self._numbers = count()

    # -- places -------------------------------------------------------------------------------------------

    @property
    def git_root(self) -> Path:
        """Bare repositories: <owner>/<repo>.git."""
        return self.run_dir / "git"

    @property
    def hub_root(self) -> Path:
        """The hub's data; use hub_add()."""
        return self.run_dir / "hub"

    @property
    def torch_wheels(self) -> Path:
        """Wheels that download.pytorch.org serves under /whl/ and /whl/<variant>/ (a sub-folder, if there is one)."""
        return self.run_dir / "torch"

    @property
    def ca_certificate(self) -> Path:
        """The test CA that fresh hosts trust."""
        return certificate_authority() / "ca.crt"

    @property
    def operator_command(self) -> Path:
        """A program: `operator_command CMD ARG...` runs CMD on this machine with the world's names and CA."""
        return self.run_dir / "operator"

    @cached_property
    def names(self) -> dict[str, str]:
        """Every name that exists in the world -> the stand-in that answers to it."""
        debian = {urlsplit(url).hostname or "": "debian" for url in (public_debian().main, public_debian().security)}
        return {**debian, public_pypi().name: "pypi", public_pypi().files_name: "pypi", **NAMES}

    # -- life ---------------------------------------------------------------------------------------------

    def __enter__(self) -> World:
        try:
            return self.start()
        except BaseException:
            self.keep = False
            self.stop()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.keep:
            self.stop()

    def start(self) -> World:
        """Build what is not cached, then start network, DNS, registry and front."""
        for name in ("requests", "git", "hub", "torch", "hosts", "registry"):
            (self.run_dir / name).mkdir(parents=True, exist_ok=True)
        with self._timed("prepare (all builds)"):
            trees = self._build_all()
        with self._timed("start world"):
            self.network = make_network(self.id)
            (self.run_dir / "resolv.conf").write_text(f"nameserver {self.network.gateway}\n")
            self._remember()
            self._pids.append(start_dns(self.network, [*self.names], self.run_dir))
            self._start_front(trees, self._start_registry())
            self._write_operator()
            self._remember()
        return self

    def stop(self) -> None:
        """Remove hosts, processes, network and the world's folders of stand-in data."""
        for host in self.hosts.values():
            host.destroy()
        for pid in self._pids:
            _end(pid, self.run_dir, self.network)
        _remove_containers(self.id)
        if self.network:
            self.network.remove()
        for name in ("git", "hub", "torch", "registry", "hosts"):
            shutil.rmtree(self.run_dir / name, ignore_errors=True)
        self._note.unlink(missing_ok=True)

    def _build_all(self) -> dict[str, Path]:
        with ThreadPoolExecutor(max(2, os.cpu_count() or 2)) as pool:
            images = [pool.submit(host_image, suite, self.timings) for suite in self.suites]
            python = pool.submit(rootfs, "python", "bookworm", self.timings)
            docker = pool.submit(docker_repository, self.timings)
            nvidia = pool.submit(nvidia_repository, self.timings)
            busybox = pool.submit(busybox_layer, self.timings)
            for image in images:
                image.result()
            self.python_layer, self.busybox_layer = python.result(), busybox.result()
            return {"docker_apt": docker.result(), "nvidia_apt": nvidia.result()}

    def _start_registry(self) -> int:
        """docker-registry on a port of 127.0.0.1, with the two base images in its store."""
        self.registry_add(PYTHON_IMAGE, [self.python_layer], PYTHON_CONFIG)
        self.registry_add(BUSYBOX_IMAGE, [self.busybox_layer], {"Cmd": ["sh"], "Env": ["PATH=/bin"]})
        port = free_port()
        config = self.run_dir / "registry.yml"
        config.write_text(REGISTRY_CONFIG.format(root=self.run_dir / "registry", port=port))
        self._spawn(["docker-registry", "serve", str(config)], "registry.log")
        return port

    def _start_front(self, trees: dict[str, Path], registry_port: int) -> None:
        assert self.network
        certificate, mirror = server_certificate([*self.names]), debian_mirror()
        public = public_debian()
        config = {
            "run_dir": str(self.run_dir),
            "address": self.network.gateway,
            "chain": str(certificate.chain),
            "key": str(certificate.key),
            "names": self.names,
            "debian_archives": {_path(public.main): mirror.main, _path(public.security): mirror.security},
            "pip_indexes": pip_indexes(),
            "pip_files_name": public_pypi().files_name,
            "proxy_cache": str(cache_dir() / "proxy"),
            "registry_port": registry_port,
            "git_root": str(self.git_root),
            "hub_root": str(self.hub_root),
            "torch_wheels": str(self.torch_wheels),
            **{name: str(path) for name, path in trees.items()},
        }
        path = self.run_dir / "front.json"
        path.write_text(json.dumps(config, indent=1))
        self._spawn([sys.executable, "-m", "tests.rehearsal.standins.front", str(path)], "front.log")
        wait_for((self.run_dir / "front.ready").exists, f"the front (see {self.run_dir}/front.log)", 20)

    def _write_operator(self) -> None:
        """The script behind operator(): this machine with the world's names and CA, for one command."""
        assert self.network
        names = "".join(f"{self.network.gateway} {name}\n" for name in self.names)
        (self.run_dir / "operator.hosts").write_text(Path("/etc/hosts").read_text() + names)
        system = Path(CA_BUNDLE).read_text() if Path(CA_BUNDLE).exists() else ""
        (self.run_dir / "operator.ca").write_text(system + self.ca_certificate.read_text())
        script = OPERATOR.format(hosts=self.run_dir / "operator.hosts", bundle=self.run_dir / "operator.ca")
        self.operator_command.write_text(script)
        self.operator_command.chmod(0o755)

    def _spawn(self, command: list[str], log: str) -> None:
        with (self.run_dir / log).open("ab") as out:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=PROJECT, start_new_session=True
            )
        self._pids.append(process.pid)

    # -- hosts --------------------------------------------------------------------------------------------

    def boot(
        self,
        name: str = "ws1",
        suite: str = "trixie",
        gpus: list[Gpu] | None = None,
        sudo: SudoMode = "nopasswd",
        os_release: str | None = None,
        data_tmpfs_mib: int | None = None,
    ) -> FreshHost:
        """Boot a fresh host and wait until it is ready.

        `gpus` None: one RTX 3090. `os_release`: "alpine", "fedora", "debian-11" or a whole file's text.
        `data_tmpfs_mib`: the size of a tmpfs at /srv, to rehearse a full disk.
        """
        chosen = [Gpu("NVIDIA GeForce RTX 3090", 24576)] if gpus is None else gpus
        spec = HostSpec(name, suite, tuple(chosen), sudo, os_release, data_tmpfs_mib)
        host = self._new_host(spec, host_image(suite, self.timings))
        with self._timed(f"{name} boot"):
            host.first_boot()
        host.write_inventory(self.host_data())
        return host

    def restore(self, saved: SavedHost, name: str) -> FreshHost:
        """Boot a copy of a saved host under a name of its own and wait until it is ready."""
        host = self._new_host(replace(saved.spec, name=name), saved.image)
        with self._timed(f"{name} restore"):
            saved.fill(host)
            host.boot_restored()
        host.write_inventory(self.host_data())
        return host

    def destroy(self, host: FreshHost) -> None:
        """Remove a host and forget it."""
        host.destroy()
        self.hosts.pop(host.name, None)

    def _new_host(self, spec: HostSpec, image: str) -> FreshHost:
        assert self.network, "the world is not started"
        host = self._host(spec, image, self.network.address(next(self._numbers)), free_port())
        self._remember()
        return host

    def _host(self, spec: HostSpec, image: str, address: str, port: int) -> FreshHost:
        assert self.network
        run_dir, resolv = self.run_dir / "hosts" / spec.name, self.run_dir / "resolv.conf"
        host = FreshHost(spec, self.id, image, self.network, address, port, run_dir, resolv, self.timings)
        self.hosts[spec.name] = host
        return host

    def host_data(self) -> dict[str, object]:
        """What a site with mirrors of its own would override in the product's data."""
        fingerprints = {name: signing_key(name).fingerprint for name in ("docker", "nvidia")}
        return {"apt_key_fingerprints": fingerprints, **self.data_overrides}

    def operator(
        self,
        command: Sequence[str | Path],
        input: str | bytes | None = None,
        check: bool = False,
        env: dict[str, str] | None = None,
        cwd: Path = PROJECT,
        timeout_s: float = 1800,
    ) -> Completed:
        """Run the product on this machine as its operator: names lead to the stand-ins, `env` is added."""
        merged = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
        line = [self.operator_command, *command]
        return run(line, input=input, check=check, env=merged | (env or {}), cwd=cwd, timeout_s=timeout_s)

    # -- content of the stand-ins -------------------------------------------------------------------------

    def registry_add(self, name: str, layers: list[Path], config: dict[str, Any] | None = None) -> str:
        """Add the image `[repository/]name:tag` made of uncompressed layer tars; returns the manifest's digest.

        `config`: the image's run configuration (Env, Cmd, Entrypoint, ...). Works while hosts run.
        """
        return RegistryStore(self.run_dir / "registry").put_image(name, layers, config or {})

    def registry_add_on_python(
        self, name: str, files: dict[str, bytes | tuple[bytes, int]], config: dict[str, Any] | None = None
    ) -> str:
        """Add an image: the Python image with `files` (path -> content or (content, mode)) on top."""
        layer = self.run_dir / "registry" / f"layer-{secrets.token_hex(4)}.tar"
        merged = {**PYTHON_CONFIG, **(config or {})}
        if config and "Env" in config:
            merged["Env"] = [*PYTHON_CONFIG["Env"], *config["Env"]]
        return self.registry_add(name, [self.python_layer, layer_of(files, layer)], merged)

    def hub_add(self, repo: str, files: dict[str, bytes | Path], gated: bool = False, commit: str | None = None) -> str:
        """Add a commit with exactly `files` to a model repository of the hub; returns its 40 hex digits."""
        return HubStore(self.hub_root).add(repo, files, gated, commit)

    def hub_grant(self, token: str, repos: list[str]) -> None:
        """Make a hub token valid, with access to exactly these gated repositories."""
        HubStore(self.hub_root).grant(token, repos)

    def hub_grant_fine_grained(self, token: str) -> None:
        """Make a hub token valid that lacks the scope to read gated repositories."""
        HubStore(self.hub_root).grant_fine_grained(token)

    # -- behaviour ----------------------------------------------------------------------------------------

    @contextmanager
    def _restored(self, name: str) -> Iterator[None]:
        try:
            yield
        finally:
            self.behave(name)

    def misbehave(
        self, name: str, mode: str | int, match: str = "", times: int = 0, slow_bytes_per_s: int = 65536
    ) -> contextlib.AbstractContextManager[None]:
        """Let stand-in `name` misbehave from now on; as a context manager, until its end.

        `mode`: see MODES. `match`: regex on the path. `times`: only the first so many requests (0: all).
        """
        if name not in STANDINS or str(mode) not in MODES:
            raise ValueError(f"{name!r} {mode!r}: the stand-ins are {STANDINS}, the modes {MODES}")
        order = Order(str(mode), match, times, slow_bytes_per_s=slow_bytes_per_s)
        Orders(self.run_dir / "misbehave.json").give(name, order)
        return self._restored(name)

    def behave(self, name: str | None = None) -> None:
        """End the misbehaviour of one stand-in, or of all."""
        for each in [name] if name else STANDINS:
            Orders(self.run_dir / "misbehave.json").give(each, None)

    def requests(self, name: str) -> list[str]:
        """What a stand-in was asked, oldest first: "METHOD PATH STATUS BYTES"; STATUS "cut" for none."""
        log = self.run_dir / "requests" / f"{name}.log"
        return log.read_text().splitlines() if log.exists() else []

    def forget_requests(self) -> None:
        """Empty all request logs."""
        for log in (self.run_dir / "requests").glob("*.log"):
            log.write_text("")

    # -- notes about running worlds, for attach() and clean() --------------------------------------------------------

    @property
    def _note(self) -> Path:
        return cache_dir() / "worlds" / f"{self.id}.json"

    def _remember(self) -> None:
        assert self.network
        self._note.parent.mkdir(exist_ok=True)
        hosts = [
            {"spec": asdict(host.spec), "image": host.image, "address": host.address, "port": host.port}
            for host in self.hosts.values()
        ]
        note = {"run_dir": str(self.run_dir), "keep": self.keep, "owner": os.getpid(), "pids": self._pids}
        self._note.write_text(json.dumps({**note, "network": asdict(self.network), "hosts": hosts}))

    @contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self.timings[what] = round(time.monotonic() - started, 2)

    @classmethod
    def attach(cls, world_id: str) -> World:
        """A handle on a kept world and its hosts; boot no further host by it."""
        note = json.loads((cache_dir() / "worlds" / f"{world_id}.json").read_text())
        world = cls(Path(note["run_dir"]), keep=True)
        world.id, world.network, world._pids = world_id, Network(**note["network"]), note["pids"]
        for facts in note["hosts"]:
            gpus = tuple(Gpu(**{**gpu, "apps": tuple(map(tuple, gpu["apps"]))}) for gpu in facts["spec"].pop("gpus"))
            spec = HostSpec(**facts["spec"], gpus=gpus)
            world._host(spec, facts["image"], facts["address"], facts["port"])
        return world


def clean(world_id: str = "*", kept: bool = True) -> list[str]:
    """Remove one world, or all of them; returns their ids. Worlds in use stay, and kept ones unless `kept`."""
    removed = []
    for note in sorted((cache_dir() / "worlds").glob(f"{world_id}.json")):
        try:
            facts = json.loads(note.read_text())
        except FileNotFoundError:  # its session ended, and has removed it, since it was listed
            continue
        in_use = not kept if facts["keep"] else _alive(facts["owner"])
        if in_use:
            continue
        world = World.attach(note.stem)
        world.stop()
        removed.append(note.stem)
    return removed


def _remove_containers(world: str) -> None:
    filters = ["--filter", f"label={LABEL}={world}"]
    for container in run(["docker", "ps", "-aq", *filters]).stdout.split():
        run(["docker", "rm", "--force", container], check=False)
    for volume in run(["docker", "volume", "ls", "-q", "--filter", f"name=gpuhost-{world}-"]).stdout.split():
        run(["docker", "volume", "rm", "--force", volume], check=False)


def _path(url: str) -> str:
    return urlsplit(url).path.strip("/")


def _alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def _end(pid: int, run_dir: Path, network: Network | None) -> None:
    """End a process of ours: only when its command line names this world's folder or address."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        command = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
        if str(run_dir) not in command and not (network and network.gateway in command):
            return
        os.kill(pid, signal.SIGTERM)
        try:
            wait_for(lambda: _gone(pid), f"the end of process {pid}", 3)
        except RunError:
            os.kill(pid, signal.SIGKILL)


def _gone(pid: int) -> bool:
    """True when the process has ended; reaps it when it is our child."""
    with contextlib.suppress(ChildProcessError):
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    return not _alive(pid)

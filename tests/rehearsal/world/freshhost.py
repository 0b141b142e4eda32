"""A fresh Debian host with systemd and sshd, in a container of the outer engine."""

from __future__ import annotations

import io
import shlex
import shutil
import socket
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from .gpus import DATA_DIR, PROGRAM, Gpu, gpu_files
from .network import LABEL, Network
from .pki import ssh_key
from .run import Completed, run, wait_for
from .snapshot import parse_snapshot, snapshot_script, times_script

SudoMode = Literal["nopasswd", "password", "none"]
SUDO_PASSWORD = "rehearsal only"  # noqa: S105  (of a throw-away host)
BOOT_TIMEOUT_S = 90
# systemd in a container of engine 20.10 on a machine without CAP_SYS_RESOURCE (so no --privileged).
ENGINE_FLAGS = (
    *("--cap-add", "ALL", "--device-cgroup-rule", "a *:* rwm"),
    *("--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined"),
    *("--security-opt", "systempaths=unconfined", "--cgroupns", "private"),
    *("--tmpfs", "/run", "--tmpfs", "/run/lock", "--shm-size", "8g"),
    *("--stop-signal", "SIGRTMIN+3", "--stop-timeout", "90", "-e", "container=docker"),
)
INIT = 'for m in /sys /sys/fs/cgroup /sys/fs/cgroup/*; do mount -o remount,bind,rw "$m"; done; exec /sbin/init'
UNSUPPORTED = {
    "alpine": 'NAME="Alpine Linux"\nID=alpine\nVERSION_ID=3.22.1\nPRETTY_NAME="Alpine Linux v3.22"\n',
    "fedora": 'NAME="Fedora Linux"\nID=fedora\nVERSION_ID=43\nPRETTY_NAME="Fedora Linux 43"\n',
    "debian-11": 'NAME="Debian GNU/Linux"\nID=debian\nVERSION_ID="11"\nVERSION_CODENAME=bullseye\n'
    'PRETTY_NAME="Debian GNU/Linux 11 (bullseye)"\n',
}


@dataclass(frozen=True)
class HostSpec:
    """What to boot. `os_release`: a key of UNSUPPORTED or the text of another /etc/os-release."""

    name: str
    suite: str = "trixie"
    gpus: tuple[Gpu, ...] = ()
    sudo: SudoMode = "nopasswd"
    os_release: str | None = None
    data_tmpfs_mib: int | None = None


@dataclass
class FreshHost:
    """A booted host. `run_dir` holds its key, known_hosts, inventory.py and group_data/."""

    spec: HostSpec
    world: str
    image: str
    network: Network
    address: str
    port: int
    run_dir: Path
    resolv_conf: Path
    timings: dict[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Its host name."""
        return self.spec.name

    @property
    def container(self) -> str:
        """The outer engine's name of it."""
        return f"gpuhost-{self.world}-{self.name}"

    @property
    def key(self) -> Path:
        """The private key that `admin` accepts."""
        return self.run_dir / "id_ed25519"

    @property
    def known_hosts(self) -> Path:
        """The operator's known_hosts; a rebuilt host's new key gets there only by trust_new_key()."""
        return self.run_dir / "known_hosts"

    @property
    def inventory(self) -> Path:
        """The pyinfra inventory for this one host."""
        return self.run_dir / "inventory.py"

    @property
    def wrong_key(self) -> Path:
        """A private key that nobody accepts."""
        ssh_key(self.run_dir / "id_ed25519_wrong", "wrong")
        return self.run_dir / "id_ed25519_wrong"

    @property
    def sudo_password(self) -> str:
        """What sudo asks for when booted with sudo="password"."""
        return SUDO_PASSWORD

    @property
    def ssh_command(self) -> str:
        """A line to log in by hand."""
        return shlex.join(self._ssh(self.known_hosts))

    @property
    def gpu_uuids(self) -> list[str]:
        """The UUIDs of the GPUs that it was booted with or was given last."""
        return [gpu.identity(self.name, index) for index, gpu in enumerate(self.spec.gpus)]

    # -- life ---------------------------------------------------------------------------------------------

    @property
    def volumes(self) -> dict[str, str]:
        """The volumes of its own engine: the folder's name below /var/lib -> the outer engine's name of it."""
        return {"docker": self.container, "containerd": f"{self.container}-containerd"}

    def first_boot(self) -> None:
        """Make the host with new SSH host keys, start it and wait until it is ready."""
        self._create(self._first_files())
        self.wait_ready()
        if self.spec.sudo == "password":
            self.root("chpasswd", input=f"admin:{SUDO_PASSWORD}\n", check=True)

    def boot_restored(self) -> None:
        """Start it from an image of a host that ran before; volumes and the operator's files are there already."""
        self._note_host_key()
        self._create({})
        self.wait_ready()

    def _create(self, files: dict[str, tuple[bytes, int]]) -> None:
        name, tmpfs = self.container, self.spec.data_tmpfs_mib
        identity = ["--name", name, "--hostname", self.name, "--label", f"{LABEL}={self.world}"]
        network = ["--network", self.network.name, "--ip", self.address, "-p", f"127.0.0.1:{self.port}:22"]
        volumes = [part for folder, volume in self.volumes.items() for part in ("-v", f"{volume}:/var/lib/{folder}")]
        volumes += ["-v", f"{self.resolv_conf}:/etc/resolv.conf:ro"]
        volumes += ["--tmpfs", f"/srv:size={tmpfs}m,mode=0755,exec"] if tmpfs else []
        rest = [*identity, *ENGINE_FLAGS, *network, *volumes, self.image, "sh", "-c", INIT]
        # Engines differ where this machine lacks the capability: old ones must be told, new ones refuse to drop it.
        if run(["docker", "create", "--cap-drop", "SYS_RESOURCE", *rest], check=False).rc != 0:
            run(["docker", "create", *rest])
        if files:
            self._copy_in(files)
        run(["docker", "start", self.container])

    def wait_ready(self, timeout_s: float = BOOT_TIMEOUT_S) -> None:
        """Wait until systemd has finished booting and sshd answers `admin`."""
        wait_for(lambda: _greets(self.port), f"sshd of {self.name}", timeout_s, 0.05)
        wait_for(
            lambda: self.root("systemctl is-system-running --wait").stdout.strip() in ("running", "degraded"),
            f"systemd of {self.name}",
            timeout_s,
        )
        wait_for(lambda: self.ssh("true").rc == 0, f"login on {self.name}", timeout_s)

    def reboot(self) -> None:
        """A clean reboot: services stop in order, volatile file systems are empty afterwards."""
        started = time.monotonic()
        with self.shut_down():
            pass
        self.timings[f"{self.name} reboot"] = round(time.monotonic() - started, 2)

    @contextmanager
    def shut_down(self) -> Iterator[None]:
        """It is off while the block runs, after a clean shutdown."""
        run(["docker", "stop", self.container])
        yield
        self.power_on()

    def power_cut(self) -> None:
        """Every process of the host dies at once. (The page cache survives: unsynced writes are not lost.)"""
        run(["docker", "kill", self.container])

    def power_on(self) -> None:
        """Start after power_cut() and wait until ready."""
        run(["docker", "start", self.container])
        self.wait_ready()

    def rebuild(self) -> None:
        """Install the machine anew: same name, address and port, empty disks, new SSH host keys."""
        self.destroy(keep_files=True)
        self.first_boot()

    def destroy(self, keep_files: bool = False) -> None:
        """Remove container and volumes, and its folder unless `keep_files`."""
        self.network.mend(self.address)
        run(["docker", "rm", "--force", self.container], check=False)
        run(["docker", "volume", "rm", "--force", *self.volumes.values()], check=False)
        if not keep_files:
            shutil.rmtree(self.run_dir, ignore_errors=True)

    # -- hands --------------------------------------------------------------------------------------------

    def ssh(self, command: str, input: str | bytes | None = None, check: bool = False) -> Completed:
        """Run a shell command as `admin` over SSH."""
        return run([*self._ssh(self._own_known_hosts), command], input=input, check=check)

    def root(self, command: str, input: str | bytes | None = None, check: bool = False) -> Completed:
        """Run a shell command as root, past SSH (the outer engine's exec)."""
        return run(["docker", "exec", "-i", self.container, "sh", "-c", command], input=input, check=check)

    def snapshot(self) -> dict[str, Any]:
        """The host as snapshot.py describes it: JSON-able, to compare by diff_snapshots()."""
        started = time.monotonic()
        seen = parse_snapshot(self.root("sh -s", input=snapshot_script(), check=True).stdout)
        self.timings[f"{self.name} snapshot"] = round(time.monotonic() - started, 2)
        return seen

    def times(self) -> str:
        """When each of its files was last touched, to compare by written()."""
        return self.root("sh -s", input=times_script()).stdout

    def packet_filter(self) -> str:
        """The kernel's rules, Docker's and ours, without what they count; "" on a host that has no program for them."""
        return self.root("! command -v nft >/dev/null || nft -s list ruleset", check=True).stdout

    def set_gpus(self, gpus: list[Gpu]) -> None:
        """Replace the GPUs while the host runs; none removes nvidia-smi too. The CDI specification follows."""
        self.spec = replace(self.spec, gpus=tuple(gpus))
        files = gpu_files(self.name, gpus)
        if files:
            self._copy_in(files)
        kept = " ".join(f"! -path {path}" for path in files)
        self.root(f"find {DATA_DIR} -type f {kept} -delete" if files else f"rm -rf {DATA_DIR} {PROGRAM}", check=True)
        unit = "nvidia-cdi-refresh.service"
        # Without a card it fails, as the real one does, and leaves the specification of before.
        self.root(f"if [ -e /usr/lib/systemd/system/{unit} ]; then systemctl start {unit}; fi", check=bool(files))

    def break_driver(self, broken: bool = True) -> None:
        """Let nvidia-smi say that it cannot talk to the driver (exit 9), or mend it."""
        self.root(f"mkdir -p {DATA_DIR} && {'touch' if broken else 'rm -f'} {DATA_DIR}/broken", check=True)

    def occupy_port(self, port: int) -> None:
        """Let a foreign process listen on 0.0.0.0:`port`, until free_port() or a reboot."""
        unit = f"occupier-{port}"
        self.root(f"systemd-run --quiet --unit={unit} systemd-socket-activate -l 0.0.0.0:{port} /bin/cat", check=True)
        wait_for(lambda: self.root(f"ss -ltnH 'sport = {port}'").stdout, f"a listener on {port}", 10)

    def free_port(self, port: int) -> None:
        """End occupy_port()."""
        self.root(f"systemctl stop occupier-{port}", check=True)

    def route_subnet(self, subnet: str) -> None:
        """Let `subnet` be routed already, as by a VPN; until a reboot."""
        self.root(f"ip route add {subnet} via {self.network.gateway}", check=True)

    @contextmanager
    def network_cut(self, keep_ssh: bool = True) -> Iterator[None]:
        """No packet leaves host and containers for the stand-ins; SSH from here goes on with `keep_ssh`."""
        self.network.cut(self.address, keep_ssh)
        try:
            yield
        finally:
            self.network.mend(self.address)

    def trust_new_key(self) -> None:
        """Take the host's present key into the operator's known_hosts."""
        shutil.copyfile(self._own_known_hosts, self.known_hosts)

    # -- files on this side -------------------------------------------------------------------------------

    def write_inventory(self, data: dict[str, object]) -> None:
        """Write inventory.py and group_data/all.py (`data`: names of the product's data -> values)."""
        host = {
            "ssh_hostname": "127.0.0.1",
            "ssh_port": self.port,
            "ssh_user": "admin",
            "ssh_key": str(self.key),
            "ssh_known_hosts_file": str(self.known_hosts),
            "_sudo": True,
            "secrets_dir": str(self.run_dir / "secrets"),
        }
        self.inventory.write_text(f"hosts = [({self.name!r}, {host!r})]\n")
        folder = self.run_dir / "group_data"
        folder.mkdir(exist_ok=True)
        (folder / "all.py").write_text("".join(f"{name} = {value!r}\n" for name, value in data.items()))

    @property
    def _own_known_hosts(self) -> Path:
        return self.run_dir / "known_hosts.harness"

    def _ssh(self, known_hosts: Path) -> list[str]:
        options = {
            "UserKnownHostsFile": known_hosts,
            "StrictHostKeyChecking": "yes",
            "IdentitiesOnly": "yes",
            "BatchMode": "yes",
            "LogLevel": "ERROR",
            "ConnectTimeout": "10",
        }
        flags = [part for name, value in options.items() for part in ("-o", f"{name}={value}")]
        return ["ssh", "-F", "/dev/null", *flags, "-i", str(self.key), "-p", str(self.port), "admin@127.0.0.1"]

    def _first_files(self) -> dict[str, tuple[bytes, int]]:
        """What an installer would have left: the key, sudo, SSH host keys, and the stand-in GPUs."""
        self.run_dir.mkdir(parents=True, exist_ok=True)
        public = ssh_key(self.key, "operator")
        for old in (self._host_key, self._host_key.with_suffix(".pub")):
            old.unlink(missing_ok=True)
        host_public = self._note_host_key()
        files = {
            "/home/admin/.ssh/authorized_keys": (public.encode() + b"\n", 0o600),
            "/etc/ssh/ssh_host_ed25519_key": (self._host_key.read_bytes(), 0o600),
            "/etc/ssh/ssh_host_ed25519_key.pub": (host_public.encode() + b"\n", 0o644),
            **gpu_files(self.name, list(self.spec.gpus)),
        }
        if self.spec.sudo == "nopasswd":
            files["/etc/sudoers.d/admin"] = (b"admin ALL=(ALL:ALL) NOPASSWD: ALL\n", 0o440)
        elif self.spec.sudo == "password":
            files["/etc/sudoers.d/admin"] = (b"admin ALL=(ALL:ALL) ALL\n", 0o440)
        if self.spec.os_release:
            text = UNSUPPORTED.get(self.spec.os_release, self.spec.os_release)
            files["/usr/lib/os-release"] = (text.encode(), 0o644)
        return files

    @property
    def _host_key(self) -> Path:
        return self.run_dir / "ssh_host_ed25519_key"

    def _note_host_key(self) -> str:
        """Make the SSH host key unless it is there; what logs in from here knows it. The public key's line."""
        public = ssh_key(self._host_key, f"root@{self.name}")
        kind, value = public.split()[:2]
        self._own_known_hosts.write_text(f"[127.0.0.1]:{self.port} {kind} {value}\n")
        if not self.known_hosts.exists():
            self.trust_new_key()
        return public

    def _copy_in(self, files: dict[str, tuple[bytes, int]]) -> None:
        """Put files into the container, running or not; below /home/admin they belong to admin (uid 1000)."""
        blob = io.BytesIO()
        with tarfile.open(fileobj=blob, mode="w") as tar:
            for folder, mode in (("home/admin/.ssh", 0o700), (DATA_DIR.lstrip("/"), 0o755)):
                if any(name.startswith(f"/{folder}/") for name in files):
                    tar.addfile(_entry(folder, mode, None))
            for name, (content, mode) in files.items():
                tar.addfile(_entry(name.lstrip("/"), mode, len(content)), io.BytesIO(content))
        run(["docker", "cp", "--archive", "-", f"{self.container}:/"], input=blob.getvalue())


def _entry(name: str, mode: int, size: int | None) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.mode, info.mtime = mode, int(time.time())
    info.type = tarfile.DIRTYPE if size is None else tarfile.REGTYPE
    info.size = size or 0
    if name.startswith("home/admin"):
        info.uid = info.gid = 1000
    return info


def _greets(port: int) -> bool:
    """True when an SSH server answers (the outer engine's proxy accepts before one listens)."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as link:
            return link.recv(4) == b"SSH-"
    except OSError:
        return False


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

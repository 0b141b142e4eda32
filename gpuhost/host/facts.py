"""What preflight must know of a host, read in one round trip with nothing but POSIX sh.

The script prints lines of `key<TAB>value...`; the parsing is pure and tested without a host.
"""

from __future__ import annotations

import ipaddress
import json
import re
import shlex
from base64 import b64decode
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from gpuhost.gpu import facts as gpu
from gpuhost.gpu.facts import Gpu as Gpu
from gpuhost.host import measures
from gpuhost.host.measures import Measure
from gpuhost.plan.spec import parse as parse_spec
from gpuhost.run.fact import HostFact
from hostside import labels

DOCKER_ROOT = "/var/lib/docker"  # unless dockerd says otherwise
# Of a Docker network: its bridge's name, and whether Docker translates the addresses of what leaves it.
BRIDGE_OPTION = "com.docker.network.bridge.name"
MASQUERADE_OPTION = "com.docker.network.bridge.enable_ip_masquerade"

_SCRIPT = r"""
LC_ALL=C; export LC_ALL; t="$(printf '\t')"; info=
driver() {
@DRIVER@
}
cards() {
@CARDS@
}
exec 3>&1
failed() { timeout 30 docker version >/dev/null 2>&1 || printf 'docker_silent\tyes\n' >&3; }
containers() {
# What a container is bound to, not what it publishes now: between two restarts that is nothing.
# The first question has a limit: a dockerd that hangs takes it, and never answers.
{ timeout 30 docker ps -aq || failed; } | {
  xargs -r docker inspect --format "container$t{{.Name}}$t{{.State.Status}}$t{{
    .HostConfig.RestartPolicy.Name}}$t{{json (index .Config.Labels \"gpuhost.service\")}}$t{{
    json (index .Config.Labels \"com.docker.compose.oneoff\")}}$t{{
    range .HostConfig.PortBindings}}{{range .}}{{.HostPort}} {{end}}{{end}}$t{{
    range .HostConfig.DeviceRequests}}{{range .DeviceIDs}}{{.}} {{end}}{{end}}$t{{json .Config.Image}}$t{{
    json (index .Config.Labels \"gpuhost.spec\")}}$t{{.HostConfig.AutoRemove}}$t{{.Id}}" 2>/dev/null || failed
}
}
memory() { awk -v OFS="$t" '$1=="MemTotal:"{print "memory_kib",$2}' /proc/meminfo; }
host() {
sed "s/^/os$t/" /etc/os-release
printf 'arch\t%s\n' "$(uname -m)"
printf 'init\t%s\n' "$(cat /proc/1/comm)"
printf 'cpus\t%s\n' "$(getconf _NPROCESSORS_ONLN)"
grep -qi microsoft /proc/version && printf 'wsl\tyes\n'
memory
awk -v OFS="$t" '{print "mount",$2}' /proc/self/mounts
cat /proc/net/tcp /proc/net/tcp6 2>/dev/null | awk -v OFS="$t" '$4=="0A"{print "listen",$2}'
if command -v ss >/dev/null 2>&1; then ss -ltnpH 2>/dev/null | awk -v OFS="$t" '{print "listener",$4,$6}'; fi
awk -v OFS="$t" 'NR>1{print "route",$1,$2,$8}' /proc/net/route
json=/etc/docker/daemon.json  # itself, also while a restart of ours lends dockerd a copy (engine/facts.py)
[ ! -e $json.gpuhost-own ] || json=$json.gpuhost-own
if [ -L $json ] || [ -e $json ]; then
  printf 'daemon_json_kind\t%s\t%s\n' "$(stat -c %F $json)" "$(readlink $json)"
  # What lies elsewhere is read, too: dockerd reads it.
  text="$(head -c 1048576 $json 2>/dev/null | base64 -w0)"
  if [ -f $json ] && head -c 1 $json >/dev/null 2>&1; then printf 'daemon_json\t%s\n' "$text"; fi
fi
[ ! -f @ENGINESTAMP@ ] || printf 'engine_written\t%s\n' "$(head -c 1048576 @ENGINESTAMP@ | base64 -w0)"
# Docker Desktop lends its engine to a distribution of WSL2 by these links.
case "$(readlink -f "$(command -v docker || true)" /run/docker.sock 2>/dev/null)" in
  */docker-desktop/*) printf 'docker_desktop\tyes\n';;
esac
# Asked only when it runs: docker.socket would start it, and a plan starts nothing. It may die between two questions.
if ! command -v docker >/dev/null 2>&1; then :
elif systemctl is-active --quiet docker 2>/dev/null &&
  version="$(timeout 30 docker version --format '{{.Server.Version}}' 2>/dev/null)"
then
  printf 'docker_version\t%s\n' "$version"
  info="$(timeout 30 docker info --format "{{.LiveRestoreEnabled}}$t{{.Swarm.LocalNodeState}}$t{{.DockerRootDir}}")" &&
    printf 'docker_info\t%s\n' "$info" || failed
  { docker network ls -q || failed; } | {
    xargs -r docker network inspect --format "docker_network$t{{.Name}}$t{{
      range .IPAM.Config}}{{.Subnet}} {{end}}$t{{json .Options}}" || failed
  }
  containers
elif [ -n "$(ls -A /var/lib/docker/containers 2>/dev/null)" ]; then printf 'docker_silent\tyes\n'
fi
docker_root="${info##*$t}"
for root in @ROOTS@ "${docker_root:-@DOCKERROOT@}"; do
  at="$root"; while [ ! -d "$at" ]; do at="$(dirname "$at")"; done
  df -Pk "$at" | awk -v OFS="$t" -v r="$root" 'NR==2{print "disk_kib",r,$4,$1" "$6}'
done
[ ! -f @MEASURES@ ] || tail -c 65536 @MEASURES@ | sed "s/^/measure$t/"
for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources; do
  case "$file" in */gpuhost-*) continue;; esac
  [ -f "$file" ] || continue
  # Of a deb822 file the stanzas that are not switched off; a file of one-line sources is one stanza.
  active="$(awk -v RS= -v ORS='\n\n' 'tolower($0) !~ /(^|\n)enabled:[ \t]*(no|false|0)[ \t]*(\n|$)/' "$file" |
    grep -v '^[[:space:]]*#')"
  printf '%s\n' "$active" | grep -oE 'https?://[^][:space:]]+' | sed "s|^|apt_source$t$file$t|"
  if printf '%s\n' "$active" | grep -iE '^[[:space:]]*(deb|deb-src|uris:)[[:space:]]' | grep -vqE 'https?://'; then
    printf 'apt_source\t%s\tother\n' "$file"
  fi
done
getent passwd @USERS@ | awk -F: -v OFS="$t" '{print "user",$1,$3}'
getent group @GROUPS@ | awk -F: -v OFS="$t" '{print "group",$1,$3}'
# The folders above ours, as they are called and where links lead to.
set --
for root in @OURS@; do
  for at in "$root" "$(realpath -m "$root")"; do
    while [ -n "$at" ]; do at="${at%/*}"; set -- "$@" "${at:-/}"; done
  done
done
stat -c "above$t%F$t%a$t%u$t%g$t%n" "$@" 2>/dev/null | sort -u
dpkg-query -W -f '${db:Status-Abbrev}\t${Package}\n' docker.io docker-ce 2>/dev/null |
  awk -F"$t" -v OFS="$t" 'substr($1,2,1)=="i"{print "engine",$2}'
}
gpus() { driver; cards; }
brief() {
memory
if command -v docker >/dev/null 2>&1 && systemctl is-active --quiet docker 2>/dev/null; then containers; fi
}
# nvidia-smi takes a second or two where nothing holds the driver: the rest is read meanwhile.
@WHAT@
printf 'end\tend\n'
"""


_WHOLE = "gpus </dev/null | { host </dev/null; cat; }"


@dataclass(frozen=True)
class HostContainer:
    """Any container on the host. `service`: of which service of ours it is, "" for a foreign one; `ports`: of the host,
    those it is bound to; `gpus`: UUIDs of its devices; `removed`: when it ends (`docker run --rm`)."""

    name: str
    state: str
    restart: str
    service: str
    ports: frozenset[int] = frozenset()
    gpus: tuple[str, ...] = ()
    removed: bool = False
    id: str = ""

    @property
    def lives(self) -> bool:
        """True while it holds its ports."""
        return self.state in ("running", "restarting", "paused")


@dataclass(frozen=True)
class FolderAbove:
    """A folder, or a link, on the way to ours. `mode`: octal."""

    path: str
    kind: str
    mode: str
    uid: int
    gid: int


@dataclass
class HostReading:
    """A host as preflight sees it. Sizes in KiB as the kernel gives them."""

    os: dict[str, str] = field(default_factory=dict)
    arch: str = ""
    init: str = ""
    wsl: bool = False
    cpus: int = 0
    memory_kib: int = 0
    disk_kib: dict[str, int] = field(default_factory=dict)  # folder -> free; one folder a file system
    file_systems: dict[str, str] = field(default_factory=dict)  # folder -> the one that it is on
    docker_root: str = DOCKER_ROOT  # where dockerd keeps images and containers
    measures: list[Measure] = field(default_factory=list)  # of what took long when it was last done
    mounts: set[str] = field(default_factory=set)
    listening: dict[int, str] = field(default_factory=dict)  # port -> process, "" when unknown
    routes: list[tuple[str, ipaddress.IPv4Network]] = field(default_factory=list)  # (interface, network)
    networks: dict[str, list[str]] = field(default_factory=dict)  # docker network -> subnets
    network_options: dict[str, dict[str, str]] = field(default_factory=dict)  # docker network -> its options
    containers: list[HostContainer] = field(default_factory=list)
    docker_version: str = ""  # of the engine that runs
    docker_silent: bool = False  # it has containers and does not answer
    docker_desktop: bool = False  # the Docker of this WSL2 distribution is Docker Desktop's
    live_restore: bool = False  # containers outlive the dockerd that runs
    swarm: bool = False
    engines: set[str] = field(default_factory=set)  # installed packages of Docker Engine: docker.io, docker-ce
    apt_sources: list[tuple[str, str]] = field(default_factory=list)  # (file, URL or `other`) of every source not ours
    daemon_json: str | None = None  # base64
    daemon_json_kind: tuple[str, str] | None = None  # what lies at its path in stat's words, where a link leads to
    engine_written: dict[str, Any] = field(default_factory=dict)  # what of it is gpuhost's work, where it lies in it
    users: dict[str, int] = field(default_factory=dict)  # name -> uid, of those that have an account's name or id
    groups: dict[str, int] = field(default_factory=dict)  # name -> gid, likewise
    above: list[FolderAbove] = field(default_factory=list)  # our folders, up to the root
    nvidia_pci: int = 0
    nvidia_error: str = ""  # nvidia-smi's own words when it fails, or names a card that does not work
    nvidia_module: str = ""  # version of the kernel module that is loaded
    nvidia_library: str = ""  # version of the driver's libraries; another one: the host was not rebooted since
    nouveau: bool = False  # the kernel's own driver has the card
    secure_boot: bool = False
    gpus: list[Gpu] = field(default_factory=list)

    def disk_of(self, folder: str) -> str:
        """The folder in `disk_kib` that is on the same file system; "" when nobody looked."""
        first = {self.file_systems[each]: each for each in self.disk_kib if each in self.file_systems}
        return first.get(self.file_systems.get(folder, ""), "")

    @property
    def published(self) -> set[int]:
        """The host ports that containers of ours hold."""
        return {port for each in self.containers if each.service and each.lives for port in each.ports}

    @property
    def placed(self) -> dict[str, tuple[str, ...]]:
        """service -> the GPUs that its container has; one of `docker compose run` has another name."""
        return {each.service: each.gpus for each in self.containers if each.gpus and each.name == each.service}

    @property
    def foreign_vram(self) -> dict[str, int]:
        """UUID of a GPU -> MiB that others than our containers hold: what a desktop and other programs say, and all
        that is taken where none of ours lives (a process of another account may say nothing)."""
        ours = {each.id for each in self.containers if each.service and each.id}
        used = {uuid for each in self.containers if each.service and each.lives for uuid in each.gpus}
        found = {}
        for each in self.gpus:
            said = sum(process.memory_mib for process in each.processes if process.container not in ours)
            found[each.uuid] = said if each.uuid in used else max(said, each.vram_mib - each.vram_free_mib)
        return found

    @property
    def os_id(self) -> str:
        """`debian`, `ubuntu`, ..."""
        return self.os.get("ID", "unknown")

    @property
    def os_version(self) -> str:
        """`13`, `24.04`, ..."""
        return self.os.get("VERSION_ID", "")

    @property
    def suite(self) -> str:
        """The code name under which apt repositories file this release."""
        return self.os.get("VERSION_CODENAME", "")

    @property
    def deb_arch(self) -> str:
        """dpkg's name of the architecture."""
        return {"x86_64": "amd64", "aarch64": "arm64"}.get(self.arch, self.arch)

    @property
    def url_marks(self) -> dict[str, str]:
        """What stands for the marks in the URLs of `apt_repositories`."""
        return {"os": self.os_id, "suite": self.suite, "arch": self.deb_arch}


def parse(lines: Iterable[str]) -> HostReading:
    """Read the script's lines. A line that does not parse is a defect here, not on the host."""
    reading = HostReading()
    for line in lines:
        key, *values = line.rstrip("\n").split("\t")
        _READERS.get(key, _ignore)(reading, values)
    return reading


def _ignore(reading: HostReading, values: list[str]) -> None:
    pass


def _os(reading: HostReading, values: list[str]) -> None:
    key, _, value = values[0].partition("=")
    reading.os[key] = "".join(shlex.split(value))


def _disk(reading: HostReading, values: list[str]) -> None:
    folder, free, file_system = values
    if file_system not in reading.file_systems.values():
        reading.disk_kib[folder] = int(free)
    reading.file_systems[folder] = file_system


def _listen(reading: HostReading, values: list[str]) -> None:
    reading.listening.setdefault(int(values[0].rsplit(":", 1)[1], 16), "")


def _listener(reading: HostReading, values: list[str]) -> None:
    process = re.search(r'\(\("([^"]+)",pid=(\d+)', values[1] if len(values) > 1 else "")
    if process:
        reading.listening[int(values[0].rsplit(":", 1)[1])] = f"{process[1]} (pid {process[2]})"


def _route(reading: HostReading, values: list[str]) -> None:
    interface, destination, mask = values
    address = ipaddress.IPv4Address(int.from_bytes(bytes.fromhex(destination), "little"))
    bits = bin(int(mask, 16)).count("1")
    if bits:
        reading.routes.append((interface, ipaddress.IPv4Network((address, bits), strict=False)))


def _network(reading: HostReading, values: list[str]) -> None:
    name, subnets, options = values
    reading.networks[name] = subnets.split()
    reading.network_options[name] = json.loads(options) or {}


def _docker_info(reading: HostReading, values: list[str]) -> None:
    live, swarm, reading.docker_root = values
    reading.live_restore = live == "true"
    reading.swarm = swarm not in ("inactive", "")


def _range(port: str) -> range:
    """`8000` or, as Docker keeps a range that it chooses from, `8000-8010`."""
    first, _, last = port.partition("-")
    return range(int(first), int(last or first) + 1)


def _container(reading: HostReading, values: list[str]) -> None:
    name, state, restart, service, one_off, ports, gpus, image, spec, removed, *identity = values
    name = name.removeprefix("/")
    uuids = tuple(each.removeprefix("nvidia.com/gpu=") for each in gpus.split())
    numbers = frozenset(number for port in ports.split() for number in _range(port))
    # What somebody made by `docker compose run` of a service of ours is his own; so is a copy of its container.
    ours = "" if json.loads(one_off) == "True" else json.loads(service) or ""
    if labels.is_copy(name, ours, json.loads(image), json.loads(spec)):
        ours = ""
    [known] = identity or [""]
    reading.containers.append(HostContainer(name, state, restart, ours, numbers, uuids, removed == "true", known))


def _engine_written(reading: HostReading, values: list[str]) -> None:
    reading.engine_written = parse_spec(b64decode(values[0]).decode(errors="replace")) or {}


def _gpu(reading: HostReading, values: list[str]) -> None:
    found = gpu.gpu(values[0])
    if isinstance(found, str):
        reading.nvidia_error = found
    else:
        reading.gpus.append(found)


def _above(reading: HostReading, values: list[str]) -> None:
    kind, mode, uid, gid, path = values
    reading.above.append(FolderAbove(path, kind, mode, int(uid), int(gid)))


_READERS: dict[str, Callable[[HostReading, list[str]], object]] = {
    "os": _os,
    "arch": lambda r, v: setattr(r, "arch", v[0]),
    "init": lambda r, v: setattr(r, "init", v[0]),
    "wsl": lambda r, v: setattr(r, "wsl", True),
    "cpus": lambda r, v: setattr(r, "cpus", int(v[0])),
    "memory_kib": lambda r, v: setattr(r, "memory_kib", int(v[0])),
    "disk_kib": _disk,
    "measure": lambda r, v: r.measures.extend(measures.parsed(["\t".join(v)])),
    "mount": lambda r, v: r.mounts.add(v[0]),
    "listen": _listen,
    "listener": _listener,
    "route": _route,
    "user": lambda r, v: r.users.update({v[0]: int(v[1])}),
    "above": _above,
    "group": lambda r, v: r.groups.update({v[0]: int(v[1])}),
    "daemon_json": lambda r, v: setattr(r, "daemon_json", v[0]),
    "daemon_json_kind": lambda r, v: setattr(r, "daemon_json_kind", (v[0], v[1])),
    "engine_written": _engine_written,
    "docker_desktop": lambda r, v: setattr(r, "docker_desktop", True),
    "docker_info": _docker_info,
    "docker_network": _network,
    "docker_version": lambda r, v: setattr(r, "docker_version", v[0]),
    "docker_silent": lambda r, v: setattr(r, "docker_silent", True),
    "engine": lambda r, v: r.engines.add(v[0]),
    "apt_source": lambda r, v: r.apt_sources.append((v[0], v[1])),
    "container": _container,
    "nvidia_pci": lambda r, v: setattr(r, "nvidia_pci", r.nvidia_pci + 1),
    "nvidia_error": lambda r, v: setattr(r, "nvidia_error", v[0]),
    "nvidia_module": lambda r, v: setattr(r, "nvidia_module", gpu.module_version(v[0])),
    "nvidia_library": lambda r, v: setattr(r, "nvidia_library", gpu.library_version(v[0])),
    "nouveau": lambda r, v: setattr(r, "nouveau", True),
    "secure_boot": lambda r, v: setattr(r, "secure_boot", True),
    "gpu": _gpu,
    "gpu_process": lambda r, v: setattr(r, "gpus", gpu.with_process(r.gpus, *v)),
}


class HostState(HostFact[HostReading]):
    """The reading of a host. `roots`: the folders whose free space counts, besides Docker's; `ours`: those in which our
    things lie; `accounts`: (name, uid, gid) of each of ours; `measured`: the file of measures; `engine_stamp`: that of
    what we wrote into daemon.json; `brief`: only what decides which service runs where, its memory, GPUs and
    containers, for `gpuhost status` is to take a second."""

    def command(
        self,
        roots: list[str],
        ours: list[str],
        accounts: list[tuple[str, int, int]],
        measured: str,
        engine_stamp: str,
        brief: bool = False,
    ) -> str:
        """The script, with these quoted into it."""
        marks = {"ROOTS": shlex.join(roots), "OURS": shlex.join(ours), "DRIVER": gpu.DRIVER, "CARDS": gpu.CARDS}
        marks["WHAT"] = "cards </dev/null | { brief </dev/null; cat; }" if brief else _WHOLE
        marks |= {"DOCKERROOT": DOCKER_ROOT, "MEASURES": shlex.quote(measured)}
        marks["ENGINESTAMP"] = shlex.quote(engine_stamp)
        marks["USERS"] = shlex.join(text for name, uid, _ in accounts for text in (name, str(uid)))
        marks["GROUPS"] = shlex.join(text for name, _, gid in accounts for text in (name, str(gid)))
        return re.sub("@([A-Z]+)@", lambda found: marks[found[1]], _SCRIPT)

    @staticmethod
    def default() -> HostReading:
        """An unread host."""
        return HostReading()

    def read(self, output: list[str]) -> HostReading:
        """Parse the script's lines."""
        return parse(output)

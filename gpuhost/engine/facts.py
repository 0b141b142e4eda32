"""Docker as it is: the engine, images, networks and our containers. Labels and states only, never an environment."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

from pyinfra.api.state import StateStage
from pyinfra.context import ctx_state, host, state

from gpuhost.engine import containers
from gpuhost.engine.containers import Container
from gpuhost.errors import Problem, UserError
from gpuhost.host.paths import STACKS_LOCK
from gpuhost.run.fact import HostFact
from gpuhost.run.session import only
from hostside.protocol.verify import Held

Part = Literal["images", "networks", "containers", "states"]

_IMAGE = '{"tags":{{json .RepoTags}},"spec":{{json (index .Config.Labels "gpuhost.spec")}}}'
_NETWORK = (
    '{"name":{{json .Name}},"subnets":[{{range $i, $c := .IPAM.Config}}{{if $i}},{{end}}{{json $c.Subnet}}{{end}}]}'
)

# The file itself, while a restart of ours lets dockerd read a copy of it with live-restore.
OWN = "/etc/docker/daemon.json.gpuhost-own"
RAN = "/run/gpuhost/ran-before-restart"  # ids of containers, while a restart of dockerd of ours goes on

# A run that was killed leaves its last command behind, which works on for a moment: its end is awaited. What vanishes
# between its listing and its inspection is left out: `docker inspect` fails then, as it does when dockerd has died.
_BEGIN = r"""
exec 3>&1
failed() { timeout 30 docker version >/dev/null 2>&1 || printf 'died\n' >&3; }
[ ! -e @LOCK@ ] || flock --shared --wait 60 @LOCK@ true || true
command -v docker >/dev/null 2>&1 || { printf 'absent\n'; exit 0; }
"""
_ENGINE = r"""
if systemctl is-active --quiet docker; then printf 'active\n'; fi
printf 'at_boot\t%s\n' "$(systemctl is-enabled docker 2>/dev/null)"
json=/etc/docker/daemon.json; [ ! -e @OWN@ ] || json=@OWN@
if [ -e $json ]; then
  printf 'config\t%s\n' "$(base64 -w0 < $json)"
  printf 'config_owner\t%s\n' "$(stat -L -c '%a %U %G' $json)"
fi
if [ -e /run/docker.pid ] && [ -n "$(find /etc/docker/daemon.json -newer /run/docker.pid 2>/dev/null)" ]; then
  printf 'stale\n'
fi
{ [ ! -e @RAN@ ] && [ ! -e @OWN@ ]; } || printf 'cut_off\n'
"""
_VERSION = r"""
# Asked only when it runs: docker.socket would start it, and a plan starts nothing.
systemctl is-active --quiet docker 2>/dev/null &&
  version="$(timeout 30 docker version --format '{{.Server.Version}}' 2>/dev/null)" || { printf 'end\n'; exit 0; }
printf 'now\t%s\nversion\t%s\n' "$(date +%s.%N)" "$version"
"""
# Each call of `docker` is a program started: what is not asked for is not read.
_PARTS: dict[Part, str] = {
    "images": r"""
{ docker image ls --filter label=gpuhost.image --format '{{.ID}}' || failed; } | sort -u |
  { xargs -r docker image inspect --format '@IMAGE@' 2>/dev/null || failed; } | sed -n '/./s/^/image\t/p'
{ docker image ls --digests --format '{{.Repository}}:{{.Tag}} {{.Repository}}@{{.Digest}}' || failed; } |
  tr ' ' '\n' | sed 's/^/tag\t/'
""",
    "networks": r"""
{ docker network ls -q || failed; } |
  { xargs -r docker network inspect --format '@NETWORK@' 2>/dev/null || failed; } | sed -n '/./s/^/network\t/p'
""",
    "containers": r"""
seen="$({ docker ps -aq --no-trunc --filter label=gpuhost.service || failed; } | sort |
  { xargs -r docker inspect --format 'container{{"\t"}}@CONTAINER@@BINDS@@GIVENGPUS@{{"\n"}}made_of{{"\t"}}{{.Image}}' \
    2>/dev/null || failed; })"
printf '%s\n' "$seen" | sed '/./!d; /^made_of/d; /^gpus/d'
printf '%s\n' "$seen" | sed -n 's/^made_of\t//p' | sort -u |
  { xargs -r docker image inspect --format '@IMAGECONFIG@' 2>/dev/null || failed; } | sed -n '/./s/^/of_image\t/p'
# What a container has, by its process's view of its files; nothing is opened.
printf '%s\n' "$seen" | awk -F'\t' '$1 == "bind" && $3 > 0 { print $4; print "/proc/" $3 "/root" $5 }' | sort -u |
  xargs -r -d '\n' stat -L --printf 'inode\t%d:%i\t%n\n' 2>/dev/null
# Whether it may still reach its GPUs: the host's own device file is opened by a process in its cgroup. One that the
# nvidia runtime gave them loses them when systemd is reloaded (NVIDIA/nvidia-container-toolkit#48).
node=/dev/nvidiactl; [ -c $node ] || node=/dev/dxg
[ ! -c $node ] || printf '%s\n' "$seen" | sed -n 's/^gpus\t//p' | while read -r id pid; do
  group="$(sed -n 's,^[0-9]*:devices:,/devices,p' "/proc/$pid/cgroup" 2>/dev/null)"
  [ -n "$group" ] || group="$(sed -n 's/^0:://p' "/proc/$pid/cgroup" 2>/dev/null)"
  why="$(LC_ALL=C timeout -s KILL 10 sh -c 'echo $$ > "$1" && exec 3< "$2"' - \
    "/sys/fs/cgroup$group/cgroup.procs" $node 2>&1 </dev/null)" || true
  case "$why" in *"$node: Operation not permitted"*) printf 'gpus_denied\t%s\n' "$id";; esac
done
""",
    # The containers, and nothing of what they have of the host and of their images.
    "states": r"""
{ docker ps -aq --no-trunc --filter label=gpuhost.service || failed; } | sort |
  { xargs -r docker inspect --format 'container{{"\t"}}@CONTAINER@' 2>/dev/null || failed; } | sed '/./!d'
""",
}
_WHOLE: tuple[Part, ...] = ("images", "networks", "containers")


class Bind(NamedTuple):
    """What a container has of the host: `pid` is its process, 0 when it does not run."""

    container: str
    pid: int
    source: str
    target: str


@dataclass
class DockerReading:
    """The engine and what it holds, as far as it was asked for.

    `at_boot`: whether systemd starts it then, in its words; `config`: daemon.json parsed, None when there is none;
    `config_owner`: its mode, user and group; `stale`: written after dockerd last started; `cut_off`: a
    restart of ours did not come to its end; `images`: tag -> spec stamp
    of our builds; `tags`: every local reference; `now_s`: the host's clock, Unix time; `containers`: those with our
    label, whatever their names and states, with what they hold (`binds` and `inodes` are what that is read from) and
    have of their images (that: `image_settings`).
    """

    installed: bool = False
    active: bool = False
    at_boot: str = ""
    version: str = ""
    now_s: float = 0.0
    config: dict[str, Any] | None = None
    config_owner: tuple[str, str, str] | None = None
    stale: bool = False
    cut_off: bool = False
    images: dict[str, str] = field(default_factory=dict)
    tags: set[str] = field(default_factory=set)
    networks: dict[str, list[str]] = field(default_factory=dict)
    containers: list[Container] = field(default_factory=list)
    binds: list[Bind] = field(default_factory=list)
    image_settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    gpus_denied: set[str] = field(default_factory=set)  # ids of containers
    inodes: dict[str, str] = field(default_factory=dict)  # path -> `device:inode` of what binds name


def _config(reading: DockerReading, text: str) -> None:
    try:
        reading.config = json.loads(base64.b64decode(text))
    except ValueError as error:
        raise UserError(Problem(f"/etc/docker/daemon.json is not JSON: {error}", "mend or move that file")) from None


def _image(reading: DockerReading, text: str) -> None:
    image = json.loads(text)
    for tag in image["tags"] or []:
        reading.images[tag] = image["spec"]


def _network(reading: DockerReading, text: str) -> None:
    network = json.loads(text)
    reading.networks[network["name"]] = network["subnets"]


def _container(reading: DockerReading, text: str) -> None:
    reading.containers.append(containers.parse(text))


def _of_image(reading: DockerReading, text: str) -> None:
    image, settings = containers.parse_image(text)
    reading.image_settings[image] = settings


def _bind(reading: DockerReading, text: str) -> None:
    container, pid, source, target = text.split("\t")
    reading.binds.append(Bind(container, int(pid), source, target))


def _inode(reading: DockerReading, text: str) -> None:
    inode, _, path = text.partition("\t")
    reading.inodes[path] = inode


def _joined(reading: DockerReading, container: Container) -> Container:
    """The container with what it has of its image, and of the host; nothing of that when it does not run."""
    binds = [each for each in reading.binds if each.container == container.id and each.pid]
    inodes = reading.inodes
    holds = [
        Held(each.source, each.target, inodes.get(f"/proc/{each.pid}/root{each.target}"), inodes.get(each.source))
        for each in binds
    ]
    return replace(
        container,
        holds=tuple(holds),
        gpus_denied=container.id in reading.gpus_denied,
        image_settings=reading.image_settings.get(container.image_id, {}),
    )


_READERS = {
    "active": lambda r, v: setattr(r, "active", True),
    "at_boot": lambda r, v: setattr(r, "at_boot", v),
    "stale": lambda r, v: setattr(r, "stale", True),
    "cut_off": lambda r, v: setattr(r, "cut_off", True),
    "config": _config,
    "config_owner": lambda r, v: setattr(r, "config_owner", tuple(v.split(" "))),
    "version": lambda r, v: setattr(r, "version", v),
    "now": lambda r, v: setattr(r, "now_s", float(v)),
    "tag": lambda r, v: r.tags.add(v),
    "image": _image,
    "network": _network,
    "container": _container,
    "of_image": _of_image,
    "bind": _bind,
    "gpus_denied": lambda r, v: r.gpus_denied.add(v),
    "inode": _inode,
}


def parts(*needed: Part) -> tuple[Part, ...]:
    """What of Docker to read: what is needed; for a whole plan all, so that it reads Docker once, whoever asks."""
    planning = ctx_state.isset() and state.current_stage == StateStage.Prepare and only() is None
    return _WHOLE if planning else needed


def look(*needed: Part) -> DockerReading:
    """Docker of the current host, with the parts that are needed."""
    return host.get_fact(DockerState, parts=parts(*needed))


class DockerState(HostFact[DockerReading]):
    """The engine, and of what it holds the parts that are asked for."""

    def command(self, parts: Sequence[Part] = ()) -> str:
        """One script; the templates name labels and states, never the environment. Of `states` alone without the
        engine's own settings."""
        marks = {"LOCK": STACKS_LOCK, "RAN": RAN, "OWN": OWN, "IMAGE": _IMAGE, "NETWORK": _NETWORK}
        marks |= {"CONTAINER": containers.INSPECT, "BINDS": containers.BINDS, "IMAGECONFIG": containers.INSPECT_IMAGE}
        marks |= {"GIVENGPUS": containers.GIVEN_GPUS}
        engine = "" if tuple(parts) == ("states",) else _ENGINE
        script = "".join([_BEGIN, engine, _VERSION, *(_PARTS[part] for part in parts), r"printf 'end\n'"])
        return re.sub("@([A-Z]+)@", lambda found: marks[found[1]], script)

    @staticmethod
    def default() -> DockerReading:
        """No Docker."""
        return DockerReading()

    def read(self, output: list[str]) -> DockerReading:
        """Lines of kind and value; `absent` alone means no Docker."""
        # dockerd died in the middle: what it has would seem to be missing
        if not {"absent", "end"} & set(output[-1:]) or "died" in output:
            raise UserError(Problem("Docker stopped answering while it was read", "systemctl status docker"))
        reading = DockerReading(installed="absent" not in output)
        for line in output:
            kind, _, value = line.partition("\t")
            if kind in _READERS:
                _READERS[kind](reading, value)
        reading.containers = [_joined(reading, each) for each in reading.containers]
        return reading

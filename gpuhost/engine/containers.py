"""A container as `docker inspect` shows it, in the words of a service's spec. Pure.

The environment is never asked for: it holds secrets.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from gpuhost.network.address import address
from gpuhost.plan.spec import Spec
from gpuhost.plan.spec import parse as parse_spec
from hostside import labels
from hostside.protocol.verify import Held
from hostside.timestamps import unix_ns

PROJECT_LABEL = "com.docker.compose.project"
CDI = "nvidia.com/gpu="
UNLIMITED = "unlimited"
# Namespaces that a container may share, in compose's words -> where `docker inspect` says so.
NAMESPACES = {"network_mode": "NetworkMode", "pid": "PidMode", "ipc": "IpcMode", "uts": "UTSMode"}
# Fields that `docker inspect` shows as compose writes them: compose's name -> (where, what nobody asked for).
AS_WRITTEN: dict[str, tuple[str, Any]] = {
    "cpuset": ("CpusetCpus", ""),
    "cpuset_mems": ("CpusetMems", ""),  # `docker update` alone knows it
    "cpu_shares": ("CpuShares", 0),
    "device_cgroup_rules": ("DeviceCgroupRules", []),
    "userns_mode": ("UsernsMode", ""),
    "cgroup_parent": ("CgroupParent", ""),
    "oom_kill_disable": ("OomKillDisable", False),
    "oom_score_adj": ("OomScoreAdj", 0),
    "dns_search": ("DnsSearch", []),
    "dns_opt": ("DnsOptions", []),
}
_SYSTEM_PATHS = "systempaths=unconfined"  # the engine's client makes of it that no path of /proc is kept from it

# A template for `docker inspect`: labels and settings, never the environment. `index`, where the engine leaves out what
# nobody set: a field that is not there ends the template, and the container would seem not to be there.
INSPECT = (
    '{"id":{{json .Id}},"name":{{json .Name}},"labels":{{json .Config.Labels}},"image":{{json .Config.Image}},'
    '"user":{{json .Config.User}},"command":{{json .Config.Cmd}},"entrypoint":{{json (index .Config "Entrypoint")}},'
    '"image_id":{{json .Image}},"state":{{json .State.Status}},'
    '"started":{{json .State.StartedAt}},"restarts":{{json .RestartCount}},'
    '"ended":{{json .State.FinishedAt}},"exit_code":{{json .State.ExitCode}},'
    '"health_now":{{with (index .State "Health")}}{{json .Status}}{{else}}null{{end}},'
    '"working_dir":{{json .Config.WorkingDir}},"stop_signal":{{json (index .Config "StopSignal")}},'
    '"health":{{json (index .Config "Healthcheck")}},"host":{{json .HostConfig}},"mounts":{{json .Mounts}},'
    '"networks":[{{range $name, $network := .NetworkSettings.Networks}}{{json $name}},{{end}}null]}'
)
# What an image gives to a container for which nobody asked otherwise.
INSPECT_IMAGE = (
    '{"id":{{json .Id}},"user":{{json (index .Config "User")}},"command":{{json (index .Config "Cmd")}},'
    '"entrypoint":{{json (index .Config "Entrypoint")}},"working_dir":{{json (index .Config "WorkingDir")}},'
    '"stop_signal":{{json (index .Config "StopSignal")}},"health":{{json (index .Config "Healthcheck")}}}'
)
# Besides, a line for each folder and file of the host that it has: its id, its process (0 when it does not run), what
# lies where on the host, and where inside.
BINDS = (
    '{{range .Mounts}}{{if eq .Type "bind"}}{{"\\n"}}bind{{"\\t"}}{{$.Id}}{{"\\t"}}{{$.State.Pid}}'
    '{{"\\t"}}{{.Source}}{{"\\t"}}{{.Destination}}{{end}}{{end}}'
)
# And a line for one that runs and was given GPUs: its id and its process.
GIVEN_GPUS = (
    '{{if and .HostConfig.DeviceRequests .State.Running (not .State.Paused)}}{{"\\n"}}gpus{{"\\t"}}{{.Id}}'
    '{{"\\t"}}{{.State.Pid}}{{end}}'
)


@dataclass(frozen=True)
class Container:
    """One container with our label. `spec`: its stamp, None when it cannot be read; `settings`: what it runs with now,
    in the fields of a spec; `own`: it is somebody's, who made it by `docker compose run` or from a copy of ours;
    `project`: compose's; `started_s`: Unix time, 0 when it never ran; `restarts`: by Docker, since somebody started it;
    `health`: in Docker's words, "" without a health check; `ended_s`, `exit_code`: of its last end, 0 when it never
    ended; `environment`: secret -> keyed fingerprint of what its environment holds, None when nobody looked; `added`:
    the same of all that its image does not give it; `holds`: what it has of the host while it runs; `gpus_denied`: it
    was given GPUs, and the kernel does not let it reach them any more; `image_id`: by which `image_settings` are found,
    those fields of `settings` that it has of its image when nobody asks otherwise (empty when the image is gone)."""

    id: str
    name: str
    service: str
    project: str
    state: str
    spec: Spec | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    own: Literal["", "run", "copy"] = ""
    started_s: float = 0.0
    restarts: int = 0
    health: str = ""
    ended_s: float = 0.0
    exit_code: int = 0
    environment: Mapping[str, str] | None = None
    added: Mapping[str, str] = field(default_factory=dict)
    holds: tuple[Held, ...] = ()
    gpus_denied: bool = False
    image_id: str = ""
    image_settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def gpus(self) -> list[str]:
        """The UUIDs of its GPUs."""
        return list(self.settings.get("gpus", ()))

    @property
    def ports(self) -> set[str]:
        """What it publishes: `127.0.0.1:8188:8188`."""
        return set(self.settings.get("ports", ()))


def parse(text: str) -> Container:
    """One line that INSPECT made. Raises ValueError, KeyError or TypeError for another."""
    seen = json.loads(text)
    attached, name = seen["labels"] or {}, seen["name"].removeprefix("/")
    service = attached[labels.SERVICE]
    return Container(
        id=seen["id"],
        name=name,
        service=service,
        project=attached.get(PROJECT_LABEL, ""),
        state=seen["state"],
        spec=parse_spec(attached.get(labels.SPEC)),
        settings=_settings(seen),
        own=_own(name, service, seen["image"], attached),
        started_s=unix_ns(seen["started"]) / 10**9,
        restarts=int(seen["restarts"]),
        health=str(seen["health_now"] or ""),
        ended_s=max(0.0, unix_ns(seen["ended"]) / 10**9),
        exit_code=int(seen["exit_code"]),
        image_id=seen["image_id"],
    )


def _own(name: str, service: str, image: str, attached: Mapping[str, str]) -> Literal["", "run", "copy"]:
    if attached.get(labels.ONE_OFF) == "True":
        return "run"
    return "copy" if labels.is_copy(name, service, image, attached.get(labels.SPEC)) else ""


def parse_image(text: str) -> tuple[str, dict[str, Any]]:
    """One line that INSPECT_IMAGE made: the image's id, and the fields of `settings` that a container has of it.

    Raises ValueError, KeyError or TypeError for another.
    """
    seen = json.loads(text)
    return seen["id"], _of_image(seen)


def size_text(size_bytes: int) -> str:
    """`28g`, `64m`: the largest unit that is whole."""
    for unit, factor in (("g", 2**30), ("m", 2**20), ("k", 2**10)):
        if size_bytes and size_bytes % factor == 0:
            return f"{size_bytes // factor}{unit}"
    return str(size_bytes)


def size_bytes(text: str) -> int:
    """The inverse, for any text that the catalogue takes, such as `28g` or `512mb`."""
    found = re.fullmatch(r"(\d+)([kmg]?)b?", text)
    if found is None:
        raise ValueError(text)
    return int(found[1]) * {"": 1, "k": 2**10, "m": 2**20, "g": 2**30}[found[2]]


def swap_text(memory: int, memory_and_swap: int) -> str:
    """How much swap a container may use beside its memory; both in bytes, as Docker and compose count them."""
    return UNLIMITED if memory_and_swap < 0 else size_text(max(0, memory_and_swap - memory))


def _settings(seen: Mapping[str, Any]) -> dict[str, Any]:
    host = seen["host"]
    log = host.get("LogConfig") or {}
    return {
        **_of_image(seen),
        **{name: host.get(key) or default for name, (key, default) in AS_WRITTEN.items()},
        "image": seen["image"],
        "runtime": host.get("Runtime") or "",
        "restart": _restart(host.get("RestartPolicy") or {}),
        "memory": size_text(host.get("Memory") or 0),
        "swap": swap_text(host.get("Memory") or 0, host.get("MemorySwap") or 0),
        "mem_reservation": size_text(host.get("MemoryReservation") or 0),
        "pids": host.get("PidsLimit") or 0,
        "ulimits": {each["Name"]: [each["Soft"], each["Hard"]] for each in host.get("Ulimits") or []},
        "cpus": f"{(host.get('NanoCpus') or 0) / 10**9:g}",
        "shm": size_text(host.get("ShmSize") or 0),
        "read_only": bool(host.get("ReadonlyRootfs")),
        "init": bool(host.get("Init")),
        "namespaces": sorted(name for name, mode in NAMESPACES.items() if shared(host.get(mode) or "")),
        "devices": sorted(f"{each['PathOnHost']}:{each['PathInContainer']}" for each in host.get("Devices") or []),
        "privileged": bool(host.get("Privileged")),
        "cap_add": sorted(map(capability, host.get("CapAdd") or [])),
        "cap_drop": sorted(map(capability, host.get("CapDrop") or [])),
        "security_opt": sorted(
            [*(host.get("SecurityOpt") or []), *([_SYSTEM_PATHS] if host.get("MaskedPaths") == [] else [])]
        ),
        "group_add": sorted(host.get("GroupAdd") or []),
        "tmpfs": sorted(
            f"{path}:{options}" if options else path for path, options in (host.get("Tmpfs") or {}).items()
        ),
        "logging": {"driver": log.get("Type", ""), "options": dict(log.get("Config") or {})},
        "dns": list(host.get("Dns") or []),
        "extra_hosts": sorted(host.get("ExtraHosts") or []),
        "sysctls": dict(host.get("Sysctls") or {}),
        "networks": sorted(name for name in seen["networks"] if name),
        "ports": _ports(host.get("PortBindings") or {}),
        "gpus": _gpus(host.get("DeviceRequests") or []),
        "volumes": {
            each["Destination"]: f"{each.get('Source', '')}{'' if each.get('RW') else ':ro'}"
            for each in seen["mounts"] or []
            if each["Type"] == "bind"  # an image may ask for volumes of its own
        },
    }


def _of_image(seen: Mapping[str, Any]) -> dict[str, Any]:
    """What a container has of its image, where nobody asks otherwise."""
    return {
        "user": seen["user"] or "",
        "command": list(seen["command"] or []),
        "entrypoint": list(seen["entrypoint"] or []),
        "working_dir": seen["working_dir"] or "",
        "stop_signal": seen["stop_signal"],
        "healthcheck": _health(seen["health"] or {}),
    }


def shared(mode: str) -> bool:
    """Whether a container is in the host's namespace or in that of another container."""
    return mode == "host" or mode.startswith(("container:", "service:"))


def capability(name: str) -> str:
    """`cap_net_admin`, `NET_ADMIN`: engines differ in what they keep."""
    return name.upper().removeprefix("CAP_")


def _restart(policy: Mapping[str, Any]) -> str:
    """`unless-stopped`, `on-failure:3`."""
    times = policy.get("MaximumRetryCount") or 0
    return f"{policy.get('Name') or 'no'}{f':{times}' if times else ''}"


def _health(check: Mapping[str, Any]) -> dict[str, Any]:
    """A health check in compose's words; Docker keeps nanoseconds, and leaves out what is 0."""
    names = {"interval": "Interval", "timeout": "Timeout", "start_period": "StartPeriod"}
    times = {**names, "start_interval": "StartInterval"}
    found = {name: f"{check.get(key, 0) / 10**9:.12g}s" for name, key in times.items()}
    return {"test": list(check.get("Test") or []), "retries": check.get("Retries", 0), **found}


def _ports(bindings: Mapping[str, list[Mapping[str, str]] | None]) -> list[str]:
    return sorted(
        f"{address(each['HostIp'])}:{each['HostPort']}:{inside.removesuffix('/tcp')}"
        for inside, published in bindings.items()
        for each in published or []
    )


def _gpus(requests: list[Mapping[str, Any]]) -> list[str]:
    """The UUIDs of a container's CDI devices; other requests as they are."""
    return [
        name.removeprefix(CDI)
        for request in requests
        for name in request.get("DeviceIDs") or [f"{request.get('Driver', '')}:{request.get('Count', '')}"]
    ]

"""The engine's configuration: our keys in daemon.json, nobody else's touched; what dockerd loaded. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from gpuhost.engine.facts import DockerReading
from gpuhost.plan.change import Change, Difference, Resource
from hostside.redaction import MASK

CONFIG = "/etc/docker/daemon.json"
LEAST_VERSION = (25, 0)  # a health check's `start_interval`
PINNED = ("docker-ce", "docker-ce-cli")  # containerd.io and the plugins have versions of their own
CDI_VERSION = (26, 1)  # CDI spec 0.7
LIVE_RESTORE = "live-restore"  # dockerd's key: containers outlive it; taken at a reload; not in a swarm


def merge(current: Mapping[str, Any] | None, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """`current` with our keys in it, objects merged key by key."""
    merged = dict(current or {})
    for key, value in wanted.items():
        have = merged.get(key)
        merged[key] = merge(have, value) if isinstance(value, Mapping) and isinstance(have, Mapping) else value
    return merged


def differing(current: Mapping[str, Any] | None, wanted: Mapping[str, Any], path: str = "") -> list[str]:
    """The keys (dotted) whose value is not the wanted one."""
    keys: list[str] = []
    for key, value in wanted.items():
        have = (current or {}).get(key)
        name = f"{path}{key}"
        if isinstance(value, Mapping) and isinstance(have, Mapping):
            keys += differing(have, value, f"{name}.")
        elif have != value:
            keys.append(name)
    return keys


def _value(config: Mapping[str, Any] | None, key: str) -> str | None:
    """The value of a dotted key as JSON, None when it is not there; passwords in addresses (a proxy's) are masked."""
    value: Any = config
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    return re.sub(r"(?<=://)[^/@\s\"]+(?=@)", MASK, json.dumps(value, sort_keys=True))


def reconcile(reading: DockerReading, wanted: Mapping[str, Any]) -> list[Change]:
    """Write our keys; restart dockerd when it does not run with the file as it will be; enable it for the next boot."""
    changes = []
    keys = differing(reading.config, wanted)
    if keys:
        diff = tuple(Difference(key, _value(reading.config, key), str(_value(wanted, key))) for key in keys)
        changes.append(Change("engine", Resource("file", CONFIG), "write", f"keys differ: {', '.join(keys)}", diff))
    if keys or reading.stale or reading.cut_off or not reading.active:
        why = f"{CONFIG} changes" if keys else f"it started before {CONFIG} changed" if reading.stale else "not running"
        if reading.cut_off and reading.active and not keys:
            why = "an earlier restart was cut off before every container ran again"
        changes.append(Change("engine", Resource("engine", "dockerd"), "restart", why))
    # Debian's packages enable the unit that they install.
    if reading.installed and reading.at_boot not in ("enabled", "not-found", ""):
        reason = f"it is {reading.at_boot}: it would not start at boot"
        changes.append(Change("engine", Resource("unit", "docker.service"), "enable", reason))
    return changes


def pinned(packages: Sequence[str], version: str | None, os_id: str, os_version: str, suite: str) -> list[str]:
    """Docker's own packages, those of the engine in one version: `docker-ce=5:28.3.3-1~debian.13~trixie`."""
    if version is None:
        return list(packages)
    full = f"5:{version}-1~{os_id}.{os_version}~{suite}"
    return [f"{name}={full}" if name in PINNED else name for name in packages]


def too_old(version: str, least: tuple[int, int] = LEAST_VERSION) -> bool:
    """True for an engine below `least`. `version` as `docker version` prints it, "" when it does not run."""
    numbers = tuple(int(part) for part in version.split(".") if part.isdigit())
    return bool(numbers) and numbers < least

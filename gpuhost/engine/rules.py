"""The engine's configuration: our keys in daemon.json, nobody else's touched; what dockerd loaded. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gpuhost.engine.facts import DockerReading
from gpuhost.plan.change import Change, Difference, Resource
from hostside.redaction import MASK

CONFIG = "/etc/docker/daemon.json"
LEAST_VERSION = (25, 0)  # a health check's `start_interval`
PINNED = ("docker-ce", "docker-ce-cli")  # containerd.io and the plugins have versions of their own
CDI_VERSION = (26, 1)  # CDI spec 0.7
LIVE_RESTORE = "live-restore"  # dockerd's key: containers outlive it; taken at a reload; not in a swarm


Key = tuple[str, ...]  # the way to a value: ("log-opts", "max-size")
RUNTIMES = "runtimes"  # what gpuhost wrote there stays: a container that was made with one does not start without it
_ABSENT = object()


def merge(current: Mapping[str, Any] | None, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """`current` with our keys in it, objects merged key by key."""
    merged = dict(current or {})
    for key, value in wanted.items():
        have = merged.get(key)
        merged[key] = merge(have, value) if isinstance(value, Mapping) and isinstance(have, Mapping) else value
    return merged


def differing(current: Mapping[str, Any], wanted: Mapping[str, Any], above: Key = ()) -> list[Key]:
    """The keys whose value is not the wanted one."""
    keys: list[Key] = []
    for name, value in wanted.items():
        have, key = current.get(name), (*above, name)
        if isinstance(value, Mapping) and isinstance(have, Mapping):
            keys += differing(have, value, key)
        elif have != value:
            keys.append(key)
    return keys


def dotted(keys: Iterable[Key]) -> str:
    """As people read them: `features.cdi, log-driver`."""
    return ", ".join(map(".".join, keys))


@dataclass(frozen=True)
class Merge:
    """What daemon.json becomes (`config`) and why. `keys`: those that are written; `taken`: those that are taken out,
    because gpuhost wrote them and the data names them no more; `changed`, `gone`: those of which the same is true, but
    that somebody gave another value since (it stays), or took out himself. `written`: what is gpuhost's work then."""

    config: dict[str, Any]
    keys: list[Key]
    taken: list[Key]
    changed: list[Key]
    gone: list[Key]
    written: dict[str, Any]


def merging(current: Mapping[str, Any] | None, wanted: Mapping[str, Any], written: Mapping[str, Any]) -> Merge:
    """Our keys in, those that are ours no more out. `written`: what gpuhost wrote so far, where it lies in the file.

    A key that already had the wanted value is nobody's work but the operator's, and stays when the data drops it.
    """
    here, before, ours = dict(current or {}), _leaves(written), _leaves(wanted)
    dropped = {key: (value, _at(here, key)) for key, value in before.items() if key not in ours}
    taken = [key for key, (value, have) in dropped.items() if have == value]
    gone = [key for key, (_, have) in dropped.items() if have is _ABSENT]
    changed = [key for key in dropped if key not in taken and key not in gone]
    left = here
    for key in taken:
        left = _without(left, key)
    merged = merge(left, wanted)
    ours_now = {key: before[key] for key in before if key in ours}
    ours_now |= {
        key: value for key, value in ours.items() if _at(here, key) != value == _at(merged, key) and key[0] != RUNTIMES
    }
    return Merge(merged, differing(here, wanted), taken, changed, gone, _nested(ours_now))


def _leaves(config: Mapping[str, Any], above: Key = ()) -> dict[Key, Any]:
    """Each value with the way to it; an empty object is a value."""
    found: dict[Key, Any] = {}
    for name, value in config.items():
        key = (*above, name)
        found |= _leaves(value, key) if isinstance(value, Mapping) and value else {key: value}
    return found


def _nested(leaves: Mapping[Key, Any]) -> dict[str, Any]:
    """The object that has these values."""
    made: dict[str, Any] = {}
    for (*above, name), value in leaves.items():
        inner = made
        for each in above:
            inner = inner.setdefault(each, {})
        inner[name] = value
    return made


def _at(config: Mapping[str, Any] | None, key: Key) -> Any:
    """The value of a key, _ABSENT when it is not there."""
    value: Any = config
    for name in key:
        if not isinstance(value, Mapping) or name not in value:
            return _ABSENT
        value = value[name]
    return value


def _without(config: Mapping[str, Any], key: Key) -> dict[str, Any]:
    """Without a key that is there, and without the objects that have nothing else in them."""
    name, *more = key
    inner = _without(config[name], tuple(more)) if more else {}
    return {each: inner if each == name else value for each, value in config.items() if each != name or inner}


def _value(config: Mapping[str, Any] | None, key: Key) -> str | None:
    """The value of a key as JSON, None when it is not there; passwords in addresses (a proxy's) are masked."""
    value = _at(config, key)
    if value is _ABSENT:
        return None
    return re.sub(r"(?<=://)[^/@\s\"]+(?=@)", MASK, json.dumps(value, sort_keys=True))


def reconcile(
    reading: DockerReading, wanted: Mapping[str, Any], written: Mapping[str, Any], stamp: str
) -> list[Change]:
    """Write our keys and take out those that are ours no more; restart dockerd when it does not run with the file as it
    will be; enable it for the next boot. `written`: what gpuhost wrote so far, as the file `stamp` says."""
    to = merging(reading.config, wanted, written)
    changes = [*_writing(reading, to), *_letting_go(written, to, stamp)]
    writes = bool(to.keys or to.taken)
    if writes or reading.stale or reading.cut_off or not reading.active:
        why = (
            f"{CONFIG} changes" if writes else f"it started before {CONFIG} changed" if reading.stale else "not running"
        )
        if reading.cut_off and reading.active and not writes:
            why = "an earlier restart was cut off before every container ran again"
        changes.append(Change("engine", Resource("engine", "dockerd"), "restart", why))
    # Debian's packages enable the unit that they install.
    if reading.installed and reading.at_boot not in ("enabled", "not-found", ""):
        reason = f"it is {reading.at_boot}: it would not start at boot"
        changes.append(Change("engine", Resource("unit", "docker.service"), "enable", reason))
    return changes


def _writing(reading: DockerReading, to: Merge) -> Iterator[Change]:
    whys = [f"keys differ: {dotted(to.keys)}"] if to.keys else []
    whys += [f"no longer in `engine_config`: {dotted(to.taken)}"] if to.taken else []
    diff = [Difference(dotted([key]), _value(reading.config, key), str(_value(to.config, key))) for key in to.keys]
    diff += [Difference(dotted([key]), _value(reading.config, key), None) for key in to.taken]
    if whys:
        yield Change("engine", Resource("file", CONFIG), "write", "; ".join(whys), tuple(diff))


def _letting_go(written: Mapping[str, Any], to: Merge, stamp: str) -> Iterator[Change]:
    """What gpuhost wrote once, and leaves to whoever has changed it since."""
    dropped = "no longer in `engine_config`"
    whys = [f"{dotted(to.changed)}: {dropped}, changed by hand: stays in {CONFIG}"] if to.changed else []
    whys += [f"{dotted(to.gone)}: {dropped}, nor in {CONFIG}"] if to.gone else []
    diff = tuple(Difference(dotted([key]), _value(written, key), None) for key in (*to.changed, *to.gone))
    if whys:
        yield Change("engine", Resource("file", stamp), "write", "; ".join(whys), diff)


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

"""Compose has several ways to write most fields: each becomes the one that `docker inspect` shows. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from typing import Any

from gpuhost.engine.containers import capability


def normal(service: Mapping[str, Any]) -> dict[str, Any]:
    """A service's entry in a compose file, each field in its one form; a field that is none of these as it is."""
    made = {key: _FORMS[key](value) if key in _FORMS else value for key, value in service.items()}
    mode = made.get("network_mode")
    if mode in ("host", "none", "bridge"):  # Docker has networks of these names
        made["networks"] = [mode]
    return made


def _list(value: Any) -> list[str]:
    """A list, or its one element."""
    return [str(each) for each in ([value] if isinstance(value, str) else value)]


def _words(value: Any) -> list[str]:
    return shlex.split(value) if isinstance(value, str) else list(value or [])


def _pairs(value: Any) -> dict[str, Any]:
    """A mapping, or a list of `KEY=value`; what has no value there, compose takes from its own environment."""
    if isinstance(value, Mapping):
        return dict(value)
    parts = [each.partition("=") for each in value]
    return {key: text if equals else None for key, equals, text in parts}


def _restart(value: Any) -> str:
    return "no" if value is False else str(value)  # YAML takes a bare `no` for a boolean


def _port(port: Any) -> str:
    """`127.0.0.1:8188:80`."""
    if isinstance(port, Mapping):
        protocol = "/udp" if port.get("protocol") == "udp" else ""
        return f"{port.get('host_ip', '0.0.0.0')}:{port.get('published', '')}:{port['target']}{protocol}"
    text = str(port).removesuffix("/tcp")
    return f"0.0.0.0:{text}" if text.count(":") == 1 else text


def _volume(volume: Any) -> Mapping[str, Any]:
    """The long form."""
    if isinstance(volume, Mapping):
        return volume
    source, _, rest = volume.partition(":")
    target, _, options = rest.partition(":")
    if not rest:
        return {"type": "volume", "target": source}
    return {"source": source, "target": target, "read_only": "ro" in options.split(",")}


def _limits(limit: Any) -> list[int]:
    return [limit["soft"], limit["hard"]] if isinstance(limit, Mapping) else [limit, limit]


def _device(text: str) -> str:
    outside, _, rest = text.partition(":")
    return f"{outside}:{rest.partition(':')[0] or outside}"


def _hosts(value: Any) -> list[str]:
    """`name:address`."""
    if isinstance(value, Mapping):
        return sorted(f"{name}:{address}" for name, address in value.items())
    return sorted(each.replace("=", ":", 1) for each in value)


def _health(check: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"test": ["NONE"]} if check.get("disable") else check


_FORMS: dict[str, Callable[[Any], Any]] = {
    "command": _words,
    "entrypoint": _words,
    "environment": _pairs,
    "labels": _pairs,
    "sysctls": _pairs,
    "restart": _restart,
    "dns": _list,
    "dns_search": _list,
    "networks": lambda value: sorted(map(str, value)),
    "cap_add": lambda value: sorted(map(capability, value)),
    "cap_drop": lambda value: sorted(map(capability, value)),
    "security_opt": lambda value: sorted(_list(value)),
    "group_add": lambda value: sorted(_list(value)),
    "tmpfs": lambda value: sorted(_list(value)),
    "ports": lambda value: sorted(map(_port, value)),
    "devices": lambda value: sorted(map(_device, value)),
    "volumes": lambda value: [_volume(each) for each in value],
    "ulimits": lambda value: {name: _limits(limit) for name, limit in value.items()},
    "extra_hosts": _hosts,
    "healthcheck": _health,
}

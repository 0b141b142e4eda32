"""`docker inspect` -> a service as the API shows it. Pure, and an allow-list: what a container has in
its environment, command or mounts never comes near a response."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

SERVICE_LABEL = "gpuhost.service"
STACK_LABEL = "gpuhost.stack"
MODELS_LABEL = "gpuhost.models"
_NEVER = "0001-01-01T00:00:00Z"  # how Docker writes "not yet"


class Port(BaseModel):
    """One published port. `host_ip` 0.0.0.0 or :: means: open to the network."""

    host_ip: str
    host_port: int
    container_port: int
    protocol: str


class Service(BaseModel):
    """One container of ours, as Docker sees it now."""

    name: str
    stack: str | None
    state: str
    health: str | None
    started_at: str | None
    restart_count: int
    oom_killed: bool
    image: str
    ports: list[Port]
    models: list[str]


def from_inspect(container: dict[str, Any]) -> Service:
    """One container's `docker inspect`, which carries `SERVICE_LABEL`, as a `Service`."""
    labels = container["Config"].get("Labels") or {}
    state = container["State"]
    started_at = state.get("StartedAt")
    return Service(
        name=labels[SERVICE_LABEL],
        stack=labels.get(STACK_LABEL),
        state=state["Status"],
        health=(state.get("Health") or {}).get("Status"),
        started_at=None if started_at in (None, "", _NEVER) else started_at,
        restart_count=container.get("RestartCount", 0),
        oom_killed=bool(state.get("OOMKilled")),
        image=container["Config"]["Image"],
        ports=_ports(container.get("NetworkSettings", {}).get("Ports") or {}),
        models=_models(labels),
    )


def by_name(containers: list[dict[str, Any]]) -> dict[str, Service]:
    """Services in the order of their names. Where two containers claim one name, the running one counts."""
    services: dict[str, Service] = {}
    for service in sorted(map(from_inspect, containers), key=lambda s: (s.name, s.state == "running")):
        services[service.name] = service
    return services


def _ports(bindings: dict[str, list[dict[str, str]] | None]) -> list[Port]:
    ports = []
    for container_port, published in bindings.items():
        number, _, protocol = container_port.partition("/")
        for binding in published or []:
            ports.append(
                Port(
                    host_ip=binding["HostIp"],
                    host_port=int(binding["HostPort"]),
                    container_port=int(number),
                    protocol=protocol,
                )
            )
    return sorted(ports, key=lambda port: (port.host_port, port.host_ip))


def _models(labels: dict[str, str]) -> list[str]:
    """The label holds the names of the models, separated by commas."""
    return [name for part in labels.get(MODELS_LABEL, "").split(",") if (name := part.strip())]

"""Services -> Prometheus text. Made anew for each scrape, so a removed service leaves no stale line."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Gauge, generate_latest

from orchestrator.services import Service

CONTENT_TYPE = CONTENT_TYPE_LATEST


def render(services: Iterable[Service] | None) -> bytes:
    """The exposition text; `None` says that Docker does not answer: then nothing is known of services."""
    registry = CollectorRegistry()

    def gauge(name: str, text: str) -> Gauge:
        return Gauge(f"gpuhost_{name}", text, ["service", "stack"], registry=registry)

    docker_up = Gauge("gpuhost_docker_up", "1 when the Docker Engine answers.", registry=registry)
    docker_up.set(services is not None)
    up = gauge("service_up", "1 when the container runs and its health check, if it has one, passes.")
    restarts = gauge("service_restarts", "Restarts of the present container, as Docker counts them.")
    oom_killed = gauge("service_oom_killed", "1 when the container's last end was the kernel's OOM killer.")
    started = gauge("service_start_time_seconds", "Unix time of the container's last start.")
    for service in services or ():
        labels = (service.name, service.stack or "")
        up.labels(*labels).set(service.state == "running" and service.health in (None, "healthy"))
        restarts.labels(*labels).set(service.restart_count)
        oom_killed.labels(*labels).set(service.oom_killed)
        if service.started_at:
            started.labels(*labels).set(datetime.fromisoformat(service.started_at).timestamp())
    return generate_latest(registry)

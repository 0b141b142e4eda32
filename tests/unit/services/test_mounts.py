"""No container gets the socket of a container engine, by whatever name or folder."""

from __future__ import annotations

import pytest

from gpuhost.services.mounts import refusals


@pytest.mark.parametrize(
    "source",
    [
        "/var/run/docker.sock",
        "/run/docker.sock",
        "/run/docker.sock:ro",
        "/var/run//docker.sock",
        "/run",
        "/var/run",
        "/var/run:ro",
        "/",
        "/run/containerd",
        "/run/containerd/containerd.sock",
    ],
)
def test_it_is_refused(source: str) -> None:
    [(what, hint)] = refusals({"api": {"volumes": {"/data": "/srv/data", "/x": source}}})
    assert what.startswith(f"`api` mounts {source} at /x: /run/") and "`controls_services`" in hint


@pytest.mark.parametrize(
    "source", ["/run/gpuhost/broker:ro", "/srv/run", "/run/dockers", "/var/lib/x", "/srv/run/docker.sock"]
)
def test_nothing_else_is(source: str) -> None:
    assert list(refusals({"api": {"volumes": {"/x": source}}})) == []

"""The connection to Docker, for the programs that look at containers."""

from __future__ import annotations

import docker  # type: ignore[import-untyped]
import docker.errors  # type: ignore[import-untyped]
import requests

TIMEOUT_S = 10

# What the docker SDK raises when the engine fails to answer, or answers what it cannot use.
FAILURES = (docker.errors.DockerException, requests.RequestException)


class DockerUnavailable(Exception):
    """Docker does not answer. `str()` says what happened."""


def connect() -> docker.APIClient:
    """The engine's API. Raises `DockerUnavailable`."""
    try:
        return docker.from_env(timeout=TIMEOUT_S).api
    except docker.errors.DockerException as error:
        raise DockerUnavailable(str(error)) from error

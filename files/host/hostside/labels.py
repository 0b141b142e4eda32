"""The labels by which what gpuhost made in Docker is known. Standard library."""

from __future__ import annotations

import json

SERVICE = "gpuhost.service"  # of a container: its service
STACK = "gpuhost.stack"
SPEC = "gpuhost.spec"  # of a container and an image: the spec that it was made from, as JSON
MODELS = "gpuhost.models"
ALONE = "gpuhost.alone"  # "yes": of those that have it one runs at a time
VRAM = "gpuhost.vram_mib"  # what the service takes of each of its GPUs
VRAM_SHARED = "gpuhost.vram_shared_mib"  # what all services of such a GPU may take together
ONE_OFF = "com.docker.compose.oneoff"  # compose's, "True" on what `docker compose run` made: somebody's own
IMAGE = "gpuhost.image"  # of an image: its name in the catalogue


def is_copy(name: str, service: str, image: str, stamp: str | None) -> bool:
    """Whether a container with the labels of a service's is somebody's own: one that he runs, under a name of his own,
    from an image that he made of a service's container. `docker commit` takes the labels along.

    `stamp`: its SPEC; nothing is known of one that cannot be read.
    """
    try:
        made_of = json.loads(stamp or "")["image"]
    except (ValueError, KeyError, TypeError):
        return False
    return name != service and image != made_of

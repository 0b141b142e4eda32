"""The labels by which what gpuhost made in Docker is known. Standard library."""

from __future__ import annotations

SERVICE = "gpuhost.service"  # of a container: its service
STACK = "gpuhost.stack"
SPEC = "gpuhost.spec"  # of a container and an image: the spec that it was made from, as JSON
MODELS = "gpuhost.models"
ONE_OFF = "com.docker.compose.oneoff"  # compose's, "True" on what `docker compose run` made: somebody's own
IMAGE = "gpuhost.image"  # of an image: its name in the catalogue

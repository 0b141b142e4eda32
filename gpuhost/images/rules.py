"""Images: by which reference a service names one, and which must be built or pulled. Pure, but for the contexts."""

from __future__ import annotations

import re
from collections.abc import Mapping

from gpuhost.catalog.types import BuildImage, PullImage
from gpuhost.engine.facts import DockerReading
from gpuhost.plan.change import Change, Resource
from gpuhost.plan.spec import image_hash


def reference(name: str, image: BuildImage | PullImage) -> str:
    """The reference that services use: our builds carry their spec in the tag, so that an old one stays usable."""
    if isinstance(image, PullImage):
        return image.pull
    return f"gpuhost/{name}:{image_hash(image.build, image.args)[:12]}"


def reconcile(wanted: Mapping[str, BuildImage | PullImage], reading: DockerReading) -> list[Change]:
    """What to build and pull."""
    changes = []
    for name, image in wanted.items():
        tag = reference(name, image)
        if isinstance(image, PullImage):
            if not {tag, _listed(tag)} & reading.tags:
                changes.append(Change("images", Resource("image", tag), "pull", "not on the host"))
            continue
        stamp = reading.images.get(tag)
        if stamp != image_hash(image.build, image.args):
            ours = any(other.startswith(f"gpuhost/{name}:") for other in reading.images)
            why = "its Dockerfile, files or arguments changed" if ours else "not on the host"
            changes.append(Change("images", Resource("image", tag), "build", why))
    return changes


def _listed(reference: str) -> str:
    """The reference as `docker image ls` writes it: no default registry, no tag beside a digest."""
    name, at, digest = reference.removeprefix("docker.io/").removeprefix("library/").partition("@")
    folder, slash, image = name.rpartition("/")
    return f"{folder}{slash}{image.partition(':')[0]}{at}{digest}" if digest else name


_CAUSES = (
    (
        r"(?:pull access denied for|repository) ([\w./:-]+)(?:, repository)? (?:does not exist|not found)",
        "the registry has no image {0}",
        "check its name and tag in group_data; a private image needs `docker login` on the host",
    ),
    (
        r"manifest for ([\w./:@-]+) not found|([\w./:@-]+): (?:failed to resolve source metadata[^\n]*|)not found",
        "the registry has no image {0}",
        "check its tag in group_data",
    ),
    (
        r"(?:toomanyrequests|429 Too Many Requests)",
        "the registry's rate limit is reached",
        "wait, or `docker login` on the host",
    ),
    (
        r"failed to do request: \w+ \"https?://([^/\"]+)|"
        r"(?:dial tcp|lookup) ([\w.-]+(?::\d+)?).*(?:no such host|connection refused|i/o timeout|server misbehaving)",
        "the registry {0} cannot be reached",
        "check the host's DNS and network",
    ),
    (r"no space left on device", "the disk is full", "free space on /var/lib/docker and run again"),
)


def explain(text: str) -> tuple[str, str] | None:
    """The cause of a failed pull or build as (sentence, hint)."""
    for pattern, what, hint in _CAUSES:
        found = re.search(pattern, text, re.IGNORECASE)
        if found:
            return what.format(next((group for group in found.groups() if group), "")), hint
    return None

"""Images: their specs, by which reference a service names one, and which must be built or pulled. Pure, but for the
contexts."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from gpuhost import errors
from gpuhost.catalog.lock import Pins
from gpuhost.catalog.types import BuildImage, PullImage
from gpuhost.engine.facts import DockerReading
from gpuhost.images import dockerfile
from gpuhost.plan.change import Change, Difference, Impact, Resource
from gpuhost.plan.spec import canonical, differences, digest, parse, summary, text_digest
from gpuhost.project import context


def spec(image: BuildImage) -> dict[str, Any]:
    """What a built image is made from: each file of its context and its build arguments, not its id."""
    files = {
        path: text_digest(file.text) + ("" if file.mode == "644" else f" {file.mode}")
        for path, file in context(image.build).items()
    }
    return {"context": files, "args": dict(image.args)}


def sources(image: BuildImage | PullImage) -> list[str]:
    """The references of what comes from registries, as the data names it: what is pulled, or what is built on."""
    return [image.pull] if isinstance(image, PullImage) else dockerfile.bases(_dockerfile(image), image.args)


def is_pinned(reference: str) -> bool:
    """Whether a reference names bytes, and not what somebody may change: it has a digest."""
    return "@sha256:" in reference


def pinned(image: BuildImage | PullImage, pins: Pins) -> BuildImage | PullImage:
    """The image with the digests that are locked: `name:tag@sha256:...` in the place of `name:tag`."""
    if isinstance(image, PullImage):
        return image.model_copy(update={"pull": _pinned(image.pull, pins)})
    bases = {name: image.args.get(name, by_default) for name, by_default in _base_arguments(image).items()}
    locked = {name: value for name, base in bases.items() if (value := _pinned(base, pins)) != base}
    return image.model_copy(update={"args": {**image.args, **locked}})


def _pinned(reference: str, pins: Pins) -> str:
    digest = None if is_pinned(reference) else pins.digest(reference)
    return f"{reference}@{digest}" if digest else reference


def unpinned(images: Mapping[str, BuildImage | PullImage]) -> list[tuple[str, str]]:
    """(image, what nobody checks) of those that are, or are built on, what a tag names on that day."""
    loose = {name: [each for each in sources(image) if not is_pinned(each)] for name, image in images.items()}
    return [
        (
            name,
            f"unpinned: {'is' if isinstance(images[name], PullImage) else 'built on'} {', '.join(found)}, "
            "a tag that can be moved; `gpuhost lock` pins it",
        )
        for name, found in loose.items()
        if found
    ]


def _base_arguments(image: BuildImage) -> dict[str, str]:
    return dockerfile.base_arguments(_dockerfile(image))


def _dockerfile(image: BuildImage) -> str:
    return context(image.build)["Dockerfile"].text


def reference(name: str, image: BuildImage | PullImage) -> str:
    """The reference that services use: our builds carry their spec in the tag, so that an old one stays usable."""
    return image.pull if isinstance(image, PullImage) else f"gpuhost/{name}:{digest(spec(image))[:12]}"


def reconcile(
    wanted: Mapping[str, BuildImage | PullImage],
    reading: DockerReading,
    download_bytes: Mapping[str, int] = MappingProxyType({}),
) -> list[Change]:
    """What to build and pull. `download_bytes`: image -> what pulling it downloads, where that is known."""
    changes = []
    for name, image in wanted.items():
        tag = reference(name, image)
        if isinstance(image, PullImage):
            if not {tag, _listed(tag)} & reading.tags:
                cost = Impact(download_bytes=download_bytes.get(name), disk_bytes=None)
                changes.append(Change("images", Resource("image", tag), "pull", "not on the host", impact=cost))
        elif reading.images.get(tag) != canonical(spec(image)):
            why, diff = _reason(name, image, reading.images)
            changes.append(Change("images", Resource("image", tag), "build", why, diff))
    return changes


def reclaimable(wanted: Mapping[str, BuildImage | PullImage], reading: DockerReading) -> list[str]:
    """The builds of ours that nothing of this host's data names any more: they stay, for a way back."""
    named = {reference(name, image) for name, image in wanted.items()}
    return sorted(tag for tag in reading.images if tag.startswith("gpuhost/") and tag not in named)


def _reason(name: str, image: BuildImage, images: Mapping[str, str]) -> tuple[str, tuple[Difference, ...]]:
    """Why it is built; compared with the build of ours that is nearest to it."""
    ours = [parse(stamp) or {} for tag, stamp in images.items() if tag.startswith(f"gpuhost/{name}:")]
    if not ours:
        return "not on the host", ()
    diff = min((differences(made, spec(image)) for made in ours), key=len)
    return (summary(diff) if diff else "its label is not ours"), diff


def _listed(reference: str) -> str:
    """The reference as `docker image ls` writes it: no default registry, no tag beside a digest."""
    name, at, digest = (
        reference.removeprefix("index.").removeprefix("docker.io/").removeprefix("library/").partition("@")
    )
    folder, slash, image = name.rpartition("/")
    return f"{folder}{slash}{image.partition(':')[0]}{at}{digest}" if digest else name


_CAUSES = (
    (
        r"(?i)(?:pull access denied for|repository) ([\w./:-]+)(?:, repository)? (?:does not exist|not found)",
        "the registry has no image {0}",
        "check its name and tag in group_data; a private image needs `docker login` on the host",
    ),
    (
        r"(?i)manifest for ([\w./:@-]+) not found|([\w./:@-]+): (?:failed to resolve source metadata[^\n]*|)not found",
        "the registry has no image {0}",
        "check its tag in group_data",
    ),
    (
        r"(?i)(?:toomanyrequests|429 Too Many Requests)",
        "the registry's rate limit is reached",
        "wait, or `docker login` on the host",
    ),
    (
        r"(?i)failed to do request: \w+ \"https?://([^/\"]+)|"
        r"(?:dial tcp|lookup) ([\w.-]+(?::\d+)?).*(?:no such host|connection refused|i/o timeout|server misbehaving)",
        "the registry {0} cannot be reached",
        "check the host's DNS and network",
    ),
    (r"(?i)no space left on device", "the disk is full", "free space on /var/lib/docker and run again"),
)


def explain(text: str) -> errors.Cause | None:
    """The cause of a failed pull or build."""
    return errors.explain(_CAUSES, text)

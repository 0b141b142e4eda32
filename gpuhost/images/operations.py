"""Images."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from pyinfra.api.operation import operation
from pyinfra.context import host, state

from gpuhost.catalog.types import BuildImage, PullImage
from gpuhost.engine.facts import DockerState, parts
from gpuhost.host.measures import noted, timed
from gpuhost.host.paths import Paths
from gpuhost.images import rules
from gpuhost.plan.spec import canonical
from gpuhost.run.remote import Script
from gpuhost.run.session import Commands, carry_out, note
from hostside import labels as label


@operation()
def images(wanted: Mapping[str, BuildImage | PullImage], paths: Paths, download_bytes: Mapping[str, int]) -> Commands:
    """Every wanted image is on the host, built from the context and arguments that it is declared with.
    `download_bytes`: image -> what pulling it downloads, where that is known."""
    reading = host.get_fact(DockerState, parts=parts("images"))
    if (old := rules.reclaimable(wanted, reading)) and not state.is_executing:
        free = "`docker image rm NAME` frees one that no container uses"
        note("reclaimable", f"images of ours that the data names no more stay, {free}: {', '.join(old)}", images=old)
    changes = rules.reconcile(wanted, reading, download_bytes)
    subjects = {change.resource.name for change in changes}

    def act() -> Commands:
        for name, image in wanted.items():
            tag = rules.reference(name, image)
            if tag not in subjects:
                continue
            if isinstance(image, PullImage):
                command = f"docker pull {shlex.quote(tag)}"
            else:
                command = _build(name, tag, image, paths)
            size = f"docker image inspect --format '{{{{.Size}}}}' {shlex.quote(tag)}"
            work = timed(command, noted(paths.measures, "image", tag, size))
            # All are announced before the first is begun: this says which one is at work.
            yield Script(f"echo {shlex.quote(f'image {tag}')}\n{work}", rules.explain, live=True)

    yield from carry_out(changes, act())


def _build(name: str, tag: str, image: BuildImage, paths: Paths) -> str:
    labels = {label.IMAGE: name, label.SPEC: canonical(rules.spec(image))}
    options = [f"--label={key}={value}" for key, value in labels.items()]
    options += [f"--build-arg={key}={value}" for key, value in image.args.items()]
    # Plain progress: a line a step, not painted over.
    return (
        "DOCKER_BUILDKIT=1 BUILDKIT_PROGRESS=plain docker build "
        f"{shlex.join(options)} -t {tag} {shlex.quote(paths.image_context(image.build))}"
    )

"""The order in the data: what a catalogue keeps to beyond being valid. Pure."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gpuhost.catalog.layers import leaves
from gpuhost.catalog.types import BuildImage, Catalog
from gpuhost.errors import Problem, suggest
from gpuhost.images.rules import is_pinned, sources
from gpuhost.services import arguments

_RELEASE = re.compile(r"v?\d+(\.\d+)+([._+-][\w.+-]+)?")
_HOME = r"""(?:^|[=:,\s"'])/(?:home|Users)/[^/\s]+"""
# What a path looks like that another machine does not have -> what it is.
_UNPORTABLE = {
    r"(?i)\\\\wsl|wsl\.localhost|wsl\$": "a path of Windows into WSL",
    r"""(?:^|[=:,\s"'])[A-Za-z]:\\""": "a path of Windows",
    r"""(?:^|[=:,\s"'])/mnt/[a-z]/""": "a drive of Windows",
    _HOME: "somebody's home",
    r"""(?:^|[=:,\s"'])/root/""": "root's home",
}


def problems(catalog: Catalog) -> Iterator[Problem]:
    """Everything that is not in order; a hint with each."""
    yield from _images(catalog)
    yield from _paths(catalog)
    unwritten = list(arguments.problems(catalog))
    yield from unwritten
    yield from _refused(catalog)
    if not unwritten:
        yield from _families(catalog)


def _images(catalog: Catalog) -> Iterator[Problem]:
    """Each is a release of an allowed repository; so are those that ours are built from."""
    for field, reference in _references(catalog):
        named = reference.partition("@")[0]
        colon = named.find(":", named.rfind("/") + 1)
        repository, release = (named, "") if colon < 0 else (named[:colon], named[colon + 1 :])
        if repository not in catalog.allowed_images:
            yield Problem(
                f"`{field}`: {repository} is not among the allowed repositories",
                f"{suggest(repository, catalog.allowed_images, 'repository')}; or add it to `allowed_images`",
            )
        if not is_pinned(reference) and not _RELEASE.fullmatch(release):
            yield Problem(
                f"`{field}`: `{release or reference}` is no release",
                "name a release tag such as `:v1.2.3`, or a digest (`@sha256:...`)",
            )


def _references(catalog: Catalog) -> Iterator[tuple[str, str]]:
    """(field, reference) of every image that comes from a registry."""
    for name, image in catalog.images.items():
        yield from ((f"images.{name}", reference) for reference in sources(image))


def _paths(catalog: Catalog) -> Iterator[Problem]:
    """Nothing names a folder that only one person's machine has."""
    for path, value in leaves(catalog.model_dump(mode="json")):
        for text in _texts(value):
            what = next((what for form, what in _UNPORTABLE.items() if re.search(form, text)), None)
            if what:
                yield Problem(
                    f"`{'.'.join(path)}`: `{text}` is {what}",
                    "name a folder below `data_root`, which every host has",
                )


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)


def _refused(catalog: Catalog) -> Iterator[Problem]:
    """No argument and no variable that the image's entry refuses."""
    for name, entry in catalog.services.items():
        image = catalog.images[entry.image]
        if isinstance(image, BuildImage):
            continue
        found = arguments.settings(arguments.written(image, entry))
        for field, used in (("arguments", found), ("environment", entry.environment)):
            for each in used:
                if why := image.refused.get(each):
                    yield Problem(f"`services.{name}.{field}`: {each} is refused: {why}", f"take {each} away")


def _families(catalog: Catalog) -> Iterator[Problem]:
    """With models of a family go certain values of certain arguments."""
    for name, entry in catalog.services.items():
        image = catalog.images[entry.image]
        if isinstance(image, BuildImage):
            continue
        found = arguments.settings(arguments.filled(catalog, name, ()))
        repositories = [catalog.models[model].repo for model in entry.models]
        for argument, right in _wanted(image.families, repositories).items():
            if argument not in found:
                yield Problem(
                    f"`services.{name}`: {argument} is missing, which goes with {', '.join(repositories)}",
                    f"add `{argument}={right}` to its arguments",
                )
            elif found[argument] != right:
                yield Problem(
                    f"`services.{name}`: {argument}={found[argument]} does not go with {', '.join(repositories)}",
                    f"write `{argument}={right}`",
                )


def _wanted(families: Mapping[str, Mapping[str, str]], repositories: Sequence[str]) -> dict[str, str]:
    return {
        argument: value
        for pattern, values in families.items()
        if fnmatch.filter(repositories, pattern)
        for argument, value in values.items()
    }

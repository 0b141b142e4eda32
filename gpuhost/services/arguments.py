"""A service's command line: that of its image's release and its own arguments, with what is decided elsewhere. Pure.

A mark such as `{context}` stands for the service's option of that name (JSON when it is no text), or for one of
SUPPLIED. An argument with a mark that ends in `?` is left out where the service has no such option.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any

from gpuhost.catalog.types import BuildImage, Catalog, PullImage, Service
from gpuhost.errors import Problem
from gpuhost.host.facts import Gpu
from gpuhost.services.placement import memory_part

# What a mark may stand for besides the options: the service's name and port, its first model's repository and revision,
# its number of GPUs, and the part of their memory that it may take.
SUPPLIED = ("service", "container_port", "repo", "revision", "gpu_count", "gpu_memory_part")
_MARK = re.compile(r"\{([a-z_]+)(\??)\}")


def written(image: BuildImage | PullImage, entry: Service) -> list[str]:
    """The arguments as the data has them, marks and all: those of the image's release, then the service's own."""
    release = image.arguments.get(image.release, []) if isinstance(image, PullImage) else []
    return [*release, *entry.arguments]


def filled(catalog: Catalog, name: str, cards: Sequence[Gpu]) -> list[str]:
    """The command line of a service that is placed on these cards."""
    entry = catalog.services[name]
    values = {**entry.options, **_supplied(catalog, name, cards)}
    arguments = []
    for argument in written(catalog.images[entry.image], entry):
        if not any(optional and mark not in values for mark, optional in _MARK.findall(argument)):
            arguments.append(_MARK.sub(lambda mark: _text(values.get(mark[1], mark[0])), argument))
    return arguments


def _supplied(catalog: Catalog, name: str, cards: Sequence[Gpu]) -> dict[str, Any]:
    entry = catalog.services[name]
    model = catalog.models[entry.models[0]] if entry.models else None
    need = entry.gpu.vram_mib if entry.gpu else None
    return {
        "service": name,
        "container_port": entry.container_port,
        **({"repo": model.repo, "revision": model.revision} if model else {}),
        "gpu_count": entry.gpu_count,
        **({"gpu_memory_part": f"{memory_part(need, cards):g}"} if need and cards else {}),
    }


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def problems(catalog: Catalog) -> Iterator[Problem]:
    """Why a command line cannot be written, for every service of the data, enabled or not."""
    for name, entry in catalog.services.items():
        image = catalog.images[entry.image]
        if isinstance(image, PullImage) and image.arguments and image.release not in image.arguments:
            yield Problem(
                f"`images.{entry.image}.arguments` says nothing of the release {image.release or image.pull}",
                f"add its command line, or use one of {', '.join(image.arguments)}",
            )
        for mark in dict.fromkeys(_needed(image, entry)):
            if mark == "gpu_memory_part" and not (entry.gpu and entry.gpu.vram_mib):
                yield Problem(
                    f"`services.{name}`: its command line holds a part of the GPU's memory, and nobody says how much",
                    f"give `services.{name}.gpu` a `vram_mib`",
                )
            elif mark in ("repo", "revision") and not entry.models:
                yield Problem(f"`services.{name}` has no model, and its command line names one", "add it to `models`")
            elif mark not in (*SUPPLIED, *entry.options):
                yield Problem(
                    f"`services.{name}`: its command line has the mark `{{{mark}}}`, for which there is no option",
                    f"add `{mark}` to `services.{name}.options`",
                )


def _needed(image: BuildImage | PullImage, entry: Service) -> list[str]:
    """The marks without which the command line cannot be written."""
    return [mark for argument in written(image, entry) for mark, optional in _MARK.findall(argument) if not optional]


def settings(arguments: Sequence[str]) -> Mapping[str, str]:
    """argument -> value of those written `--name=value`, and of those written `--name value`; a lone one -> "".

    Some programs take `_` for `-` in names: they are all written with `-` here.
    """
    found: dict[str, str] = {}
    for argument, following in zip_longest(arguments, arguments[1:], fillvalue="-"):
        if argument.startswith("-"):
            name, equals, value = argument.partition("=")
            found[name.replace("_", "-")] = value if equals or following.startswith("-") else following
    return found

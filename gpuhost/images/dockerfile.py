"""What a Dockerfile of ours says of the image that it makes. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping


def exposed_ports(dockerfile: str) -> frozenset[int]:
    """The TCP ports on which the image says that it listens (EXPOSE in its last stage); empty when it does not say,
    or says it by a variable."""
    stage = re.split(r"(?im)^[ \t]*FROM[ \t]", dockerfile)[-1]
    words = [word for line in re.findall(r"(?im)^[ \t]*EXPOSE[ \t]+(.*)$", stage) for word in line.split()]
    ports = [re.fullmatch(r"(\d+)(?:-(\d+))?(?:/(tcp|udp))?", word) for word in words]
    if not all(ports):
        return frozenset()
    found: set[int] = set()
    for port in ports:
        if port and port[3] != "udp":
            found |= set(range(int(port[1]), int(port[2] or port[1]) + 1))
    return frozenset(found)


def base_arguments(dockerfile: str) -> dict[str, str]:
    """Build argument -> its default ("" when it has none), of those that are the whole name of an image in the file."""
    defaults = _arguments(dockerfile)
    whole = [re.fullmatch(r"\$(?:\{(\w+)\}|(\w+))", word) for word in _image_words(dockerfile)]
    names = [found[1] or found[2] for found in whole if found]
    return {name: defaults[name] for name in names if name in defaults}


def bases(dockerfile: str, arguments: Mapping[str, str]) -> list[str]:
    """The references of all images that a build takes from a registry, each once; that of the last FROM, on which the
    image stands, is the last one."""
    values = {**_arguments(dockerfile), **arguments}
    found = [_filled(word, values) for word in _image_words(dockerfile)]
    return list(reversed(dict.fromkeys(reversed(found))))


def _arguments(dockerfile: str) -> dict[str, str]:
    """The arguments that FROM may name, those before the first one, with their defaults."""
    head = re.split(r"(?im)^[ \t]*FROM[ \t]", dockerfile)[0]
    return {name: value.strip("\"'") for name, value in re.findall(r"(?im)^[ \t]*ARG[ \t]+(\w+)(?:=(\S*))?", head)}


def _image_words(dockerfile: str) -> list[str]:
    """What FROM and --from name, as it stands there, but for stages of the file itself; of FROM last."""
    stages, images, copied = {"scratch"}, [], []
    for line in dockerfile.splitlines():
        if found := re.match(r"(?i)[ \t]*FROM[ \t]+(?:--\S+[ \t]+)*(\S+)(?:[ \t]+AS[ \t]+(\S+))?", line):
            images += [found[1]] if found[1].lower() not in stages else []
            stages |= {found[2].lower()} if found[2] else set()
        elif not line.lstrip().startswith("#"):
            copied += re.findall(r"(?i)(?:--from=|,from=)([^\s,]+)", line)
    return [*(word for word in copied if word.lower() not in stages and not word.isdigit()), *images]


def _filled(word: str, values: Mapping[str, str]) -> str:
    return re.sub(r"\$(?:\{(\w+)\}|(\w+))", lambda found: values.get(found[1] or found[2], found[0]), word)

"""Where this machine gets packages from, read from its own apt and pip at run time."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from functools import cache
from urllib.parse import urlparse

from .run import run

PUBLIC_DEBIAN = "http://deb.debian.org/debian/"
PUBLIC_SECURITY = "http://deb.debian.org/debian-security/"
PUBLIC_PYPI = "https://pypi.org/simple/"


@dataclass(frozen=True)
class DebianMirror:
    """Base URLs, each with a slash at its end."""

    main: str
    security: str


@cache
def debian_mirror() -> DebianMirror:
    """This machine's Debian mirror; the public one when apt knows none (an Ubuntu machine)."""
    lines = run(
        [
            "apt-get",
            "indextargets",
            "--format",
            "$(REPO_URI)|$(RELEASE)|$(ORIGIN)|$(COMPONENT)",
            "Created-By: Packages",
        ],
        check=False,
    ).stdout.splitlines()
    main = security = ""
    for line in lines:
        uri, release, origin, component = line.split("|")
        if origin != "Debian" or component != "main":
            continue
        if release.endswith("-security"):
            security = security or uri
        elif not release.endswith(("-updates", "-backports")):
            main = main or uri
    return DebianMirror(main or PUBLIC_DEBIAN, security or PUBLIC_SECURITY)


@cache
def pip_indexes() -> tuple[str, ...]:
    """This machine's package indexes, the main one first, each with a slash at its end (file:// too)."""
    settings: dict[str, str] = {}
    for line in run([sys.executable, "-m", "pip", "config", "list"], check=False).stdout.splitlines():
        name, _, value = line.partition("=")
        settings[name.split(".")[-1]] = value.strip("'\"")
    main = os.environ.get("PIP_INDEX_URL") or settings.get("index-url") or PUBLIC_PYPI
    extra = os.environ.get("PIP_EXTRA_INDEX_URL") or settings.get("extra-index-url") or ""
    urls = [main, *extra.replace("\\n", " ").split()]
    return tuple(url.rstrip("/") + "/" for url in urls if urlparse(url).scheme in ("http", "https", "file"))

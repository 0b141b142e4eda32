"""Where packages come from, read at run time: this machine's mirrors from its apt and pip, the public names from the
defaults of mmdebstrap and pip. No package host's name stands in the project."""

from __future__ import annotations

import os
import re
import shutil
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import urlparse

from pip._internal.models.index import PyPI

from .run import RunError, run


@dataclass(frozen=True)
class DebianMirror:
    """Base URLs, each with a slash at its end."""

    main: str
    security: str


@dataclass(frozen=True)
class PackageIndex:
    """`simple_url` with a slash at its end; files lie under another host name."""

    simple_url: str
    name: str
    files_name: str


@cache
def public_debian() -> DebianMirror:
    """What a Debian that nobody configured asks: mmdebstrap's own default."""
    program = shutil.which("mmdebstrap")
    assert program, "prepare.sh installs mmdebstrap"
    text = Path(program).read_text()
    found = [re.search(rf"^\s*my \${name}\s*= '(http[^']*)';", text, re.M) for name in ("mirror", "secmirror")]
    main, security = (match.group(1) + "/" if match else "" for match in found)
    if not main or not security:
        raise RunError(f"{program} does not say which Debian mirror is its default")
    return DebianMirror(main, security)


@cache
def public_pypi() -> PackageIndex:
    """What a pip that nobody configured asks."""
    return PackageIndex(PyPI.simple_url.rstrip("/") + "/", PyPI.netloc, PyPI.file_storage_domain)


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
    return DebianMirror(main or public_debian().main, security or public_debian().security)


@cache
def pip_indexes() -> tuple[str, ...]:
    """This machine's package indexes, the main one first, each with a slash at its end (file:// too)."""
    settings: dict[str, str] = {}
    for line in run([sys.executable, "-m", "pip", "config", "list"], check=False).stdout.splitlines():
        name, _, value = line.partition("=")
        settings[name.split(".")[-1]] = value.strip("'\"")
    main = os.environ.get("PIP_INDEX_URL") or settings.get("index-url") or public_pypi().simple_url
    extra = os.environ.get("PIP_EXTRA_INDEX_URL") or settings.get("extra-index-url") or ""
    urls = [main, *extra.replace("\\n", " ").split()]
    return tuple(url.rstrip("/") + "/" for url in urls if urlparse(url).scheme in ("http", "https", "file"))

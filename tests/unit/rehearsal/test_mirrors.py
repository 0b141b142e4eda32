"""Where packages come from is asked of the machine: no host of a package registry stands in the project."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from urllib.parse import urlparse

from gpuhost.project import PROJECT
from tests.rehearsal.world import mirrors


def hosts() -> Iterator[str]:
    """Of what this machine asks for packages, and of what one that nobody configured asks."""
    pypi, urls = mirrors.public_pypi(), list(mirrors.pip_indexes())
    yield from (pypi.name, pypi.files_name)
    if shutil.which("mmdebstrap"):
        debian = [mirrors.public_debian()]
        debian += [mirrors.debian_mirror()] if shutil.which("apt-get") else []
        urls += [url for each in debian for url in (each.main, each.security)]
    yield from (urlparse(url).hostname or "" for url in urls)


def test_no_host_of_a_package_registry_is_spelled() -> None:
    named = {host for host in hosts() if "." in host and not host.replace(".", "").isdigit()}
    assert len(named) >= 2
    listed = subprocess.run(
        ["git", "-C", str(PROJECT), "ls-files", "-z"], capture_output=True, text=True, check=True
    ).stdout.split("\0")
    texts = {path: (PROJECT / path).read_bytes() for path in listed if path and (PROJECT / path).is_file()}
    assert len(texts) > 300
    assert not [(path, host) for path, text in texts.items() for host in named if host.encode() in text]

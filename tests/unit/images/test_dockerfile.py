"""What a Dockerfile says of its image."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from gpuhost.images.dockerfile import base_arguments, bases, exposed_ports
from gpuhost.project import PROJECT, project_file


@pytest.mark.parametrize(
    ("text", "ports"),
    [
        ("FROM a\nEXPOSE 80\n", {80}),
        ("from a\n  expose 80/tcp 443 53/udp\nEXPOSE 8000-8002\n", {80, 443, 8000, 8001, 8002}),
        ("FROM a AS one\nEXPOSE 1\nFROM b\nRUN x\n", set()),  # of the last stage only
        ("FROM a\nEXPOSE $PORT\n", set()),
        ("FROM a\n# EXPOSE 80\n", set()),
        ("", set()),
    ],
)
def test_the_ports_on_which_an_image_says_that_it_listens(text: str, ports: set[int]) -> None:
    assert exposed_ports(text) == ports


def test_of_our_own_images() -> None:
    assert exposed_ports(project_file("files/orchestrator/Dockerfile")) == {8193}
    assert exposed_ports(project_file("files/sd35/Dockerfile")) == {8000}
    assert exposed_ports(project_file("files/comfyui/Dockerfile")) == set()  # it is told which by its command


STAGES = """# syntax: none
ARG VERSION=1
ARG BASE_IMAGE="a:1"
ARG WITHOUT
# COPY --from=commented:1
FROM --platform=linux/amd64 tools:${VERSION} AS one
FROM one AS Two
COPY --from=one /x /x
COPY --chown=1 --from=ghcr.io/acme/files:2 /x /x
RUN --mount=type=bind,from=mounted:3,target=/x true
FROM scratch
COPY --from=0 /x /x
COPY --from=two /x /x
FROM $WITHOUT
FROM ${BASE_IMAGE}
ARG LATER=b:1
"""


def test_what_a_build_takes_from_registries() -> None:
    """Stages of the file itself are none; on the last one the image stands."""
    assert bases(STAGES, {"VERSION": "9", "WITHOUT": "given:1"}) == [
        "ghcr.io/acme/files:2",
        "mounted:3",
        "tools:9",
        "given:1",
        "a:1",
    ]
    assert bases(STAGES, {"WITHOUT": "a:1", "BASE_IMAGE": "c:1"})[-2:] == ["a:1", "c:1"]
    assert bases("FROM a:1\nFROM b:1\nFROM a:1\n", {}) == ["b:1", "a:1"]


def test_what_can_be_given_by_a_digest() -> None:
    """An argument that is the whole of a name."""
    assert base_arguments(STAGES) == {"BASE_IMAGE": "a:1", "WITHOUT": ""}


@pytest.mark.parametrize("file", sorted(PROJECT.glob("files/*/Dockerfile")), ids=lambda file: file.parent.name)
def test_each_base_of_ours_can(file: Path) -> None:
    text = file.read_text()
    assert bases(text, {}) and set(bases(text, {})) == set(base_arguments(text).values())


@pytest.mark.parametrize("file", sorted(PROJECT.glob("files/*/Dockerfile")), ids=lambda file: file.parent.name)
def test_what_a_build_downloads_can_come_from_a_mirror(file: Path) -> None:
    """Behind mirrors (docs/howto/offline.md) nothing else is reached."""
    text = file.read_text()
    for program, argument in (("pip install", "PACKAGE_INDEX_URL"), ("apt-get update", "DEBIAN_MIRROR_URL")):
        assert (program in text) == (f"\nARG {argument}=\n" in text) == (f"${{{argument}" in text), argument


@pytest.mark.parametrize("name", ["sources.list", "sources.list.d/debian.sources"])
def test_another_mirror_of_debian_stands_in_the_place_of_the_bases_own(name: str, tmp_path: Path) -> None:
    """By the command of the file itself, with another folder."""
    [command] = re.findall(r"(find /etc/apt .*? \+);", project_file("files/comfyui/Dockerfile"), re.DOTALL)
    sources, other = tmp_path / name, tmp_path / "keyrings/a.gpg"
    for path in (sources, other):
        path.parent.mkdir(exist_ok=True)
        path.write_text("URIs: http://one.example/debian\ndeb https://two.example/debian-security a main\n# no URL\n")
    subprocess.run(
        ["sh", "-c", command.replace("/etc/apt", str(tmp_path))],
        env={"PATH": "/usr/bin:/bin", "DEBIAN_MIRROR_URL": "https://mirror.example"},
        check=True,
    )
    assert sources.read_text() == (
        "URIs: https://mirror.example/debian\ndeb https://mirror.example/debian-security a main\n# no URL\n"
    )
    assert "one.example" in other.read_text()

"""What a Dockerfile says of its image."""

from __future__ import annotations

import pytest

from gpuhost.images.dockerfile import exposed_ports
from gpuhost.project import project_file


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

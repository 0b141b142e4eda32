"""By which labels what gpuhost made is known, and what only carries them."""

from __future__ import annotations

import json

import pytest

from hostside import labels

STAMP = json.dumps({"image": "gpuhost/api:1", "memory": "2g"})


@pytest.mark.parametrize(
    ("name", "image", "stamp", "copy"),
    [
        ("api", "gpuhost/api:1", STAMP, False),
        ("mine", "mine:1", STAMP, True),
        ("mine", "gpuhost/api:1", STAMP, False),  # renamed
        ("api", "mine:1", STAMP, False),  # made anew by hand from another image
        *(("mine", "mine:1", stamp, False) for stamp in (None, "", "{", "[]", "3", "{}", "null")),
    ],
)
def test_what_somebody_made_of_a_container_of_ours_is_his(name: str, image: str, stamp: str | None, copy: bool) -> None:
    assert labels.is_copy(name, "api", image, stamp) is copy


def test_the_labels_of_what_is_there_stay() -> None:
    """Containers and images of earlier versions are known by them, and compose sets one itself."""
    found = {value for name, value in vars(labels).items() if name.isupper()}
    own = ("service", "stack", "spec", "models", "alone", "vram_mib", "vram_shared_mib", "image")
    assert found == {*(f"gpuhost.{name}" for name in own), "com.docker.compose.oneoff"}
    assert (labels.SERVICE, labels.SPEC, labels.IMAGE) == ("gpuhost.service", "gpuhost.spec", "gpuhost.image")

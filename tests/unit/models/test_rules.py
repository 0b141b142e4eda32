"""When a model is fetched, and why."""

from __future__ import annotations

from typing import Any

import pytest

from gpuhost.models.facts import ModelsReading
from gpuhost.models.rules import destination, reconcile
from tests.unit import sample

SHA = "0" * 64
ENTRY: dict[str, Any] = {
    "repo": "Acme/Models",
    "file": "split/vae/one.safetensors",
    "revision": "main",
    "dest": "vae/one.safetensors",
    "sha256": SHA,
    "size": 10,
    "mtime_ns": 20,
    "inode": 30,
}
PATH = "/data/models/vae/one.safetensors"


def reasons(entry: dict[str, Any] | None, stat: tuple[int, int, int] | None, **changes: Any) -> list[str]:
    models = sample.catalog({f"models.vae.{key}": value for key, value in changes.items()}).models
    reading = ModelsReading({"vae": entry} if entry else {}, {PATH: stat} if stat else {})
    found = reconcile(models, reading, "/data/models")
    assert {(change.stage, change.resource.name, change.action) for change in found} <= {("models", "vae", "fetch")}
    return [change.reason for change in found]


THERE = (10, 20, 30)


@pytest.mark.parametrize(
    ("entry", "stat", "changes", "reason"),
    [
        (ENTRY, THERE, {}, None),
        (ENTRY, THERE, {"sha256": SHA}, None),
        (None, None, {}, "not there"),
        (ENTRY, None, {}, "not there"),
        (None, THERE, {}, "never verified"),
        (ENTRY, THERE, {"revision": "v2"}, "fetched from another revision"),
        (ENTRY, THERE, {"repo": "Other/Models", "revision": "v2"}, "fetched from another repo, revision"),
        ({**ENTRY, "dest": "unet/one.safetensors"}, THERE, {}, "fetched from another dest"),
        (ENTRY, THERE, {"sha256": "1" * 64}, "its sha256 is not the expected one"),
        (ENTRY, (11, 20, 30), {}, "the file changed since it was verified"),
        (ENTRY, (10, 21, 30), {}, "the file changed since it was verified"),
        (ENTRY, (10, 20, 31), {}, "the file changed since it was verified"),
        ({}, THERE, {}, "never verified"),
    ],
)
def test_reason(
    entry: dict[str, Any] | None, stat: tuple[int, int, int] | None, changes: dict[str, Any], reason: str | None
) -> None:
    assert reasons(entry, stat, **changes) == ([reason] if reason else [])


def test_a_model_lies_in_its_folder_under_its_own_name() -> None:
    assert destination(sample.catalog().models["vae"]) == "vae/one.safetensors"

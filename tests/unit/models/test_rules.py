"""What is to be done with a model file, and why."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from gpuhost.models.former import Manifest, ManifestEntry

from gpuhost.models.facts import FileStat, ModelsReading
from gpuhost.models.rules import destination, reconcile, unpinned
from gpuhost.plan.change import Change, Resource
from tests.unit import sample

BRANCH = "`main` is no commit and there is no `sha256`: only compared with what the hub announces"
SHA, COMMIT = "0" * 64, "a" * 40
LINK = "/data/models/vae/one.safetensors"
CACHE = f"/hub/models--Acme--Models/snapshots/{COMMIT}/split/vae/one.safetensors"
ENTRY = ManifestEntry(
    repo="Acme/Models",
    revision="main",
    file="split/vae/one.safetensors",
    dest="vae/one.safetensors",
    commit=COMMIT,
    path=CACHE,
    size=10,
    mtime_ns=20,
    inode=30,
    sha256=SHA,
)
STAT = FileStat(10, 20, 30)
FETCH, VERIFY, LINKED = "fetch", "verify", "link"


def planned(
    entry: ManifestEntry | None = ENTRY,
    cached: FileStat | None = STAT,
    link: FileStat | str | None = STAT,
    **changes: Any,
) -> list[tuple[str, str]]:
    """(action, reason); `link` "": nothing is there, None: no plain file."""
    models = sample.catalog({f"models.vae.{key}": value for key, value in changes.items()}).models
    reading = ModelsReading(
        Manifest({"vae": entry} if entry else {}),
        {} if isinstance(link, str) else {LINK: link},
        {CACHE: cached} if cached else {},
    )
    found = reconcile(models, reading, "/data/models", "/hub")
    for each in found:
        assert each.change() == Change("models", Resource("model", "vae"), each.file.action, each.reason)
        assert (each.file.commit is None) == (each.file.action == "fetch")
        assert each.file.dest == destination(models["vae"]) and each.file.repo == models["vae"].repo
    return [(each.file.action, each.reason) for each in found]


GONE = "it is gone from the cache"
CHANGED = "the file changed since it was verified"
UNLINKED = "it is not in the models folder"
IN_THE_WAY = "another file is in its place in the models folder"
UNVERIFIED = "it is in the cache and was never verified"

CASES: dict[str, tuple[dict[str, Any], tuple[str, str] | None]] = {
    "right": ({}, None),
    "right, pinned": ({"sha256": SHA}, None),
    "nothing": ({"entry": None, "cached": None, "link": ""}, (FETCH, "it is not there")),
    "no record, a branch": ({"entry": None}, (FETCH, "it was never verified")),
    "no record, a commit": ({"entry": None, "revision": COMMIT}, (VERIFY, UNVERIFIED)),
    "no record, another commit": ({"entry": None, "revision": "b" * 40}, (FETCH, "it was never verified")),
    "another revision": ({"revision": "v2"}, (FETCH, "another revision was fetched")),
    "another revision, in the cache": ({"revision": COMMIT}, (VERIFY, UNVERIFIED)),
    "another repo": ({"repo": "Other/Models", "revision": "v2"}, (FETCH, "another repo, revision was fetched")),
    "another file": ({"file": "split/vae/two.safetensors"}, (FETCH, "another file was fetched")),
    "another pin": ({"sha256": "1" * 64}, (FETCH, "its sha256 is not the expected one")),
    "no snapshot": ({"cached": None}, (FETCH, GONE)),
    "neither": ({"cached": None, "link": ""}, (FETCH, GONE)),
    "another cache": (
        {"entry": replace(ENTRY, path=f"/old{CACHE}")},
        (FETCH, f"it was verified in another cache, as /old{CACHE}"),
    ),
    "another size": ({"cached": FileStat(11, 20, 30)}, (VERIFY, CHANGED)),
    "another time": ({"cached": FileStat(10, 21, 30), "link": FileStat(10, 21, 30)}, (VERIFY, CHANGED)),
    "another inode": ({"cached": FileStat(10, 20, 31)}, (VERIFY, CHANGED)),
    "no link": ({"link": ""}, (LINKED, UNLINKED)),
    "another file in its place": ({"link": FileStat(10, 20, 31)}, (LINKED, IN_THE_WAY)),
    "a symbolic link in its place": ({"link": None}, (LINKED, IN_THE_WAY)),
    "another folder": ({"folder": "unet"}, (LINKED, UNLINKED)),
    "linked, not recorded": (
        {"entry": replace(ENTRY, dest="unet/one.safetensors")},
        (LINKED, "it was recorded as unet/one.safetensors"),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_one_action_for_each_model(case: str) -> None:
    given, wanted = CASES[case]
    assert planned(**given) == ([wanted] if wanted else [])


def test_what_is_hashed_again_is_compared_with_the_pin_else_with_what_it_was() -> None:
    for pin, wanted in ((None, SHA), (SHA, SHA)):
        models = sample.catalog({"models.vae.sha256": pin}).models
        reading = ModelsReading(Manifest({"vae": ENTRY}), {LINK: STAT}, {CACHE: FileStat(11, 20, 30)})
        [found] = reconcile(models, reading, "/data/models", "/hub")
        assert (found.file.sha256, found.file.commit) == (wanted, COMMIT)
    [found] = reconcile(sample.catalog().models, ModelsReading(), "/data/models", "/hub")
    assert (found.file.sha256, found.file.commit) == (None, None)


def test_a_model_lies_in_its_folder_under_its_own_name() -> None:
    assert destination(sample.catalog().models["vae"]) == "vae/one.safetensors"


@pytest.mark.parametrize(("pin", "why"), [({}, BRANCH), ({"revision": COMMIT}, None), ({"sha256": SHA}, None)])
def test_what_nobody_pinned_is_told(pin: dict[str, str], why: str | None) -> None:
    model = sample.catalog().models["vae"].model_copy(update=pin)
    assert unpinned({"vae": model}) == ([("vae", why)] if why else [])

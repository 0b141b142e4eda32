"""What is to be done with a model, why, and what may be freed."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuhost.catalog.lock import LockedFile, LockedModel
from gpuhost.catalog.types import Model
from gpuhost.errors import Problem
from gpuhost.models import rules
from gpuhost.models.facts import FileStat, ModelsReading
from gpuhost.models.rules import ModelStatus, PlannedFile, Wanted, reconcile, wanted
from gpuhost.plan.change import Difference, Impact
from hostside.protocol.models import Manifest, ManifestEntry, ModelFile, manifest_key

SHA, OTHER_SHA, GIT = "0" * 64, "1" * 64, "b" * 40
COMMIT, NEXT = "a" * 40, "c" * 40
REPO, FILE, LINK = "Acme/Models", "split/vae/one.safetensors", "/data/models/vae/one.safetensors"
HUB = "/hub/models--Acme--Models"
CACHE = f"{HUB}/snapshots/{COMMIT}/{FILE}"
STAT = FileStat(10, 20, 30)
ENTRY = ManifestEntry(
    model="vae",
    repo=REPO,
    commit=COMMIT,
    file=FILE,
    path=CACHE,
    size=10,
    mtime_ns=20,
    inode=30,
    sha256=SHA,
    git_sha1=None,
    links=["vae/one.safetensors"],
    verified_ns=1_700_000_000 * 10**9,
    checked_against="hub",
)
MODEL = Model(repo=REPO, allow=[FILE], links={FILE: "vae/one.safetensors"})


def known(sha256: str | None = SHA, size: int = 10, git_sha1: str = GIT) -> LockedFile:
    return LockedFile(size=size, sha256=sha256, git_sha1=git_sha1)


def vae(file: LockedFile | None = None, model: Model = MODEL, commit: str = COMMIT) -> Wanted:
    return Wanted("vae", model, commit, {FILE: file or known()}, "hub")


def reading(
    entry: ManifestEntry | None = ENTRY, cached: FileStat | None = STAT, link: FileStat | str | None = STAT, **over: Any
) -> ModelsReading:
    """`link` "": nothing is there, None: no plain file."""
    return ModelsReading(
        manifest=Manifest({manifest_key(entry.repo, entry.commit, entry.file): entry} if entry else {}),
        links={} if isinstance(link, str) else {LINK: link},
        cached={CACHE: cached} if cached else {},
        refs=over.pop("refs", {f"{HUB}/refs/main": COMMIT}),
        **over,
    )


CASES: dict[str, tuple[dict[str, Any], Wanted, tuple[str, str] | None]] = {
    "right": ({}, vae(), None),
    "nothing": ({"entry": None, "cached": None, "link": ""}, vae(), ("fetch", "it is not there")),
    "no record": ({"entry": None}, vae(), ("verify", "it is in the cache and was never verified")),
    "another commit": ({}, vae(commit=NEXT), ("fetch", "it is not there")),
    "no snapshot": ({"cached": None}, vae(), ("fetch", "it is gone from the cache")),
    "another cache": (
        {"entry": replace(ENTRY, path=f"/old{CACHE}")},
        vae(),
        ("verify", f"it was verified in another cache, as /old{CACHE}"),
    ),
    "another size": ({"cached": FileStat(11, 20, 30)}, vae(), ("verify", "the file changed since it was verified")),
    "another time": ({"cached": FileStat(10, 21, 30)}, vae(), ("verify", "the file changed since it was verified")),
    "another owner": (
        {"cached": replace(STAT, uid=7)},
        vae(),
        ("verify", "it belongs to uid 7, not to the account (uid 0)"),
    ),
    "another mode": ({"cached": replace(STAT, mode=0o600)}, vae(), ("link", "its mode is 600, not 644")),
    "another inode": ({"cached": FileStat(10, 20, 31)}, vae(), ("verify", "the file changed since it was verified")),
    "another sha256": ({}, vae(known(OTHER_SHA)), ("verify", "its sha256 is not the expected one")),
    "a git id that is right": ({"entry": replace(ENTRY, git_sha1=GIT)}, vae(known(None)), None),
    "another git id": (
        {"entry": replace(ENTRY, git_sha1=COMMIT)},
        vae(known(None)),
        ("verify", "its bytes are others"),
    ),
    "no git id was known": ({}, vae(known(None)), ("verify", "it was never compared with what it should be")),
    "compared with nothing": (
        {"entry": replace(ENTRY, checked_against="none")},
        vae(),
        ("verify", "it was never compared with a known hash"),
    ),
    "no link": ({"link": ""}, vae(), ("link", "it is not in the models folder")),
    "another file in its place": (
        {"link": FileStat(10, 20, 31)},
        vae(),
        ("link", "another file is in its place in the models folder"),
    ),
    "no plain file in its place": (
        {"link": None},
        vae(),
        ("link", "another file is in its place in the models folder"),
    ),
    "no link is wanted": ({"link": ""}, vae(model=Model(repo=REPO, allow=[FILE])), None),
}


@pytest.mark.parametrize("case", CASES)
def test_one_action_for_each_file(case: str) -> None:
    there, want, expected = CASES[case]
    refs = {f"{HUB}/refs/main": want.commit}
    found = reconcile([want], reading(**there, refs=refs), "/data/models", "/hub", 0)
    assert [(each.file.action, each.reason) for model in found for each in model.files] == (
        [expected] if expected else []
    )
    assert all(each.ref is None for each in found)


def test_what_the_host_is_told_of_a_file() -> None:
    """All that its program needs: it decides nothing."""
    files = {FILE: known(), "b.bin": known(None, 7)}
    want = Wanted("vae", Model(repo=REPO, links=MODEL.links, gated=True), COMMIT, files, "host")
    [found] = reconcile([want], ModelsReading(refs={f"{HUB}/refs/main": COMMIT}), "/data/models", "/hub", 0)
    told = ModelFile(
        model="vae",
        repo=REPO,
        commit=COMMIT,
        file=FILE,
        size=10,
        sha256=SHA,
        git_sha1=GIT,
        links=["vae/one.safetensors"],
        action="fetch",
        gated=True,
        known_from="hub",
    )
    other = replace(told, file="b.bin", size=7, sha256=None, links=[])
    assert [each.file for each in found.files] == [told, other]


def test_a_branch_has_its_name_in_the_cache() -> None:
    [found] = reconcile([vae()], reading(refs={f"{HUB}/refs/main": NEXT}), "/data/models", "/hub", 0)
    assert found.ref and (found.ref.repo, found.ref.revision, found.ref.commit) == (REPO, "main", COMMIT)
    assert found.action == "link" and not found.files
    assert found.change().reason == f"the cache does not know `main` as commit {COMMIT[:12]}"
    pinned = Model(repo=REPO, revision=COMMIT, allow=[FILE], links=MODEL.links)
    assert reconcile([vae(model=pinned)], reading(refs={}), "/data/models", "/hub", 0) == []


def test_the_plan_names_every_file_with_its_size_and_knows_the_bytes() -> None:
    files = {f"{number}.bin": known(size=10**9 * number) for number in (1, 2, 3)}
    want = Wanted("big", Model(repo=REPO), COMMIT, files, "lock")
    there = {f"{HUB}/snapshots/{COMMIT}/1.bin": FileStat(10**9, 1, 1)}
    seen = ModelsReading(cached=there, refs={f"{HUB}/refs/main": COMMIT})
    [found] = reconcile([want], seen, "/data/models", "/hub", 0)
    change = found.change()
    assert (change.stage, change.resource.kind, change.resource.name, change.action) == (
        "models",
        "model",
        "big",
        "fetch",
    )
    assert change.diff == (
        Difference("1.bin", None, "verify, 1.0 GB"),
        Difference("2.bin", None, "fetch, 2.0 GB"),
        Difference("3.bin", None, "fetch, 3.0 GB"),
    )
    assert change.impact == Impact(download_bytes=5 * 10**9)
    assert change.reason == ("it is not there (2 files); it is in the cache and was never verified (1 file)")
    assert {each.file.known_from for each in found.files} == {"lock"}


def test_what_is_done_with_a_model_is_called_by_the_most_costly() -> None:
    [vae_] = reconcile([vae()], reading(entry=None, cached=None), "/data/models", "/hub", 0)
    file = vae_.files[0].file

    def action(*actions: Any) -> str:
        return rules.PlannedModel("m", [PlannedFile(replace(file, action=each), "w") for each in actions], None).action

    assert (action("link", "verify"), action("verify", "fetch", "link"), action("link")) == ("verify", "fetch", "link")


def test_bytes_that_another_revision_has_are_not_downloaded() -> None:
    seen = reading(blobs={f"{HUB}/blobs/{SHA}": FileStat(10, 1, 1)})
    [found] = reconcile([vae(commit=NEXT)], seen, "/data/models", "/hub", 0)
    assert (found.action, found.fetch_bytes) == ("fetch", 0)
    by_git = reading(blobs={f"{HUB}/blobs/{GIT}": FileStat(10, 1, 1)})
    [found] = reconcile([vae(known(None), commit=NEXT)], by_git, "/data/models", "/hub", 0)
    assert found.fetch_bytes == 0
    half = reading(blobs={f"{HUB}/blobs/{SHA}": FileStat(9, 1, 1)})
    [found] = reconcile([vae(commit=NEXT)], half, "/data/models", "/hub", 0)
    assert found.fetch_bytes == 10


# -- what the data and the hub say -------------------------------------------------------------------------------------


def test_the_files_of_a_model() -> None:
    listing = LockedModel(commit=COMMIT, files={FILE: known(), "other.bin": known()})
    found = wanted("vae", MODEL, listing, "host")
    assert found == Wanted("vae", MODEL, COMMIT, {FILE: known()}, "host")
    checked = Model(repo=REPO, sha256={FILE: SHA})
    assert isinstance(wanted("vae", checked, listing, "hub"), Wanted)


@pytest.mark.parametrize("source", ["lock", "hub"])
def test_data_that_do_not_fit_are_a_problem(source: Any) -> None:
    listing = LockedModel(commit=COMMIT, files={FILE: known()})
    again = "; where the data changed, `gpuhost lock` resolves it anew" if source == "lock" else ""

    def problem(**fields: Any) -> Problem:
        found = wanted("vae", Model(repo=REPO, **fields), listing, source)
        assert isinstance(found, Problem)
        return found

    found = problem(allow=["*.gguf"])
    assert found.what == "`models.vae`: no file of `Acme/Models` at `main` matches `allow` and `ignore`"
    assert found.hint == f"correct the patterns{again}"
    found = problem(links={"split/vae/on.safetensors": "vae/x"})
    assert found.what == "`models.vae` names `split/vae/on.safetensors`, which `Acme/Models` has not at `main`"
    assert found.hint == f"did you mean `{FILE}`?{again}"
    found = problem(sha256={FILE: OTHER_SHA})
    assert found.what == f"`models.vae`: `{FILE}` has sha256 {SHA[:12]}... at `main`, not {OTHER_SHA[:12]}..."


def test_what_nobody_locked_is_told() -> None:
    sources: dict[rules.Source, str] = {"hub": "as the hub says now", "host": "as when this host asked first"}
    for source, said in sources.items():
        each = replace(vae(), source=source)
        assert list(rules.unpinned([each])) == [
            ("vae", f"`main` of Acme/Models is {COMMIT[:12]}, {said}; `gpuhost lock` pins it")
        ]
    assert list(rules.unpinned([replace(vae(), source="lock")])) == []
    assert list(rules.unpinned([vae(model=Model(repo=REPO, revision=COMMIT))])) == []


# -- status, verify, prune ---------------------------------------------------------------------------------------------


def only(found: list[rules.ModelStatus]) -> rules.ModelStatus:
    [status] = found
    return status


def test_status_of_a_model() -> None:
    users = {"vae": ["painter"]}

    def status(seen: ModelsReading) -> rules.ModelStatus:
        return only(rules.status([vae()], {}, users, seen, "/data/models", "/hub", 0))

    found = status(reading())
    assert (found.state, found.bytes, found.disk_bytes, found.checked_against) == ("complete", 10, 10, "hub")
    assert (found.verified_ns, found.used_by) == (ENTRY.verified_ns, ["painter"])
    for wrong in (reading(cached=None), reading(cached=FileStat(10, 21, 30)), reading(link="")):
        found = status(wrong)
        assert (found.state, found.disk_bytes, found.verified_ns, found.checked_against) == ("absent", 0, 0, "none")
    nobody_knows = only(rules.status([], {"vae": MODEL}, users, ModelsReading(), "/data/models", "/hub", 0))
    assert (nobody_knows.state, nobody_knows.revision, nobody_knows.commit) == ("absent", "main", "")


def test_all_that_is_said_of_models() -> None:
    """One that a service needs, what is left of another one, one that nobody knows."""
    needed = Model(repo=REPO, allow=[FILE], links=MODEL.links, licence="mit")
    seen = reading()
    left = [replace(ENTRY, model="old", repo="Acme/Old", file=f"{n}", inode=n, path=f"/hub/{n}") for n in (40, 41)]
    left[1] = replace(left[1], inode=40, checked_against="lock", verified_ns=7)  # one file under two names
    seen.manifest.files.update({manifest_key(each.repo, each.commit, each.file): each for each in left})
    seen.cached.update({each.path: STAT for each in left})
    found = rules.status([vae(model=needed)], {"new": MODEL}, {"new": ["api"]}, seen, "/data/models", "/hub", 0)
    assert found == [
        ModelStatus("vae", REPO, "main", COMMIT, "complete", 1, 10, 10, ENTRY.verified_ns, "hub", (), "mit"),
        ModelStatus("new", REPO, "main", "", "absent", 0, 0, 0, 0, "none", ["api"]),
        ModelStatus("old", "Acme/Old", COMMIT, COMMIT, "unused", 2, 20, 10, 7, "hub", ()),
    ]
    assert [each.licence for each in found] == ["mit", "", ""]


@pytest.mark.parametrize(
    ("against", "said"),
    [
        (["lock", "lock"], "lock"),
        (["lock", "hub"], "hub"),
        (["none", "lock", "hub"], "none"),
    ],
)
def test_a_model_is_proved_as_well_as_its_worst_file(against: list[Any], said: str) -> None:
    seen = reading(entry=None, cached=None)
    for number, each in enumerate(against):
        entry = replace(ENTRY, model="old", file=f"{number}", verified_ns=9 - number, checked_against=each)
        seen.manifest.files[manifest_key(REPO, COMMIT, entry.file)] = entry
    status = only(rules.status([], {}, {}, seen, "/data/models", "/hub", 0))
    assert (status.checked_against, status.verified_ns) == (said, 10 - len(against))


def test_a_model_of_which_a_part_is_there() -> None:
    want = Wanted("vae", Model(repo=REPO), COMMIT, {FILE: known(), "more.bin": known(size=5)}, "hub")
    found = only(rules.status([want], {}, {}, reading(), "/data/models", "/hub", 0))
    assert (found.state, found.files, found.bytes, found.disk_bytes, found.verified_ns) == ("partial", 2, 15, 10, 0)


def test_every_file_that_is_there_is_verified() -> None:
    want = Wanted("vae", Model(repo=REPO), COMMIT, {FILE: known(), "more.bin": known()}, "hub")
    found = rules.to_verify(want, reading(), "/hub")
    assert found and [(each.file.file, each.file.action) for each in found.files] == [(FILE, "verify")]
    assert rules.to_verify(want, ModelsReading(), "/hub") is None


def test_what_no_service_uses_can_be_freed() -> None:
    [left] = rules.reclaimable([], {}, reading())
    assert (left.name, left.disk_bytes, left.entries) == ("vae", 10, [ENTRY])
    change = left.change()
    assert change.key == ("models", "model", "vae", "remove")
    assert change.reason == f"no service of this host uses Acme/Models at {COMMIT[:12]}: 10 B on disk"
    assert change.diff == (Difference(FILE, "10 B", None),)
    status = only(rules.status([], {}, {}, reading(), "/data/models", "/hub", 0))
    assert (status.state, status.disk_bytes, status.used_by) == ("unused", 10, ())


def test_what_a_service_uses_is_never_freed() -> None:
    assert rules.reclaimable([vae()], {}, reading()) == []
    # Of a repository whose wanted files nobody here knows, nothing.
    assert rules.reclaimable([], {"vae": MODEL}, reading()) == []
    # Another revision of it may go; the bytes that both have stay, and free nothing.
    [left] = rules.reclaimable([vae(commit=NEXT)], {}, reading())
    assert (left.name, left.disk_bytes) == (f"vae@{COMMIT[:12]}", 10)
    both = reading()
    newer = replace(ENTRY, commit=NEXT, path=CACHE.replace(COMMIT, NEXT))
    both.manifest.files[manifest_key(REPO, NEXT, FILE)] = newer
    [left] = rules.reclaimable([vae(commit=NEXT)], {}, both)
    assert left.disk_bytes == 0
    # What is gone already frees nothing.
    assert [each.disk_bytes for each in rules.reclaimable([], {}, reading(cached=None))] == [0]


STATES = st.sampled_from(["right", "absent", "unverified", "changed", "unlinked"])


@given(st.lists(STATES, min_size=1, max_size=8), st.booleans())
def test_only_what_differs_is_done_and_only_what_is_absent_is_fetched(states: list[str], named: bool) -> None:
    files = {f"{number}": known(size=number + 1) for number in range(len(states))}
    model = Model(repo=REPO, links={path: f"x/{path}" for path in files})
    seen = ModelsReading(refs={f"{HUB}/refs/main": COMMIT} if named else {})
    for number, state in enumerate(states):
        stat = FileStat(number + 1, 7, number)
        path = f"{HUB}/snapshots/{COMMIT}/{number}"
        if state != "absent":
            seen.cached[path] = replace(stat, mtime_ns=8) if state == "changed" else stat
        if state != "unverified":
            seen.manifest.files[manifest_key(REPO, COMMIT, str(number))] = replace(
                ENTRY, file=str(number), path=path, size=number + 1, mtime_ns=7, inode=number
            )
        if state not in ("absent", "unlinked"):
            seen.links[f"/data/models/x/{number}"] = seen.cached[path]
    found = reconcile([Wanted("m", model, COMMIT, files, "hub")], seen, "/data/models", "/hub", 0)
    actions = {"right": None, "absent": "fetch", "unverified": "verify", "changed": "verify", "unlinked": "link"}
    assert {each.file.file: each.file.action for planned in found for each in planned.files} == {
        str(number): actions[state] for number, state in enumerate(states) if actions[state]
    }
    assert sum(planned.fetch_bytes for planned in found) == sum(
        number + 1 for number, state in enumerate(states) if state == "absent"
    )
    assert bool(found) == (not named or any(state != "right" for state in states))


def of_files(count: int) -> tuple[Wanted, ModelsReading]:
    files = {f"part-{number:05}.bin": known(size=300 * 10**6) for number in range(count)}
    seen = ModelsReading(refs={f"{HUB}/refs/main": COMMIT})
    for number, path in enumerate(files):
        at = f"{HUB}/snapshots/{COMMIT}/{path}"
        seen.cached[at] = FileStat(300 * 10**6, 7, number)
        seen.manifest.files[manifest_key(REPO, COMMIT, path)] = replace(
            ENTRY, file=path, path=at, size=300 * 10**6, mtime_ns=7, inode=number
        )
    return Wanted("big", Model(repo=REPO), COMMIT, files, "lock"), seen


def test_ten_times_the_files_cost_ten_times_the_time_and_not_more(capsys: pytest.CaptureFixture[str]) -> None:
    def seconds(count: int) -> float:
        want, seen = of_files(count)
        began = time.process_time()
        for _ in range(5):
            assert reconcile([want], seen, "/data/models", "/hub", 0) == []
        return (time.process_time() - began) / 5

    few, many = min(seconds(1000) for _ in range(3)), min(seconds(10_000) for _ in range(3))
    with capsys.disabled():
        print(f"\nreconcile: 1,000 files in {few * 1000:.1f} ms, 10,000 in {many * 1000:.1f} ms")
    assert many < 30 * few

"""What the models' operations announce and hand to the programs: the files that the plan named, the token by stdin."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gpuhost.catalog.lock import LockedFile
from gpuhost.host.paths import Paths
from gpuhost.models import operations, preflight
from gpuhost.models.decided import Decided
from gpuhost.models.facts import FileStat, ModelsReading
from gpuhost.models.neighbours import Turns
from gpuhost.models.rules import Wanted
from gpuhost.plan.change import Change, Difference
from gpuhost.run.remote import Completed, Script
from gpuhost.secrets.store import SecretStore
from hostside.protocol.model_import import ImportCandidate, ImportLook, ImportRequest, OtherFile
from hostside.protocol.model_prune import PruneRequest
from hostside.protocol.models import Manifest, ManifestEntry, ModelFailure, ModelsRequest, Progress, manifest_key
from hostside.wire import from_json, to_json
from tests.unit import sample

TOKEN = "hf_never-to-be-seen"  # noqa: S105
PATHS = Paths("/data", "/opt/tools", "/var/lib/state")
HUB, COMMIT, FILE = "/data/cache/huggingface/hub/models--Acme--Models", "c" * 40, "split/vae/one.safetensors"
AT = f"{HUB}/snapshots/{COMMIT}/{FILE}"
STAT = FileStat(1, 2, 3, uid=10001)
ENTRY = ManifestEntry(
    *("vae", "Acme/Models", COMMIT, FILE, AT, 1, 2, 3, "0" * 64, None, ["vae/one.safetensors"], 4, "hub")
)
REFS = {f"{HUB}/refs/main": COMMIT}
RIGHT = ModelsReading(
    Manifest({manifest_key("Acme/Models", COMMIT, FILE): ENTRY}),
    links={"/data/models/vae/one.safetensors": STAT},
    cached={AT: STAT},
    refs=REFS,
)
UNLINKED = ModelsReading(RIGHT.manifest, cached={AT: STAT}, refs=REFS)
KNOWN = {FILE: LockedFile(size=1, sha256="0" * 64, git_sha1="b" * 40)}


class World:
    """What the operations see, report and give to carry_out."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, reading: ModelsReading, executing: bool = True) -> None:
        self.facts: dict[str, Any] = {}
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.notes: list[tuple[str, str]] = []
        self.changes: list[Change] = []
        self.ran: list[tuple[str, str]] = []
        self.answer = Completed(True, "", "")
        self.failed: list[Any] = []

        def get_fact(fact: type, **arguments: Any) -> ModelsReading:
            self.facts.update(arguments)
            return reading

        def carry_out(changes: list[Change], commands: Any) -> Any:
            self.changes = changes
            return list(commands) if changes else []

        def run_now(command: str, stdin: str) -> Completed:
            self.ran.append((command, stdin))
            return self.answer

        def fail_host(*cause: str) -> Any:
            self.failed.append(cause)
            return iter(())

        report = SimpleNamespace(add=lambda event, host, **fields: self.events.append((event, fields)))
        for module in (operations, preflight):
            monkeypatch.setattr(module, "host", SimpleNamespace(name="gpu1", get_fact=get_fact))
        monkeypatch.setattr(operations, "state", SimpleNamespace(is_executing=executing))
        monkeypatch.setattr(operations, "current", lambda: SimpleNamespace(report=report))
        monkeypatch.setattr(operations, "note", lambda event, message, **_: self.notes.append((event, message)))
        monkeypatch.setattr(operations, "carry_out", carry_out)
        monkeypatch.setattr(operations, "run_now", run_now)
        monkeypatch.setattr(operations, "fail_host", fail_host)


def run_of(gated: bool = False) -> Any:
    return sample.run({"models.vae.gated": gated})


def decided(gated: bool = False, size: int = 1) -> Decided:
    files = {FILE: LockedFile(size=size, sha256="0" * 64, git_sha1="b" * 40)}
    return Decided([Wanted("vae", run_of(gated).models["vae"], COMMIT, files, "hub")])


def fetched(gated: bool = False, size: int = 1, turns: Turns | None = None) -> list[Script]:
    store = cast(SecretStore, SimpleNamespace(optional={"HF_TOKEN": TOKEN}.get))
    run = replace(run_of(gated), secrets=store)
    return list(operations.fetched._inner(run=run, models=decided(gated, size).models, turns=turns or {}))


def request_of(script: Script, kind: type) -> Any:
    return from_json(kind, str(script.connector_arguments["_stdin"]))


def test_what_is_right_starts_no_program(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, RIGHT)
    assert fetched() == [] and world.changes == []
    assert world.facts["cache_dir"] == "/data/cache/huggingface/hub"
    assert TOKEN not in repr(world.facts)  # -vvv prints a fact's arguments


def test_only_the_files_of_the_plan_are_handed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    for reading, action in ((ModelsReading(), "fetch"), (UNLINKED, "link")):
        for gated in (False, True):
            world = World(monkeypatch, reading)
            [script] = fetched(gated)
            [change] = world.changes
            assert (change.resource.name, change.action) == ("vae", action)
            asked = request_of(script, ModelsRequest)
            [file] = asked.files
            assert (file.model, file.action, file.gated, file.commit, file.size) == ("vae", action, gated, COMMIT, 1)
            assert (asked.cache_dir, asked.models_dir) == ("/data/cache/huggingface/hub", "/data/models")
            assert [ref.revision for ref in asked.refs] == ([] if reading is UNLINKED else ["main"])
            # What is only linked is asked of nobody.
            assert asked.token == (TOKEN if gated and action == "fetch" else None)
            assert TOKEN not in repr(asked) + str(script.get_raw_value())


def test_the_speed_of_a_large_fetch_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    World(monkeypatch, ModelsReading())
    times = iter([100.0, 110.0])
    monkeypatch.setattr(operations.time, "monotonic", lambda: next(times))
    _, kept = fetched(size=10**9)
    assert "echo 100000000 > /var/lib/state/models-speed" in str(kept.get_raw_value())


def test_the_script_hands_its_stdin_on_and_writes_nothing(tmp_path: Path) -> None:
    """Run here, without changing accounts."""
    fake = tmp_path / "python"
    fake.write_text('#!/bin/sh\ncat; pwd; env; tr "\\0" " " < /proc/$$/cmdline; exit 3\n')
    fake.chmod(0o755)
    account = sample.catalog().account
    script = operations._command(PATHS, account, "https://hub.example/a b", PATHS.models_command)
    assert "HF_ENDPOINT='https://hub.example/a b'" in script and "@" not in script
    script = f"cd / && exec {script}"
    script = script.replace(PATHS.models_command, str(fake))
    script = script.replace("setpriv --reuid=10001 --regid=10001 --clear-groups --", "")
    done = subprocess.run(["sh", "-c", script], input=f"{TOKEN}\n", capture_output=True, text=True, check=False)
    token, where, *rest = done.stdout.splitlines()
    assert (token, where, done.returncode, done.stderr) == (TOKEN, "/", 3, "")
    assert TOKEN not in str(rest) and "HF_HOME=/data/cache/huggingface" in rest
    assert not any(mark in script for mark in (">", "/run", "mktemp", "tee"))


def test_the_last_error_is_the_cause_and_can_be_shown() -> None:
    failures = [ModelFailure("vae", FILE, "disk", what, "free space", 1) for what in ("first", "last\x1b[2J")]
    said = "\n".join(["talk", *map(to_json, failures), '{"event": "error"}', "not JSON"])
    assert operations._explain(said) == ("last\\x1b[2J", "free space")
    assert operations._explain("talk") is None and operations._explain("") is None
    assert operations._explain(to_json(Progress("vae", FILE, 1, 2, 1.0, None))) is None


def test_status_is_an_event_a_model_and_only_in_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, RIGHT, executing=False)
    assert list(operations.reported._inner(run=run_of(), decided=decided())) == [] and world.events == []
    world = World(monkeypatch, RIGHT)
    assert list(operations.reported._inner(run=run_of(), decided=decided())) == []
    [(event, model)] = world.events
    assert (event, model["name"], model["state"], model["used_by"]) == ("model", "vae", "complete", ["painter"])


def test_every_file_that_is_there_is_hashed(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, RIGHT)
    commands = operations.verified._inner(run=run_of(), decided=decided())
    script = next(commands)
    assert [(each.file, each.action) for each in request_of(script, ModelsRequest).files] == [(FILE, "verify")]
    assert world.events == []  # not before the program has ended
    assert next(commands, None) is None and world.events == [("models_verified", {"files": 1, "bytes": 1})]
    world = World(monkeypatch, ModelsReading())
    assert list(operations.verified._inner(run=run_of(), decided=decided())) == [] and world.events == []
    unknown = Decided(unresolved=run_of().models)
    assert list(operations.verified._inner(run=run_of(), decided=unknown)) == []
    assert world.notes[0][1].startswith("vae: nobody here knows its files")


def test_only_what_no_service_uses_is_handed_to_the_prune(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, RIGHT)
    assert list(operations.pruned._inner(run=run_of(), decided=decided())) == []
    [script] = operations.pruned._inner(run=run_of(), decided=Decided())
    [change] = world.changes
    assert (change.resource.name, change.action, change.stage) == ("vae", "remove", "models")
    [file] = request_of(script, PruneRequest).files
    assert (file.repo, file.commit, file.file) == ("Acme/Models", COMMIT, FILE)


def test_an_import_names_what_may_be_missing_files_and_what_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    look = ImportLook([ImportCandidate("vae", FILE, "/old/one.bin")], [OtherFile("/old/notes", 5)], 3)
    world = World(monkeypatch, ModelsReading(), executing=False)
    world.answer = Completed(True, to_json(look), "")
    [script] = operations.imported._inner(run=run_of(), decided=decided(), folder="/old")
    [(command, stdin)] = world.ran
    assert command.endswith("hostside.model_import look") and from_json(ImportRequest, stdin).folder == "/old"
    [change] = world.changes
    assert (change.resource.name, change.action) == ("vae", "import")
    assert change.diff == (Difference(FILE, None, "1 B, from /old/one.bin"),)
    assert change.reason == "1 of its 1 missing files may lie in /old"
    assert world.notes == [
        ("unidentified", "no missing file of a model: /old/notes (5 B)"),
        ("unidentified", "and 2 more files"),
    ]
    asked = request_of(script, ImportRequest)
    assert [wish.file for wish in asked.wishes] == [FILE] and (asked.uid, asked.gid) == (10001, 10001)


@pytest.mark.parametrize("answer", [Completed(False, "", "error: no\nhint: yes"), Completed(True, "{}", "")])
def test_an_import_that_cannot_look_fails_its_host(monkeypatch: pytest.MonkeyPatch, answer: Completed) -> None:
    world = World(monkeypatch, ModelsReading())
    world.answer = answer
    assert list(operations.imported._inner(run=run_of(), decided=decided(), folder="/old")) == []
    assert len(world.failed) == 1 and world.changes == []

"""What the models' operation announces and hands to the program: the files that the plan named, the token by stdin."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gpuhost.host.paths import Paths
from gpuhost.models import operations
from gpuhost.models.facts import FileStat, ModelsReading
from gpuhost.plan.change import Change
from gpuhost.run.remote import Script
from hostside import hub_cache
from hostside.protocol import Manifest, ManifestEntry, ModelFailure, ModelsRequest, Progress
from hostside.wire import from_json, to_json
from tests.unit import sample

TOKEN = "hf_never-to-be-seen"  # noqa: S105
PATHS = Paths("/data", "/opt/tools", "/var/lib/state")
CACHE = "/data/cache/huggingface/hub"
PATH = hub_cache.snapshot(CACHE, "Acme/Models", "c" * 40, "split/vae/one.safetensors")
STAT = FileStat(1, 2, 3)
RIGHT = ModelsReading(
    Manifest(
        {
            "vae": ManifestEntry(
                *("Acme/Models", "main", "split/vae/one.safetensors", "vae/one.safetensors", "c" * 40, PATH),
                *(1, 2, 3, "0" * 64),
            )
        }
    ),
    {"/data/models/vae/one.safetensors": STAT},
    {PATH: STAT},
)


@pytest.fixture
def carried_out(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What the operation gives to carry_out for what was read: (changes, commands)."""

    def carry(reading: ModelsReading, gated: bool = False) -> tuple[list[Change], list[Script]]:
        asked: dict[str, Any] = {}
        given: list[Any] = []

        def get_fact(fact: type, **arguments: Any) -> ModelsReading:
            asked.update(arguments)
            return reading

        def carry_out(changes: list[Change], commands: Any) -> list[Script]:
            given.append(changes)
            return list(commands) if changes else []

        monkeypatch.setattr(operations, "host", SimpleNamespace(get_fact=get_fact))
        monkeypatch.setattr(operations, "carry_out", carry_out)
        catalog = sample.catalog({"models.vae.gated": gated})
        secrets = SimpleNamespace(optional={"HF_TOKEN": TOKEN}.get)
        steps = operations.fetched._inner(
            wanted=catalog.models,
            paths=PATHS,
            manifest="/var/lib/state/models/manifest.json",
            account=catalog.account,
            endpoint="https://hub.example",
            secrets=secrets,
        )
        found = list(steps)
        assert asked["cache_dir"] == CACHE and TOKEN not in repr(asked)  # -vvv prints a fact's arguments
        return given[0], found

    return carry


def test_what_is_right_starts_no_program(carried_out: Any) -> None:
    assert carried_out(RIGHT) == ([], [])


def test_only_the_files_of_the_plan_are_handed_over(carried_out: Any) -> None:
    for reading, action in ((ModelsReading(), "fetch"), (ModelsReading(RIGHT.manifest, {}, RIGHT.cached), "link")):
        for gated in (False, True):
            [change], [step] = carried_out(reading, gated)
            assert (change.resource.name, change.action) == ("vae", action)
            asked = from_json(ModelsRequest, step.connector_arguments["_stdin"])
            assert [(each.name, each.action, each.gated) for each in asked.models] == [("vae", action, gated)]
            assert (asked.cache_dir, asked.models_dir) == (CACHE, "/data/models")
            # What is only linked is asked of nobody.
            assert asked.token == (TOKEN if gated and action == "fetch" else None)
            assert TOKEN not in repr(asked) + str(step.get_raw_value())


def test_the_script_hands_its_stdin_on_and_writes_nothing(tmp_path: Path) -> None:
    """Run here, without changing accounts."""
    fake = tmp_path / "python"
    fake.write_text('#!/bin/sh\ncat; pwd; env; tr "\\0" " " < /proc/$$/cmdline; exit 3\n')
    fake.chmod(0o755)
    script = operations._script(PATHS, sample.catalog().account, "https://hub.example/a b")
    assert "HF_ENDPOINT='https://hub.example/a b'" in script and "@" not in script
    script = script.replace(PATHS.models_command, str(fake))
    script = script.replace("setpriv --reuid=10001 --regid=10001 --clear-groups --", "")
    done = subprocess.run(["sh", "-c", script], input=f"{TOKEN}\n", capture_output=True, text=True, check=False)
    token, where, *rest = done.stdout.splitlines()
    assert (token, where, done.returncode, done.stderr) == (TOKEN, "/", 3, "")
    assert TOKEN not in str(rest) and "HF_HOME=/data/cache/huggingface" in rest
    assert not any(mark in script for mark in (">", "/run", "mktemp", "tee"))


def test_the_last_error_is_the_cause_and_can_be_shown() -> None:
    lines = [to_json(ModelFailure("vae", "disk", what, "free space")) for what in ("first", "last\x1b[2J")]
    said = "\n".join(["talk", *lines, '{"event": "error"}', "not JSON"])
    assert operations._explain(said) == ("last\\x1b[2J", "free space")
    assert operations._explain("talk") is None and operations._explain("") is None
    progress = to_json(Progress("vae", 1, 2))
    assert operations._explain(f"{progress}\ntalk") is None
    assert operations._explain(progress) == (
        "the fetch of the models was killed",
        "`journalctl -k` says whether for memory; run again: it goes on",
    )

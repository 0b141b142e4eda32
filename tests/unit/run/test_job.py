"""The command that starts a detached program."""

from __future__ import annotations

import shlex

import pytest

from gpuhost.errors import Cause
from gpuhost.host.paths import Paths
from gpuhost.run import output
from gpuhost.run.job import Job
from gpuhost.run.remote import Script

SECRET = "hf_never-to-be-seen"  # noqa: S105
PATHS = Paths("/data", "/opt/tools", "/var/lib/state")


def job(shown: output.Shown | None = None) -> Job:
    return Job(
        PATHS, "models", "the fetch of the models", "env A=b\\ c prog", SECRET, lambda text: Cause("w", "h"), shown
    )


def test_the_secret_is_in_its_stdin_alone() -> None:
    words = shlex.split(str(job().get_raw_value()))
    assert words[-4:] == ["--", "env", "A=b c", "prog"] and "hostside.job" in words
    assert words[words.index("run") :][:6] == [
        "run",
        "models",
        "--folder",
        PATHS.jobs,
        "--what",
        "the fetch of the models",
    ]
    assert SECRET not in words and job().connector_arguments["_stdin"] == SECRET


def test_its_lines_are_shown_as_asked_while_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []

    class Host:
        print_prefix = "[gpu1] "

    monkeypatch.setattr(Script, "execute", lambda *_: (seen.append(dict(output._shown)), (True, None))[1])
    shown = str.upper
    assert job(shown).execute(None, Host(), {})[0] and job().execute(None, Host(), {})[0]  # type: ignore[arg-type]
    assert seen == [{"[gpu1] ": shown}, {}] and output._shown == {}

"""`gpuhost models`: what it shows, what it says is verified, when it asks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gpuhost.cli import main as cli
from gpuhost.run import pyinfra as pyinfra_run
from gpuhost.run.pyinfra import Outcome, Target
from tests.unit.cli.test_main import HOST, PROBLEM, change
from tests.unit.described import described

Event = dict[str, Any]
WHEN_NS = 1_764_334_800 * 10**9  # 2025-11-28 13:00 UTC


def model(name: str = "vae", **over: Any) -> Event:
    made: Event = {
        "event": "model",
        "host": "gpu1",
        "name": name,
        "repo": "Acme/Models",
        "revision": "main",
        "commit": "a" * 40,
        "state": "complete",
        "files": 2,
        "bytes": 23_802_932_552,
        "disk_bytes": 23_802_932_552,
        "verified_ns": WHEN_NS,
        "checked_against": "lock",
        "used_by": ["painter"],
        "licence": "",
    }
    return made | over


class Fake:
    """What pyinfra would have given; `asked`: (what, stages, data)."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.plan = self.apply = self.look = Outcome(0, [HOST], "")
        self.asked: list[tuple[str, Any, dict[str, str]]] = []
        monkeypatch.setattr(pyinfra_run, "plan", self._answer("plan"))
        monkeypatch.setattr(pyinfra_run, "apply", self._answer("apply"))
        monkeypatch.setattr(pyinfra_run, "look", self._answer("look"))

    def _answer(self, name: str) -> Any:
        def answer(target: Target, *arguments: Any, **_: Any) -> Outcome:
            stages = next((each for each in arguments if isinstance(each, str) or each == [*map(str, each)]), None)
            self.asked.append((name, stages, dict(target.data)))
            outcome: Outcome = getattr(self, name)
            return outcome

        return answer


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Fake:
    (tmp_path / "inventory.py").write_text('hosts = ["@local"]\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return Fake(monkeypatch)


def run(*words: str) -> int:
    return cli.main(["models", *words])


def test_status_for_people(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    unused = model("old", state="unused", used_by=[], revision="a" * 40, checked_against="none", disk_bytes=10**9)
    fake.look = Outcome(0, [HOST, model(), unused], "")
    assert run("status") == 0
    assert capsys.readouterr().out.splitlines() == [
        "[gpu1]",
        "  vae                      complete  23.8 GB",
        "      Acme/Models at main = aaaaaaaaaaaa",
        "      verified 2025-11-28 13:00 UTC against the lock; used by painter",
        "  old                      unused    1.0 GB of 23.8 GB",
        "      Acme/Models at aaaaaaaaaaaa",
        "      read 2025-11-28 13:00, compared with no known hash; used by no service",
        "  24.8 GB on disk; 1.0 GB unused: `gpuhost models prune`",
    ]
    assert fake.asked == [("look", "model_status", {})]


def test_verified_is_said_only_of_what_was_compared(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    fake.look = Outcome(0, [HOST, model(state="partial", verified_ns=0), model("b", state="absent", commit="")], "")
    assert run("status") == 1
    shown = capsys.readouterr()
    assert "not verified; used by painter" in shown.out and "Acme/Models at main\n" in shown.out
    assert shown.err.splitlines() == ["error: not complete: b, vae", "hint: `gpuhost apply` fetches what is missing"]


@pytest.mark.parametrize(
    ("events", "code", "result"),
    [([model()], 0, "ok"), ([model(state="absent")], 1, "incomplete"), ([PROBLEM], 1, "error")],
)
def test_status_for_programs(
    fake: Fake, capsys: pytest.CaptureFixture[str], events: list[Event], code: int, result: str
) -> None:
    fake.look = Outcome(0, [HOST, *events], "")
    assert run("status", "--json") == code
    document = described("models", capsys.readouterr().out)
    assert document["result"] == result
    models = [event for event in events if event["event"] == "model"]
    assert document["models"] == [{key: value for key, value in each.items() if key != "event"} for each in models]


def test_verify(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    done = {"event": "models_verified", "host": "gpu1", "files": 3, "bytes": 10**9}
    fake.look = Outcome(0, [HOST, done], "")
    assert run("verify") == 0
    assert "[gpu1] 3 files, 1.0 GB: every hash is the known one" in capsys.readouterr().out
    assert fake.asked == [("look", "model_verify", {})]
    fake.look = Outcome(1, [HOST, PROBLEM], "")
    assert run("verify", "--json") == 1
    assert described("models-verified", capsys.readouterr().out)["errors"][0]["what"] == "it cannot be"
    assert run("verify") == 1
    shown = capsys.readouterr()
    assert "every hash" not in shown.out and "error: [gpu1] it cannot be" in shown.err


@pytest.mark.parametrize(("words", "stage"), [(["prune"], "model_prune"), (["import", "/old"], "model_import")])
def test_prune_and_import_plan_first_and_ask(
    fake: Fake, capsys: pytest.CaptureFixture[str], words: list[str], stage: str
) -> None:
    data = {"gpuhost_import": "/old"} if words[0] == "import" else {}
    vae: dict[str, Any] = {"resource": {"kind": "model", "name": "vae"}}
    fake.plan = Outcome(0, [HOST, change(**vae)], "")
    assert run(*words) == 1  # nobody can be asked
    assert "vae" in capsys.readouterr().out
    assert {name for name, _, _ in fake.asked} == {"plan"} and fake.asked[0] == ("plan", [stage], data)
    fake.asked.clear()
    fake.apply = Outcome(0, [HOST, change("performed", **vae)], "")
    assert run(*words, "--yes") == 0
    assert fake.asked[-1] == ("apply", [stage], data)


@pytest.mark.parametrize("words", [["prune"], ["import", "/old"]])
def test_nothing_to_do_is_said_and_nobody_is_asked(
    fake: Fake, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert run(*words) == 0 and capsys.readouterr().out.startswith(f"Nothing to {words[0]}")
    assert run(*words, "--json") == 0 and described("applied", capsys.readouterr().out)["result"] == "ok"
    # What its names stand for is noted beside what is imported, and not alone.
    fake.plan = Outcome(0, [HOST, change(resource={"kind": "file", "name": "/var/lib/gpuhost/revisions.json"})], "")
    assert run(*words) == 0 and capsys.readouterr().out.startswith(f"Nothing to {words[0]}")
    assert {name for name, _, _ in fake.asked} == {"plan"}


@pytest.mark.parametrize("folder", ["old", "/a/../b", "~/old"])
def test_a_folder_of_the_host_is_named_in_full(fake: Fake, capsys: pytest.CaptureFixture[str], folder: str) -> None:
    assert run("import", folder) == 1
    assert capsys.readouterr().err.startswith(f"error: `{folder}` is no full path\nhint: name a folder of the host")
    assert fake.asked == []


@pytest.mark.parametrize("command", ["status", "verify", "prune", "import"])
def test_help_has_an_example(capsys: pytest.CaptureFixture[str], command: str) -> None:
    with pytest.raises(SystemExit):
        run(command, "--help")
    assert f"examples: gpuhost models {command}" in " ".join(capsys.readouterr().out.split())

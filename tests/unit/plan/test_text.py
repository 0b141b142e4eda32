"""What a report becomes: lines for people, one document for programs, an allow-list for the run itself."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from gpuhost.errors import Problem
from gpuhost.plan import report
from gpuhost.plan.change import Change, Difference, Impact, Resource
from gpuhost.plan.document import document
from gpuhost.plan.impact import with_impact
from gpuhost.plan.text import change_lines

WRITE = Change("stacks", Resource("file", "/a"), "write", "the content differs", (Difference("memory", "24g", "28g"),))
START = Change("stacks", Resource("service", "api"), "recreate", "memory", (Difference("x", None, "1"),), "secret")
FETCH = Change("models", Resource("model", "vae"), "fetch", "missing", (Difference("y", "1", None),))
COSTLY = Change("engine", Resource("engine", "dockerd"), "restart", "why", impact=Impact(("api", "x"), ("x",), None))


def event(change: Change, host: str = "one", **over: Any) -> dict[str, Any]:
    return {"event": "change", "host": host, "phase": "plan", "source": "own", **asdict(change), **over}


def test_changes_by_host_and_stage_with_their_differences() -> None:
    events = [event(WRITE), event(START), event(FETCH), event(WRITE, "two")]
    assert list(change_lines(events)) == [
        "[one] stacks",
        "  write /a: the content differs",
        "      ~ memory: 24g -> 28g",
        "  recreate api: memory",
        "      + x: 1",
        "[one] models",
        "  fetch vae: missing",
        "      - y: 1",
        "[two] stacks",
        "  write /a: the content differs",
        "      ~ memory: 24g -> 28g",
    ]


@pytest.mark.parametrize(
    ("impact", "lines"),
    [
        (Impact(), []),
        (Impact(("dockerd",)), []),  # itself
        (Impact(("a", "b"), ("a", "b")), ["      stops for it: a, b"]),
        (Impact(("a", "b"), ("a",)), ["      stops for it: a, b", "      and do not start again by themselves: b"]),
    ],
)
def test_what_else_stops(impact: Impact, lines: list[str]) -> None:
    made = event(Change("engine", Resource("engine", "dockerd"), "restart", "why", impact=impact))
    assert list(change_lines([made]))[2:] == lines


def test_nothing_of_a_host_reaches_a_terminal_as_it_is() -> None:
    nasty = Change("s", Resource("file", "/\x1b[2J"), "write", "\x9b", (Difference("f\x07", "\x1b", "\u202e"),))
    stopped = Change("s", Resource("engine", "d"), "restart", "r", impact=Impact(("\x1bx",), ()))
    lines = list(change_lines([event(nasty), event(stopped)]))
    assert len(lines) == 6 and all(line.isprintable() for line in lines)


@pytest.mark.parametrize("change", [WRITE, START, FETCH, COSTLY, with_impact(START, [])])
def test_a_change_is_read_back_from_its_event(change: Change) -> None:
    assert Change.of(json.loads(json.dumps(event(change)))) == change


def test_one_line_for_a_change() -> None:
    assert WRITE.line() == "stacks: write /a: the content differs"
    assert WRITE.key == ("stacks", "file", "/a", "write")


def test_the_document_for_programs() -> None:
    skipped = {"event": "skipped", "host": "one", "service": "api", "reason": "no GPU", "message": "api: no GPU"}
    noted = [
        {"event": kind, "host": "one", "message": f"a word of {kind}"}
        for kind in ("gpu", "limit", "unpinned", "on_demand")
    ]
    observed = {"event": "observed", "host": "one", "service": "api"}
    others = [{"event": "host", "host": "one", "message": "no note"}]
    problem = Problem("it broke", "mend it", "one")
    made = document("error", [event(COSTLY)], [*others, skipped, *noted, observed], [problem])
    assert made == {
        "result": "error",
        "changes": [
            {
                "host": "one",
                "stage": "engine",
                "resource": {"kind": "engine", "name": "dockerd"},
                "action": "restart",
                "reason": "why",
                "diff": (),
                "impact": {"stops": ("api", "x"), "restarts": ("x",), "download_bytes": None},
            }
        ],
        "skipped": [{"host": "one", "service": "api", "reason": "no GPU"}],
        "notes": [{"host": "one", "message": each["message"]} for each in (skipped, *noted)],
        "observed": [observed],
        "errors": [asdict(problem)],
    }


# --- The report itself ---------------------------------------------------------------------------------------------


def test_events_are_read_back_in_order(tmp_path: Path) -> None:
    path = tmp_path / "report.jsonl"
    assert report.read(path) == []
    told = report.Report(str(path))
    told.add("host", "one", os="debian")
    told.add("gpu", "two")
    assert path.stat().st_mode & 0o777 == 0o600
    assert report.read(path) == [{"event": "host", "host": "one", "os": "debian"}, {"event": "gpu", "host": "two"}]
    assert list(report.select(report.read(path), "gpu", "none")) == [{"event": "gpu", "host": "two"}]


def test_without_a_file_the_events_go_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    report.Report(None).add("host", "one")
    assert list(tmp_path.iterdir()) == []


def test_only_what_a_plan_announced_is_allowed() -> None:
    events = [
        {"event": "host", "host": "one"},
        {"event": "host", "host": "idle"},
        event(WRITE),
        event(FETCH),
        event(START, phase="apply"),
        event(START, event="performed"),
        event(START, "unread"),
        {"event": "host", "host": "one"},
    ]
    assert report.allow_list(events) == {
        "one": [["stacks", "file", "/a", "write"], ["models", "model", "vae", "fetch"]],
        "idle": [],
        "unread": [["stacks", "service", "api", "recreate"]],
    }

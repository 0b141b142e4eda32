"""What a report becomes: lines for people, one document for programs, an allow-list for the run itself."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuhost.errors import Problem
from gpuhost.plan import report
from gpuhost.plan.change import Change, Difference, Impact, Resource
from gpuhost.plan.document import document
from gpuhost.plan.impact import Running, with_impact
from gpuhost.plan.text import Event, Shown, Sign, fitted, note_lines, plan_lines

WRITE = Change("stacks", Resource("file", "/a"), "write", "the content differs", (Difference("memory", "24g", "28g"),))
START = Change("stacks", Resource("service", "api"), "recreate", "memory", (Difference("x", None, "1"),), "secret")
FETCH = Change("models", Resource("model", "vae"), "fetch", "missing", (Difference("y", "1", None),))
COSTLY = Change("engine", Resource("engine", "dockerd"), "restart", "why", impact=Impact(("api", "x"), ("x",), None))


def event(change: Change, host: str = "one", **over: Any) -> dict[str, Any]:
    return {"event": "change", "host": host, "phase": "plan", "source": "own", **asdict(change), **over}


def lines(events: Iterable[dict[str, Any]], **shown: Any) -> list[str]:
    return list(plan_lines(events, Shown(**shown)))


def made(kind: str, *names: str, stage: str = "layout", action: str = "create", reason: str = "why") -> list[Change]:
    return [Change(stage, Resource(kind, name), action, reason) for name in names]


def test_each_host_has_its_stages_with_what_differs_and_its_counts() -> None:
    events = [event(WRITE), event(WRITE, "two"), event(START), event(FETCH)]
    assert lines(events) == [
        "one:",
        "  stacks",
        "    ~ file /a      write     the content differs",
        "        ~ memory: 24g -> 28g",
        "    ~ service api  recreate  memory",
        "        + x: 1",
        "  models",
        "    + model vae  fetch  missing",
        "        - y: 1",
        "Plan: 1 to add, 2 to change, 0 to remove.",
        "two:",
        "  stacks",
        "    ~ file /a  write  the content differs",
        "        ~ memory: 24g -> 28g",
        "Plan: 0 to add, 1 to change, 0 to remove.",
        "All 2 hosts: 1 to add, 3 to change, 0 to remove.",
    ]
    assert not [line for line in lines(events, diffs=False) if "memory:" in line]


def test_what_the_reason_says_already_is_not_said_again_below_it() -> None:
    more = replace(START, reason="memory: 24g -> 28g", diff=WRITE.diff)
    both = replace(more, reason="memory, x differ", diff=(*WRITE.diff, *START.diff))
    assert lines([event(more)])[2:-1] == ["    ~ service api  recreate  memory: 24g -> 28g"]
    assert lines([event(both)])[3:-1] == ["        ~ memory: 24g -> 28g", "        + x: 1"]


def test_hosts_with_the_same_changes_are_shown_once() -> None:
    events = [event(WRITE, "one"), event(WRITE, "two"), event(FETCH, "three")]
    shown = lines(events)
    assert [line for line in shown if line.endswith(":")] == ["one, two (the same on all 2):", "three:"]
    assert len([line for line in shown if "file /a" in line]) == 1
    assert shown[-1] == "All 3 hosts: 1 to add, 2 to change, 0 to remove."
    own = [event(START, host, reason=f"no source has it; into /x/secrets/{host}.env") for host in ("one", "two")]
    assert "into /x/secrets/HOST.env" in lines(own)[2] and "(the same on all 2)" in lines(own)[0]
    assert "into /x/secrets/one.env" in lines(own[:1])[2]
    other = event(WRITE, "two", reason="another reason")
    assert [line for line in lines([events[0], other]) if line.endswith(":")] == ["one:", "two:"]


def test_a_stage_that_reads_as_that_of_a_host_above_is_named() -> None:
    """Two bare hosts share the download of models, and all else is the same."""
    stages = ("engine", "layout", "models", "stacks")
    one = [event(each) for stage in stages for each in made("package", stage, stage=stage)]
    own = event(START, "one", stage="secrets", reason="into /x/one.env")
    two = [event(replace(FETCH, reason="5 GB from one"), "two") if each["stage"] == "models" else each for each in one]
    two = [{**each, "host": "two"} for each in [{**own, "reason": "into /x/two.env"}, *two]]
    shown = lines([own, *one, *two, *({**each, "host": "three"} for each in two[:2])])
    assert shown[shown.index("two:") :] == [
        "two:",
        "  secrets, engine, layout: as on one",
        "  models",
        "    + model vae  fetch  5 GB from one",
        "        - y: 1",
        "  stacks: as on one",
        "Plan: 4 to add, 1 to change, 0 to remove.",
        "three:",
        "  secrets",
        "    ~ service api  recreate  into /x/two.env",
        "        + x: 1",
        "  engine: as on one",
        "Plan: 1 to add, 1 to change, 0 to remove.",
        "All 3 hosts: 9 to add, 3 to change, 0 to remove.",
    ]


def test_as_many_others_are_not_as_on_a_host_above() -> None:
    """What is only counted: the folders of other services."""
    one = [event(each) for each in made("folder", *"abcdefghijklmnop")]
    two = [event(each, "two") for each in made("folder", *"bcdefghijklmnopq")]
    shown = lines([*one, event(FETCH), *two])
    assert shown[shown.index("two:") :][:3] == ["two:", "  layout", "    + 16 folders"]
    same = lines([*one, event(FETCH), *({**each, "host": "two"} for each in one)])
    assert same[same.index("two:") :][:2] == ["two:", "  layout: as on one"]


MANY = [event(change) for change in made("model", *"abcdefghijklmnop", stage="models", action="fetch")]


def test_what_has_no_name_for_people_is_counted_in_a_long_plan() -> None:
    few = [*made("folder", *"ab"), *made("file", *"abc", action="write"), *made("apt index", "apt index")]
    few += [*made("file", "old", action="remove"), *made("network", "x")]
    events = [event(change) for change in few]
    assert lines(events)[2:-1] == [
        "    + folder a   create  why",
        "    + folder b   create  why",
        "    ~ file a     write   why",
        "    ~ file b     write   why",
        "    ~ file c     write   why",
        "    + apt index  create  why",
        "    - file old   remove  why",
        "    + network x  create  why",
    ]
    assert lines([*events, *MANY])[2:6] == [
        "    + network x  create  why",
        "    + 2 folders, 1 apt index",
        "    ~ 3 files",
        "    - 1 file",
    ]
    everything = lines([*events, *MANY], everything=True)
    assert everything[2:10] == lines(events)[2:-1]
    assert everything[-1] == lines([*events, *MANY])[-1] == "Plan: 20 to add, 3 to change, 1 to remove."


@pytest.mark.parametrize(
    "kind",
    ["engine", "image", "install", "model", "network", "packages", "secret", "service", "network", "programs", "stack"],
)
def test_what_people_have_a_name_for_is_listed_in_a_long_plan(kind: str) -> None:
    shown = "\n".join(lines([*MANY, *map(event, made(kind, "mine"))]))
    assert "mine" in shown and "    + 1 " not in shown


@pytest.mark.parametrize(
    ("action", "shown"),
    [
        *((each, "+") for each in ("build", "create", "fetch", "generate", "import", "install", "make", "pull")),
        ("remove", "-"),
        *((each, "~") for each in ("write", "recreate", "restart", "enable", "correct")),
    ],
)
def test_what_comes_to_be_what_goes_and_what_changes(action: str, shown: str) -> None:
    [line] = lines(map(event, made("file", "x", action=action)))[2:-1]
    assert line.startswith(f"    {shown} file x")


def test_how_long_a_short_plan_is() -> None:
    folders = [event(change) for change in made("folder", *"abcdefghijklmno")]
    assert len(folders) == 15 and not [line for line in lines(folders) if "15 folders" in line]
    assert "    + 16 folders" in lines([*folders, *map(event, made("folder", "p"))])


def test_a_sign_stays_with_what_it_is_of() -> None:
    name = "n" * 80
    assert fitted(f"        + {name}: fetch", 80, "          ") == [f"        + {name}:", "          fetch"]
    assert fitted(f"- {name} x", 80) == [f"- {name}", "  x"] and fitted(f"  {name} x", 80) == [f"  {name}", "  x"]
    assert fitted("    ~ a b", 7) == ["    ~ a", "  b"] and fitted("-x", 80) == ["-x"] and fitted(" ", 80) == [" "]


@pytest.mark.parametrize("reason", ["a-hyphened-word " * 20, "/" + "a/path" * 40 + " and more"])
def test_no_word_is_broken(reason: str) -> None:
    [change] = made("file", "x", reason=reason)
    shown = " ".join(lines([event(change)])[2:-1]).split()
    assert shown == ["+", "file", "x", "create", *reason.split()]


def test_what_differs_in_the_name_alone_shares_a_line() -> None:
    shown = lines([event(change) for change in made("secret", "A", "B", "C", "D", stage="secrets", action="generate")])
    assert shown[2:-1] == ["    + secrets A, B, C, D  generate  why"]
    assert shown[-1] == "Plan: 4 to add, 0 to change, 0 to remove."
    assert len(lines([event(change) for change in made("secret", "A", "B", "C")])) == 6


@pytest.mark.parametrize(
    "other",
    [
        {"resource": Resource("folder", "D")},
        {"action": "write"},
        {"reason": "because"},
        {"diff": WRITE.diff},
        {"text_diff": ("+1",)},
        {"impact": Impact(("api",), ("api",))},
    ],
    ids=lambda other: next(iter(other)),
)
def test_what_differs_in_more_than_the_name_has_its_own_line(other: dict[str, Any]) -> None:
    changes = made("file", "A", "B", "C", "D")
    changes[-1] = replace(changes[-1], **other)
    shown = [line.split()[1:3] for line in lines(map(event, changes)) if line.startswith("    ") and line[4] != " "]
    assert shown == [["file", "A"], ["file", "B"], ["file", "C"], [changes[-1].resource.kind, "D"]]


def test_a_new_thing_is_only_counted_whatever_is_in_it() -> None:
    new = Change("layout", Resource("file", "/a"), "create", "it does not exist", WRITE.diff, text_diff=("+1",))
    assert "    + 1 file" in lines([event(new), *MANY])


def test_a_long_reason_stands_below_its_beginning_where_that_leaves_room() -> None:
    reason = "one two three four five six seven eight nine ten eleven twelve"
    assert lines([event(change) for change in made("file", "/etc/a", reason=reason)])[2:-1] == [
        "    + file /etc/a  create  one two three four five six seven eight nine ten",
        "                           eleven twelve",
    ]
    [deep] = made("file", "/etc/" + "a" * 40, reason=reason)
    assert lines([event(deep)])[2:-1] == [
        f"    + file {deep.resource.name}  create  one two three",
        "          four five six seven eight nine ten eleven twelve",
    ]


def test_of_an_installs_folder_the_end_is_shown() -> None:
    [shown] = lines([event(change) for change in made("install", "/data/installs/tree/v1-0123", action="install")])[
        2:-1
    ]
    assert shown == "    + install tree/v1-0123  install  why"


def test_what_stops_a_container_or_says_what_differs_is_never_only_counted() -> None:
    stopping = Change("layout", Resource("file", "z"), "create", "why", impact=Impact(("api",), ("api",)))
    assert "        stops for it: api" in lines([event(stopping), *MANY])
    drifted = event(Change("layout", Resource("file", "/a"), "write", "the content differs", WRITE.diff))
    assert "        ~ memory: 24g -> 28g" in lines([drifted, *MANY])


def test_what_becomes_of_somebody_elses_file_is_never_only_counted() -> None:
    theirs = [*made("apt source", "/etc/a.list", action="disable"), *made("file", "/stacks/b.yml", action="archive")]
    shown = lines([event(change) for change in [*theirs, *made("file", "ours", action="write")]] + MANY)
    assert shown[2:5] == [
        "    ~ apt source /etc/a.list  disable  why",
        "    ~ file /stacks/b.yml      archive  why",
        "    ~ 1 file",
    ]


@settings(max_examples=50)
@given(
    st.lists(
        st.tuples(st.sampled_from(["file", "image", "packages"]), st.text("abc/ -.", min_size=1, max_size=20)),
        min_size=1,
        max_size=8,
    ),
    st.lists(st.text("words-", min_size=1, max_size=12), max_size=60).map(" ".join),
    st.integers(80, 120),
)
def test_lines_fit_the_terminal_and_lose_no_word(things: list[tuple[str, str]], reason: str, width: int) -> None:
    changes = [Change("engine", Resource(kind, name), "install", reason) for kind, name in things]
    shown = lines([event(change) for change in changes], width=width, everything=True)
    assert all(len(line) <= width for line in shown)
    for word in reason.split():
        assert word in " ".join(shown).split()


def test_a_line_is_readable_without_its_colour() -> None:
    def style(sign: Sign, line: str) -> str:
        return f"<{sign}>{line}"

    plain = lines([event(WRITE), event(FETCH)])
    coloured = lines([event(WRITE), event(FETCH)], style=style)
    assert [line.removeprefix("<+>").removeprefix("<~>") for line in coloured] == plain
    assert [line[:3] for line in coloured if line.startswith("<")] == ["<~>", "<+>"]


@pytest.mark.parametrize(
    ("impact", "wanted"),
    [
        (Impact(), []),
        (Impact(("a", "b"), ("a", "b")), ["        stops for it: a, b"]),
        (Impact(("a", "b"), ("a",)), ["        stops for it: a, b", "        and do not start again: b"]),
    ],
)
def test_what_else_stops(impact: Impact, wanted: list[str]) -> None:
    stopping = event(Change("engine", Resource("engine", "dockerd"), "restart", "why", impact=impact))
    assert lines([stopping])[3:-1] == wanted


def test_nothing_of_a_host_reaches_a_terminal_as_it_is() -> None:
    nasty = Change("s", Resource("file", "/\x1b[2J"), "write", "\x9b", (Difference("f\x07", "\x1b", "\u202e"),))
    stopped = Change("s", Resource("engine", "d"), "restart", "r", impact=Impact(("\x1bx",), ()))
    shown = lines([event(nasty), event(stopped)])
    assert len(shown) == 8 and all(line.isprintable() for line in shown)


@pytest.mark.parametrize(
    ("impact", "wanted"),
    [
        (Impact(), []),  # it did not run
        (Impact(("api",), ("api",), seconds=43.2), ["        stops for about 43 s, as at its last start"]),
        (
            Impact(("api",), ("api",), seconds=None),
            ["        stops until it is healthy again; its start was never measured here"],
        ),
        (Impact(("api",), ()), ["        stops, and is not started again"]),
    ],
)
def test_for_how_long_a_service_is_away(impact: Impact, wanted: list[str]) -> None:
    recreated = Change("stacks", Resource("service", "api"), "recreate", "memory", impact=impact)
    assert lines([event(recreated)])[3:-1] == wanted
    assert lines([event(replace(recreated, action="remove"))])[3:-1] == []  # it says so itself


def test_hosts_on_which_a_start_took_another_time_are_shown_once_with_the_longest() -> None:
    def recreated(host: str, seconds: float | None, disk_bytes: int | None = 0) -> dict[str, Any]:
        impact = Impact(("api",), ("api",), seconds=seconds, disk_bytes=disk_bytes)
        return event(Change("stacks", Resource("service", "api"), "recreate", "memory", impact=impact), host)

    shown = lines([recreated("one", 43.2), recreated("two", 61.0, 7), recreated("three", 5.0, None)])
    assert shown[0] == "one, two, three (the same on all 3):"
    assert shown[3] == "        stops for about 61 s, as at its last start"
    shown = lines([recreated("one", 43.2), recreated("two", None)])  # of one nobody knows it
    assert [line for line in shown if line.endswith(":")] == ["one:", "two:"]


@pytest.mark.parametrize("change", [WRITE, START, FETCH, COSTLY, with_impact(START, Running())])
def test_a_change_is_read_back_from_its_event(change: Change) -> None:
    assert Change.of(json.loads(json.dumps(event(change)))) == change


def test_one_line_for_a_change() -> None:
    assert WRITE.line() == "stacks: write /a: the content differs"
    assert WRITE.key == ("stacks", "file", "/a", "write")
    assert (WRITE.scope, WRITE.impact, WRITE.text_diff, made("file", "x")[0].diff) == ("", None, (), ())


def test_what_is_not_pinned_is_one_line_a_host_and_no_news_to_who_only_looks() -> None:
    def note(kind: str, message: str, host: str = "one") -> Event:
        return {"event": kind, "host": host, "message": message}

    pins = [note("unpinned", f"image {name}: built on a tag") for name in ("comfyui", "gpu-check", "orchestrator")]
    events = [*pins, note("limit", "api: less"), note("skipped", "skipped: api: no GPU"), note("host", "no note")]
    events += [note("unused", "a file", ""), note("unpinned", "vae: `main`", "two"), note("reclaimable", "an image")]
    assert list(note_lines(events, planned=False)) == ["[one] skipped: api: no GPU", "note: a file"]
    beyond = note("exposed", "api: port 9001 is open to the network")  # a verification says it as well
    assert list(note_lines([beyond], planned=False)) == ["[one] api: port 9001 is open to the network"]
    assert list(note_lines(events, planned=True)) == [
        *("[one] api: less", "[one] skipped: api: no GPU", "note: a file", "[one] an image"),
        "[one] not pinned, so another day may bring others: image comfyui, image gpu-check, image orchestrator; "
        "`gpuhost lock` pins",
        "[two] not pinned, so another day may bring others: vae; `gpuhost lock` pins",
    ]


def test_what_is_the_same_for_several_hosts_is_said_once() -> None:
    def both(kind: str, message: str) -> list[Event]:
        return [{"event": kind, "host": host, "message": message} for host in ("one", "two")]

    events = [*both("limit", "api: less"), *both("unpinned", "vae: `main`"), *both("skipped", "skipped: api")[:1]]
    assert list(note_lines(events, planned=True)) == [
        "[one, two] api: less",
        "[one] skipped: api",
        "[one, two] not pinned, so another day may bring others: vae; `gpuhost lock` pins",
    ]


def test_a_long_line_is_several_that_fit() -> None:
    line = "error: " + "words-of-many letters " * 10 + "/a/path" * 20
    shown = fitted(line, 80)
    assert " ".join(line.split()) == " ".join(" ".join(shown).split())
    assert all(len(each) <= 80 for each in shown[:-1]) and all(each.startswith("  ") for each in shown[1:])
    assert fitted("", 80) == [""]


def test_fields_with_long_names_fit_the_terminal() -> None:
    diff = (Difference(f"split_files/{'x' * 56}", None, "fetch, 111 kB from another host"),)
    shown = lines([event(Change("models", Resource("model", "vae"), "fetch", "why", diff))])
    assert shown[3:-1] == [f"        + split_files/{'x' * 56}:", "          fetch, 111 kB from another host"]


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
        "version": 1,
        "result": "error",
        "changes": [
            {
                "host": "one",
                "stage": "engine",
                "resource": {"kind": "engine", "name": "dockerd"},
                "action": "restart",
                "reason": "why",
                "diff": (),
                "text_diff": (),
                "impact": {
                    **{"stops": ("api", "x"), "restarts": ("x",), "download_bytes": None, "neighbour_bytes": {}},
                    **{"disk_bytes": 0, "seconds": 0.0, "starts": False, "opens": (), "reboot": "no"},
                },
            }
        ],
        "totals": {},
        "skipped": [{"host": "one", "service": "api", "reason": "no GPU"}],
        "notes": [{"host": "one", "message": each["message"]} for each in (skipped, *noted)],
        "observed": [observed],
        "errors": [asdict(problem)],
    }


def test_the_lines_of_a_file_that_changes() -> None:
    diff = ("@@ -1 +1 @@", "-old \x1b[2J", "+" + "n" * 100)
    shipped = made("folder", *(f"/f{number}" for number in range(30)))
    change = Change("layout", Resource("file", "/etc/a"), "write", "the content differs", text_diff=diff)
    shown = lines([event(each) for each in (*shipped, change)])
    assert "    ~ file /etc/a  write  the content differs" in shown  # though many others are only counted
    assert shown[-5:-2] == ["        @@ -1 +1 @@", "        -old \\x1b[2J", "        +" + "n" * 100]
    assert not any("@@" in line for line in lines([event(change)], diffs=False))
    label = event(Change("stacks", Resource("file", "/etc/a"), "write", "why", text_diff=("-" + "x" * 1999, "+y")))
    assert lines([label])[3:5] == ["        -" + "x" * 159 + " ... (1840 more characters)", "        +y"]
    assert lines([label], everything=True)[3] == "        -" + "x" * 1999
    coloured = lines([event(change)], style=lambda sign, text: f"{sign}{text}")
    assert coloured[-4:-1] == ["        @@ -1 +1 @@", "-        -old \\x1b[2J", "+        +" + "n" * 100]
    assert Change.of(event(change)) == change


# --- The report itself ---------------------------------------------------------------------------------------------


def test_events_are_read_back_in_order(tmp_path: Path) -> None:
    path = tmp_path / "report.jsonl"
    assert report.read(path) == []
    told = report.Report(str(path))
    told.add("host", "one", os="debian")
    told.add("gpu", "two")
    assert path.stat().st_mode & 0o777 == 0o600
    assert report.read(path) == [{"event": "host", "host": "one", "os": "debian"}, {"event": "gpu", "host": "two"}]
    path.write_text(path.read_text().replace("\n", "\n\n"))  # torn by a full disk
    assert len(report.read(path)) == 2
    assert list(report.select(report.read(path), "gpu", "none")) == [{"event": "gpu", "host": "two"}]


def test_events_are_told_host_by_host_in_the_inventorys_order() -> None:
    order: Event = {"event": "hosts", "host": "", "names": ["b", "a"]}
    told = [{"event": str(number), "host": host} for number, host in enumerate("abab")]
    found = report.by_host([told[0], order, *told[1:], {"event": "unused", "host": ""}])
    assert [event["event"] for event in found] == ["hosts", "unused", "1", "3", "0", "2"]


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

"""What was performed compared with what was planned, host by host."""

from __future__ import annotations

from typing import Any

import pytest

from gpuhost.plan.performed import already_done, unplanned

Event = dict[str, Any]


def change(name: str, host: str = "one", event: str = "change") -> Event:
    made = {"event": event, "host": host, "stage": "layout", "action": "create", "reason": "why", "scope": ""}
    return {**made, "resource": {"kind": "folder", "name": name}, "diff": [], "impact": None}


def performed(name: str, host: str = "one") -> Event:
    return change(name, host, "performed")


def on(*hosts: str, event: str = "host") -> list[Event]:
    return [{"event": event, "host": host, "ok": True, "what": "", "hint": ""} for host in hosts]


PLANNED = [change("/a"), change("/b"), change("/a", "two")]
ALL = [performed("/a"), performed("/b"), performed("/a", "two")]


def surprises(events: list[Event]) -> list[tuple[str, str]]:
    return [(problem.host, problem.what) for problem in unplanned(PLANNED, events)]


def unnecessary(events: list[Event], succeeded: bool = True) -> list[tuple[str, str]]:
    return [(event["host"], event["resource"]["name"]) for event in already_done(PLANNED, events, succeeded)]


def test_as_planned() -> None:
    events = [*on("one", "two"), *ALL]
    assert (surprises(events), unnecessary(events)) == ([], [])


def test_not_planned_at_all_or_only_for_another_host() -> None:
    events = [*on("one", "two"), *ALL, performed("/c"), performed("/b", "two")]
    assert surprises(events) == [
        ("one", "`layout: create /c` was done, but not planned"),
        ("two", "`layout: create /b` was done, but not planned"),
    ]


@pytest.mark.parametrize("event", ["problem", "failed"])
def test_a_host_that_failed_is_left_aside_and_no_other(event: str) -> None:
    failure = change("/a", event=event) if event == "failed" else on("one", event="problem")[0]
    events = [*on("one", "two"), performed("/c"), performed("/c", "two"), failure]
    assert surprises(events) == [("two", "`layout: create /c` was done, but not planned")]


def test_what_another_hand_made_meanwhile_is_already_done() -> None:
    assert unnecessary([*on("one", "two"), *ALL[1:]]) == [("one", "/a")]


def test_a_run_that_stopped_says_nothing_of_what_it_did_not_reach() -> None:
    """Of a failed run only those hosts came to the end that have a verdict, and did not fail."""
    ended = [*on("one", "two"), performed("/a"), *on("two", event="verdict")]
    assert unnecessary(ended, succeeded=False) == [("two", "/a")]
    assert unnecessary([*ended, *on("two", event="problem")], succeeded=False) == []
    assert unnecessary([*on("one", "two"), performed("/a")], succeeded=False) == []


def test_a_host_that_the_run_did_not_reach_is_not_done() -> None:
    assert unnecessary([*on("one"), *ALL[:2]]) == []

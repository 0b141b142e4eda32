"""When a container is made anew, and why."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from gpuhost.engine.facts import Container
from gpuhost.services.rules import WILL_BE_WRITTEN, Clock, Stamps, reconcile

WANTED = Stamps("spec", "secrets")
STARTED_S = datetime(2026, 11, 21, 11, 41, 15, 250000, UTC).timestamp()


def container(
    spec: str = "spec", secrets: str = "secrets", state: str = "running", health: str = "healthy"
) -> Container:
    return Container("api", spec, secrets, "abc", state, health, "2026-11-21T11:41:15.25Z")


@pytest.mark.parametrize(
    ("wanted", "there", "expected"),
    [
        (WANTED, container(), None),
        (WANTED, container(health="unhealthy"), None),  # making it anew cures nothing: verify tells why
        (WANTED, container(health="starting"), None),
        (WANTED, None, ("create", "no container")),
        (WANTED, container(spec="old"), ("recreate", "its entry, template, image or install changed")),
        (WANTED, container(secrets="old"), ("recreate", "it runs with another secret")),
        (Stamps("spec", None), container(), ("recreate", "it runs with another secret")),
        (WANTED, container(state="exited"), ("recreate", "it is exited")),
        (WANTED, container(state="created"), ("recreate", "it was made and never started")),
        (WANTED, container(state="paused"), ("recreate", "it is paused")),
        (WANTED, container(spec="old", state="exited"), ("recreate", "its entry, template, image or install changed")),
    ],
)
def test_reason(wanted: Stamps, there: Container | None, expected: tuple[str, str] | None) -> None:
    found = reconcile({"api": wanted}, {"api": there} if there else {})
    assert [(change.action, change.reason) for change in found] == ([expected] if expected else [])
    assert all((change.stage, change.resource.name) == ("stacks", "api") for change in found)


def test_the_order_is_the_start_order_and_others_are_left_alone() -> None:
    wanted = {"zebra": WANTED, "api": WANTED, "moth": WANTED}
    found = reconcile(wanted, {"stranger": container(), "api": container()})
    assert [change.resource.name for change in found] == ["zebra", "moth"]


def test_what_the_plan_promised_is_done_though_the_container_came_back_by_itself() -> None:
    found = reconcile({"api": WANTED}, {"api": container()}, {("api", "recreate"), ("other", "recreate")})
    assert [(change.resource.name, change.action) for change in found] == [("api", "recreate")]
    assert reconcile({"api": WANTED}, {"api": container()}, {("api", "create")}) == []


@pytest.mark.parametrize(
    ("wanted", "seen", "names"),
    [
        ('{"A": "1", "B": "2"}', '{"A": "1", "B": "3"}', "B"),
        ('{"A": "1", "B": "2"}', '{"A": "0", "B": "3"}', "A, B"),
        ('{"A": "1"}', '{"A": "1", "B": "2"}', "B"),
        ('{"A": "1"}', "of an earlier form", "secret"),
        ('{"A": "1"}', "[]", "secret"),
    ],
)
def test_which_secret_is_another_one(wanted: str, seen: str, names: str) -> None:
    [change] = reconcile({"api": Stamps("spec", wanted)}, {"api": container(secrets=seen)})
    assert (change.reason, change.cause) == (f"it runs with another {names}", "secret")


@pytest.mark.parametrize(
    ("written_s", "now_s", "outdated"),
    [
        (STARTED_S - 0.01, STARTED_S + 9, False),
        (STARTED_S + 0.01, STARTED_S + 9, True),
        (STARTED_S + 0.01, STARTED_S, False),  # a file from the future: the clock was set back since
        (WILL_BE_WRITTEN, STARTED_S, True),
    ],
)
def test_a_process_older_than_its_files_is_made_anew(written_s: float, now_s: float, outdated: bool) -> None:
    found = reconcile({"api": WANTED}, {"api": container()}, clock=Clock({"api": written_s}, now_s))
    assert [(change.reason, change.cause) for change in found] == (
        [("it read its files before they became what they should be", "secret")] if outdated else []
    )
    assert reconcile({"api": WANTED}, {"api": container()}, clock=Clock({"other": written_s}, now_s)) == []


def test_what_a_killed_run_left_is_cleared_away() -> None:
    """Compose makes the new container under another name, removes the old one, renames, starts: a kill hits between."""
    for there in (container(), container(secrets="old"), container(state="created")):
        [change] = reconcile({"api": WANTED}, {"api": there}, cut_off={"api", "other"})
        assert (change.reason, change.cause) == ("a run was cut off while it made its container", "secret")
    [change] = reconcile({"api": WANTED}, {"api": container(state="created")})
    assert change.cause == "secret"


def test_only_a_secret_is_a_matter_of_secrets() -> None:
    causes = {"no container": None, "spec": container(spec="old"), "state": container(state="exited")}
    for there in causes.values():
        [change] = reconcile({"api": WANTED}, {"api": there} if there else {})
        assert change.cause == ""

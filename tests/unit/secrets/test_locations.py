"""Every location of every secret, as observed: the diff of a change, and what is in sync, stale or missing."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuhost.plan.change import Difference
from gpuhost.secrets import locations
from gpuhost.secrets.locations import Holding, SecretLocation, Variable, audit, differences
from hostside import secret_audit
from hostside.protocol.secret_audit import HeldFile, HeldVariable, HoldingContainer, SecretAuditAnswer
from hostside.wire import to_json

MARK = "never-to-be-seen"


def fingerprint(name: str, value: str) -> str:
    return hashlib.sha256(f"{name}={value}".encode()).hexdigest()


def held(name: str, value: str, plain: bool = False) -> HeldVariable:
    return HeldVariable(fingerprint(name, value), value if plain else None)


def shown(name: str, value: str) -> str:
    return f"({fingerprint(name, value)[:12]})"


# --- The diff of a change -----------------------------------------------------------------------------------------


def lines(found: tuple[Difference, ...]) -> tuple[str, ...]:
    return tuple(difference.line() for difference in found)


def test_added_removed_and_changed_by_name() -> None:
    wanted = [
        Variable("PORT", "9002", secret=False),
        Variable("MEMORY", "8g", secret=False),
        Variable("TOKEN", f"new {MARK}"),
        Variable("SAME", f"same {MARK}"),
        Variable("KEY", f"key {MARK}"),
    ]
    seen = {
        "PORT": held("PORT", "9001", plain=True),
        "MEMORY": held("MEMORY", "8g", plain=True),
        "TOKEN": held("TOKEN", f"old {MARK}"),
        "SAME": held("SAME", f"same {MARK}"),
        "GONE": held("GONE", f"gone {MARK}"),
    }
    found = lines(differences(wanted, seen, fingerprint))
    assert found == (
        f"- GONE: {shown('GONE', f'gone {MARK}')}",
        f"+ KEY: {shown('KEY', f'key {MARK}')}",
        "~ PORT: 9001 -> 9002",
        f"~ TOKEN: {shown('TOKEN', f'old {MARK}')} -> {shown('TOKEN', f'new {MARK}')}",
    )
    assert MARK not in "".join(found)


def test_a_file_that_is_not_there_yet() -> None:
    wanted = [Variable("PORT", "9001", secret=False), Variable("TOKEN", MARK), Variable("LATER", None)]
    assert lines(differences(wanted, {}, fingerprint)) == (
        "+ LATER: (to be generated)",
        "+ PORT: 9001",
        f"+ TOKEN: {shown('TOKEN', MARK)}",
    )


def test_without_a_key_a_secret_is_only_named() -> None:
    """Before the first apply there is nothing to make a fingerprint with."""
    wanted = [Variable("TOKEN", MARK), Variable("LATER", None), Variable("PORT", "9001", secret=False)]
    assert lines(differences(wanted, {}, None)) == ("+ LATER: (to be generated)", "+ PORT: 9001", "+ TOKEN: (given)")


def test_a_secret_that_will_be_made_anew() -> None:
    [line] = lines(differences([Variable("TOKEN", None)], {"TOKEN": held("TOKEN", MARK)}, fingerprint))
    assert line == f"~ TOKEN: {shown('TOKEN', MARK)} -> (to be generated)"


def test_no_difference_no_line() -> None:
    wanted = [Variable("PORT", "9001", secret=False), Variable("TOKEN", MARK)]
    seen = {"PORT": held("PORT", "9001", plain=True), "TOKEN": held("TOKEN", MARK)}
    assert differences(wanted, seen, fingerprint) == ()


@given(
    st.lists(st.builds(Variable, st.sampled_from("ABC"), st.just(MARK), st.booleans()), unique_by=lambda v: v.name),
    st.dictionaries(st.sampled_from("ABCD"), st.just(MARK)),
)
def test_whatever_is_no_plain_variable_now_is_never_shown(wanted: list[Variable], before: dict[str, str]) -> None:
    """What the program is asked decides: it sends no other value."""
    asked = locations.request("key", {"/env": wanted}, {}, None)
    plain = set(asked.env_files[0].plain)
    seen = {name: held(name, value, name in plain) for name, value in before.items()}
    showing = [line for line in lines(differences(wanted, seen, fingerprint)) if MARK in line]
    assert (
        {line.split()[1].rstrip(":") for line in showing} <= plain == {each.name for each in wanted if not each.secret}
    )


# --- What the host's program is asked ---------------------------------------------------------------------------------


def test_the_request_is_one_that_the_program_takes() -> None:
    variables = [Variable("PORT", "1", secret=False), Variable("TOKEN", MARK), Variable("LATER", None)]
    asked = locations.request(f"key {MARK}", {"/stack/.env": variables}, {"/stack/PASSWORD": "{HASH}\n"}, ["TOKEN"])
    assert MARK not in repr(asked) and to_json(asked).count(MARK) == 1  # the key
    assert secret_audit.parse(to_json(asked).encode()) == asked
    assert asked.env_files[0].plain == ["PORT"] and asked.secret_files[0].template == "{HASH}\n"
    assert asked.containers == ["TOKEN"] and locations.request("key", {}, {}, None).containers is None


# --- In sync, stale, missing ------------------------------------------------------------------------------------------

ENV, FILE = "/stacks/x/.env.docker", "/stacks/x/secrets/x/PASSWORD"
RIGHT = {"TOKEN": fingerprint("TOKEN", "new"), "HASH": fingerprint("HASH", "new"), "USER": fingerprint("USER", "me")}
OLD = {"TOKEN": fingerprint("TOKEN", "old"), "HASH": fingerprint("HASH", "old"), "USER": fingerprint("USER", "me")}
STARTED = 1767225600_000000000
NOW = STARTED + 10**9

Rows = list[tuple[str, str, str, str, str | None]]


def container(env: Mapping[str, str] | None = None, **over: Any) -> HoldingContainer:
    made: dict[str, Any] = {
        "name": "x",
        "service": "x",
        "state": "running",
        "started_ns": STARTED,
        "env": dict(env or {}),
        "added": {},
    }
    return HoldingContainer(**(made | over))


def file(fingerprints: Mapping[str, str] | None, modified_ns: int = STARTED - 1) -> HeldFile:
    return HeldFile(None if fingerprints is None else dict(fingerprints), modified_ns)


def rows(
    held_by: Mapping[str, list[str]] | None = None,
    services: Mapping[str, Holding] | None = None,
    wanted: Mapping[str, str | None] = RIGHT,
    **seen: Any,
) -> Rows:
    nothing: dict[str, Any] = {"env_files": {}, "secret_files": {}, "containers": [], "now_ns": NOW}
    answer = SecretAuditAnswer(**(nothing | seen))
    found = audit(wanted, held_by or {}, services or {}, answer)
    assert all(isinstance(each, SecretLocation) for each in found)
    return [(each.secret, each.kind, each.where, each.state, each.fingerprint) for each in found]


@pytest.mark.parametrize(
    ("seen", "state", "print_of"),
    [
        ({ENV: {"TOKEN": HeldVariable(RIGHT["TOKEN"])}}, "in sync", RIGHT["TOKEN"]),
        ({ENV: {"TOKEN": HeldVariable(OLD["TOKEN"])}}, "stale", OLD["TOKEN"]),
        ({ENV: {"OTHER": HeldVariable(RIGHT["TOKEN"])}}, "missing", None),
        ({ENV: {}}, "missing", None),
        ({}, "missing", None),
    ],
    ids=["right", "old", "another name", "empty", "no file"],
)
def test_an_env_file(seen: dict[str, Any], state: str, print_of: str | None) -> None:
    assert rows({ENV: ["TOKEN"]}, env_files=seen) == [("TOKEN", "env file", ENV, state, print_of)]


PASSWORD = Holding([], {FILE: ["HASH", "USER"]})


def of_files(found: Rows) -> list[tuple[str, str, str | None]]:
    return [
        (secret, state, seen) for secret, kind, where, state, seen in found if (kind, where) == ("secret file", FILE)
    ]


@pytest.mark.parametrize(
    ("seen", "hash_is", "user_is"),
    [
        ({FILE: file({"HASH": RIGHT["HASH"], "USER": RIGHT["USER"]})}, "in sync", "in sync"),
        ({FILE: file({"HASH": OLD["HASH"], "USER": RIGHT["USER"]})}, "stale", "in sync"),
        ({FILE: file(None)}, "stale", "stale"),
        ({}, "missing", "missing"),
    ],
    ids=["right", "an old hash", "of another form", "no file"],
)
def test_a_secret_file(seen: dict[str, Any], hash_is: str, user_is: str) -> None:
    held = (seen[FILE].fingerprints if seen else None) or {}
    assert of_files(rows(services={"x": PASSWORD}, secret_files=seen)) == [
        ("HASH", hash_is, held.get("HASH")),
        ("USER", user_is, held.get("USER")),
    ]


def of_containers(found: Rows) -> list[tuple[str, str, str, str | None]]:
    return [(secret, where, state, seen) for secret, kind, where, state, seen in found if "container" in kind]


API = Holding(["TOKEN"], {})


@pytest.mark.parametrize(
    ("containers", "state", "print_of"),
    [
        ([container({"TOKEN": RIGHT["TOKEN"]})], "in sync", RIGHT["TOKEN"]),
        ([container({"TOKEN": OLD["TOKEN"]})], "stale", OLD["TOKEN"]),
        ([container({})], "missing", None),
        ([], "missing", None),
    ],
    ids=["right", "old", "without it", "no container"],
)
def test_the_environment_of_a_container(containers: list[Any], state: str, print_of: str | None) -> None:
    found = of_containers(rows(services={"x": API}, containers=containers))
    assert found == [("TOKEN", "x", state, print_of)]
    assert {kind for _, kind, *_ in rows(services={"x": API}, containers=containers)} == {"container"}


@pytest.mark.parametrize(
    ("secret_file", "started_ns", "state", "print_of"),
    [
        (file(RIGHT), STARTED, "in sync", RIGHT["HASH"]),
        (file(RIGHT, STARTED), STARTED, "in sync", RIGHT["HASH"]),
        (file(RIGHT, STARTED + 1), STARTED, "stale", None),  # it read what was there before, whatever that was
        (file(RIGHT, NOW + 1), STARTED, "in sync", RIGHT["HASH"]),  # a clock was set back: that says nothing
        (file(OLD), STARTED, "stale", OLD["HASH"]),
        (file(None), STARTED, "stale", None),
        (file(RIGHT), 0, "stale", None),  # it never started
        (None, STARTED, "missing", None),
    ],
    ids=[
        "right",
        "at the same moment",
        "written later",
        "from the future",
        "old",
        "of another form",
        "never started",
        "no file",
    ],
)
def test_what_a_container_read_when_it_started(
    secret_file: HeldFile | None, started_ns: int, state: str, print_of: str | None
) -> None:
    seen: dict[str, Any] = {
        "secret_files": {FILE: secret_file} if secret_file else {},
        "containers": [container(started_ns=started_ns)],
    }
    found = of_containers(rows(services={"x": Holding([], {FILE: ["HASH"]})}, **seen))
    assert found == [("HASH", "x", state, print_of)]


def test_a_service_without_a_container_holds_none_of_its_secrets() -> None:
    both = Holding(["TOKEN"], {FILE: ["HASH", "USER"]})
    found = of_containers(rows(services={"x": both}, secret_files={FILE: file(RIGHT)}))
    assert found == [(name, "x", "missing", None) for name in ("TOKEN", "HASH", "USER")]


def test_every_container_of_a_service_is_looked_at() -> None:
    """One that was renamed by hand, say, and stopped: it still has the old value, and starts with it."""
    stopped = container({"TOKEN": OLD["TOKEN"]}, name="x-old", state="exited")
    seen = [container({"TOKEN": RIGHT["TOKEN"]}), stopped]
    assert [state for _, _, state, _ in of_containers(rows(services={"x": API}, containers=seen))] == [
        "in sync",
        "stale",
    ]


def test_a_container_of_a_service_that_this_host_no_longer_has() -> None:
    seen = [container({"TOKEN": OLD["TOKEN"], "USER": RIGHT["USER"]}, name="gone", service="gone")]
    assert {kind for _, kind, _, _, _ in rows(containers=seen)} == {"stray container"}
    assert of_containers(rows(containers=seen)) == [
        ("TOKEN", "gone", "stale", OLD["TOKEN"]),
        ("USER", "gone", "in sync", RIGHT["USER"]),
    ]


def test_a_value_that_the_control_side_does_not_know_is_stale() -> None:
    seen = {ENV: {"TOKEN": HeldVariable(OLD["TOKEN"])}}
    assert [row[3] for row in rows({ENV: ["TOKEN"]}, wanted={"TOKEN": None}, env_files=seen)] == ["stale"]
    assert [row[3] for row in rows({ENV: ["TOKEN"]}, wanted={"TOKEN": None})] == ["missing"]


def test_a_secret_in_two_locations_of_one_service() -> None:
    both = {"x": Holding(["HASH"], {FILE: ["HASH"]})}
    seen: dict[str, Any] = {"secret_files": {FILE: file(RIGHT)}, "containers": [container({"HASH": OLD["HASH"]})]}
    assert [state for _, _, state, _ in of_containers(rows(services=both, **seen))] == ["stale", "in sync"]


def test_two_stacks_are_told_apart() -> None:
    env_files = {"/a": ["TOKEN"], "/b": ["TOKEN"]}
    seen = {path: {"TOKEN": HeldVariable(value["TOKEN"])} for path, value in (("/a", RIGHT), ("/b", OLD))}
    assert [(row[2], row[3]) for row in rows(env_files, env_files=seen)] == [("/a", "in sync"), ("/b", "stale")]

"""From what hostside.verify saw to one cause a service."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest

from gpuhost.verify.verdict import judge
from hostside.protocol.verify import ContainerSeen, Held, ProbeAnswer, ServiceSeen

CONTAINER = ContainerSeen(
    id="abc",
    state="running",
    health="healthy",
    health_log="",
    restart_count=0,
    restart_count_after=0,
    oom_killed=False,
    exit_code=0,
    error="",
    started_at="2026-01-01T00:00:00Z",
    started_at_after="2026-01-01T00:00:00Z",
    observed_s=5.0,
)
SERVICE = ServiceSeen(
    service="sd35",
    stack="sd35",
    port=8190,
    start_budget_s=180.0,
    outcome="ready",
    waited_s=1.0,
    container=CONTAINER,
    probes=[],
    log_tail=[f"line {i}" for i in range(25)],
)


def seen(probes: list[ProbeAnswer] | None = None, **over: Any) -> ServiceSeen:
    """What was seen of a service; fields of the container and of the service itself can be replaced."""
    names = {field.name for field in fields(ContainerSeen)}
    container = replace(CONTAINER, **{key: value for key, value in over.items() if key in names})
    rest = {key: value for key, value in over.items() if key not in names}
    return replace(SERVICE, **{"container": container, "probes": probes or [], **rest})


def probe(name: str = "answers", status: int | None = 200, ok: bool = True, **over: Any) -> ProbeAnswer:
    known: dict[str, Any] = {
        "detail": "",
        "seconds": 0.1,
        "error": None,
        "authenticated": False,
        "expected_status": 200,
    }
    return ProbeAnswer(name=name, status=status, ok=ok, **(known | over))


OPEN = probe("refused without a token", ok=False, expected_status=401)
CLOSED = probe("refused without a token", status=401, expected_status=401)
STALE = probe(status=401, ok=False, authenticated=True)
NO_PORT = probe(status=None, ok=False, error="connect", detail="no connection")

FAULTS = {
    "absent": (seen(container=None, outcome="absent"), "no container", None),
    "oom": (
        seen(state="exited", exit_code=137, oom_killed=True, outcome="dead"),
        "exited with code 137: killed by the kernel for memory (OOM)",
        137,
    ),
    "killed": (
        seen(state="exited", exit_code=137, outcome="dead"),
        "exited with code 137 without OOM: killed from outside",
        137,
    ),
    "failed": (seen(state="exited", exit_code=1, outcome="dead"), "exited with code 1: the program failed", 1),
    "ended": (seen(state="exited", outcome="dead"), "exited with code 0: it ended by itself", 0),
    "no command": (
        seen(state="exited", exit_code=127, error="no such file", outcome="dead"),
        "exited with code 127: its command does not exist (no such file)",
        127,
    ),
    "never started": (
        seen(state="created", error="port is already allocated", outcome="dead", exit_code=128),
        "did not start: port is already allocated",
        128,
    ),
    "paused": (seen(state="paused", outcome="timeout"), "is paused", 0),
    "loop": (
        seen(restart_count_after=3, exit_code=1, outcome="dead", started_at_after="later"),
        "restarts in a loop (3 restarts in 5 s): exited with code 1: the program failed",
        1,
    ),
    "old loop, long pause": (
        seen(state="restarting", restart_count=9, restart_count_after=9, exit_code=137, oom_killed=True),
        "restarts in a loop (9 restarts so far): exited with code 137: killed by the kernel for memory (OOM)",
        137,
    ),
    "one restart during the probes": (
        seen(restart_count_after=1, exit_code=139, started_at_after="later", probes=[NO_PORT]),
        "restarts in a loop (1 restart in 5 s): exited with code 139: segmentation fault",
        139,
    ),
    "restarted by hand": (seen(started_at_after="later"), "was started anew while it was watched (5 s)", 0),
    "bereft of its folder, however well it answers": (
        seen([probe()], holds=[Held("/srv/kept", "/kept", "1:2", "1:2"), Held("/srv/data", "/data", "1:2", "1:3")]),
        "/srv/data was made anew after it started: it holds the old one as /data",
        None,
    ),
    "unhealthy for want of its folder": (
        seen(health="unhealthy", health_log="no such file", holds=[Held("/srv/data", "/data", "1:2", None)]),
        "/srv/data was removed after it started: it holds the old one as /data",
        None,
    ),
    "unhealthy": (
        seen(health="unhealthy", health_log="connection refused", outcome="timeout"),
        "unhealthy: connection refused",
        None,
    ),
    "never healthy, and its check says why": (
        seen(health="starting", health_log="HTTP Error 404", outcome="timeout"),
        "not healthy within 180 s: HTTP Error 404",
        None,
    ),
    "too slow": (seen(health="starting", outcome="timeout"), "not healthy within 180 s", None),
    "unreachable": (
        seen([NO_PORT, replace(OPEN, status=401)]),
        "healthy inside, but port 8190 answers nothing (no connection)",
        None,
    ),
    "unreachable, without a health check": (
        seen([NO_PORT], health=None),
        "running, but port 8190 answers nothing (no connection)",
        None,
    ),
    "stuck": (
        seen([probe(status=None, ok=False, error="timeout", detail="no whole answer within 30 s")]),
        "healthy inside, but `answers` got no answer on port 8190 (no whole answer within 30 s)",
        None,
    ),
    "open": (
        seen([OPEN]),
        "`refused without a token` answers 200: authentication is open",
        None,
    ),
    "reached": (
        seen([CLOSED, probe("POST /x.js is refused", status=403, ok=False, expected_status=401)]),
        "`POST /x.js is refused` answers 403, not 401: a stranger is not turned away",
        None,
    ),
    "open matters more than slow": (
        seen([replace(NO_PORT, error="timeout"), OPEN]),
        "`refused without a token` answers 200: authentication is open",
        None,
    ),
    "stale token": (
        seen([CLOSED, STALE]),
        "`answers` answers 401 with the token: the container has another token",
        None,
    ),
    "wrong answer": (
        seen([probe(ok=False, detail="200, but `answer.status` is missing")]),
        "`answers` fails: 200, but `answer.status` is missing",
        None,
    ),
}


FAULTS |= {
    f"exit code {code}": (
        seen(state="exited", exit_code=code, outcome="dead"),
        f"exited with code {code}: {meaning}",
        code,
    )
    for code, meaning in {
        2: "the program failed",
        125: "Docker could not run it",
        126: "its command cannot be executed",
        134: "the program aborted",
        138: "the program failed",
        139: "segmentation fault",
        143: "stopped by SIGTERM",
    }.items()
}
FAULTS |= {
    "made and left": (seen(state="created"), "did not start: it was made and never started", 0),
    "restarting, not for the first time": (
        seen(state="restarting", restart_count=1, restart_count_after=2, exit_code=1, started_at_after="later"),
        "restarts in a loop (1 restart in 5 s): exited with code 1: the program failed",
        1,
    ),
    "another container with fewer restarts": (
        seen(restart_count=3, restart_count_after=0),
        "was started anew while it was watched (5 s)",
        0,
    ),
    "unhealthy without a word": (seen(health="unhealthy"), "unhealthy: its health check says nothing", None),
    "its health check began anew": (
        seen(health="starting"),
        "its health check began anew while it was watched",
        None,
    ),
    "no health check, and too slow": (seen(health=None, outcome="timeout"), "not healthy within 180 s", None),
    "the connection is cut": (
        seen([replace(NO_PORT, error="broken", detail="cut")]),
        "healthy inside, but port 8190 answers nothing (cut)",
        None,
    ),
    "open, where 403 is right": (
        seen([replace(OPEN, expected_status=403)]),
        "`refused without a token` answers 200: authentication is open",
        None,
    ),
    "the first that is open is named": (
        seen([replace(OPEN, name="first"), OPEN]),
        "`first` answers 200: authentication is open",
        None,
    ),
    "open matters more than another refusal": (
        seen([replace(OPEN, name="first", status=500), OPEN]),
        "`refused without a token` answers 200: authentication is open",
        None,
    ),
    "no answer to a stranger": (
        seen([replace(OPEN, status=None, error="timeout", detail="none")]),
        "healthy inside, but `refused without a token` got no answer on port 8190 (none)",
        None,
    ),
    "another refusal than the right 403": (
        seen([replace(OPEN, expected_status=403, status=500)]),
        "`refused without a token` answers 500, not 403: a stranger is not turned away",
        None,
    ),
    "the token is forbidden": (
        seen([replace(STALE, status=403)]),
        "`answers` answers 403 with the token: the container has another token",
        None,
    ),
    "refused to everybody": (
        seen([probe(status=401, ok=False, detail="expected 200, got 401")]),
        "`answers` fails: expected 200, got 401",
        None,
    ),
    "an error with the token": (
        seen([probe(status=500, ok=False, authenticated=True, detail="expected 200, got 500")]),
        "`answers` fails: expected 200, got 500",
        None,
    ),
    "a rotated value, and no answer": (
        seen([replace(NO_PORT, authenticated=True, expected_status=401)]),
        "healthy inside, but port 8190 answers nothing (no connection)",
        None,
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_one_cause_for_each_fault(fault: str) -> None:
    line, cause, exit_code = FAULTS[fault]
    verdict = judge([line])
    assert not verdict.ok
    (failure,) = verdict.failures
    assert (failure.service, failure.cause, failure.exit_code) == ("sd35", cause, exit_code)
    assert failure.hint and "\n" not in failure.cause + failure.hint
    assert failure.log_tail == [f"line {i}" for i in range(5, 25)]


@pytest.mark.parametrize("status", [200, 403])
def test_a_value_that_was_rotated_away_is_no_token_to_renew(status: int) -> None:
    """It is taken, or refused in another way than it should be: nothing that the log or a new container would cure."""
    sent = {"authenticated": True, "expected_status": 401, "detail": f"expected 401, got {status}: {{}}"}
    retired = probe("refuses the retired TOKEN", status, ok=False, **sent)
    (failure,) = judge([seen([CLOSED, probe(authenticated=True), retired])]).failures
    assert failure.cause == f"`refuses the retired TOKEN` answers {status} to a value that was rotated away, not 401"
    assert "another token" not in failure.cause and "does not do its work" not in failure.hint


def test_up_and_answering_is_ok() -> None:
    verdict = judge([seen([CLOSED, probe(authenticated=True)]), seen(health=None)])
    assert verdict.ok and verdict.failures == []


def test_a_value_that_was_rotated_away_and_is_refused_is_as_it_should_be() -> None:
    refused = probe("refuses the retired TOKEN", 401, authenticated=True, expected_status=401)
    assert judge([seen([CLOSED, probe(authenticated=True), refused])]).ok


def test_every_failing_service_is_named_once() -> None:
    verdict = judge([seen([OPEN, STALE]), seen(), seen([NO_PORT], service="flux")])
    assert [failure.service for failure in verdict.failures] == ["sd35", "flux"]


def test_nothing_observed_is_nothing_wrong() -> None:
    assert judge([]).ok


def test_who_waited_in_vain_is_told_how_to_see_what_the_health_check_asks() -> None:
    [late] = judge([seen(health="starting", health_log="HTTP Error 404", outcome="timeout")]).failures
    assert late.hint.endswith("docker inspect -f '{{json .Config.Healthcheck.Test}}' " + late.service)
    [silent] = judge([seen(health="starting", outcome="timeout")]).failures
    assert "`start_budget_s`" in silent.hint

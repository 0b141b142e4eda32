"""What hostside.verify is asked: what keeps strangers out, what the entry proves, values that were rotated away."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gpuhost.secrets import envfile
from gpuhost.verify.questions import WRONG_TOKEN, retired_name
from gpuhost.verify.request import request
from hostside.protocol.verify import Expectation, Header, Probe, VerifyRequest
from hostside.wire import from_json, to_json
from tests.unit import sample

SECRETS = {
    "LABEL_HMAC_KEY": "key",
    "API_TOKEN": "current",
    "LOGIN_HASH": "$2b$12$current",
    "LOGIN_USER": "someone",
}


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("secrets").mkdir(mode=0o700)


def retire(**values: list[str]) -> None:
    envfile.replace(Path("secrets/host.retired.json"), json.dumps(values))


def probes(service: str = "api", changes: dict[str, Any] | None = None) -> list[Probe]:
    run = sample.run(changes, SECRETS)
    asked = request(run, [service])
    assert from_json(VerifyRequest, to_json(asked)) == asked  # the program takes it
    [found] = asked.services
    assert found.name == service
    return found.probes


def sent(probe: Probe) -> str | None:
    return probe.secret_header.value if probe.secret_header else None


def refused(found: list[Probe]) -> list[tuple[str, str | None]]:
    """Name and value of the probes that must get 401 with a token."""
    return [(each.name, sent(each)) for each in found if each.expect.status == 401 and each.secret_header]


def asked(found: list[Probe]) -> list[tuple[str, str | None, int]]:
    """(path, what is sent as authorization, the status that is right)."""
    return [(each.path, sent(each) or each.headers.get("Authorization"), each.expect.status) for each in found]


WRONG = f"Bearer {WRONG_TOKEN}"


def test_strangers_are_asked_for_first_then_what_the_entry_proves() -> None:
    assert asked(probes()) == [
        ("/health", None, 200),
        ("/services", None, 401),
        ("/services", WRONG, 401),
        ("/services", "Bearer current", 200),
        ("/health", None, 200),
    ]
    assert probes()[-1] == Probe(
        name="works",
        method="GET",
        path="/health",
        headers={},
        secret_header=None,
        body=None,
        expect=Expectation(200, {"status": "ok"}, None),
        timeout_s=30.0,
    )


def test_a_token_in_the_query_is_asked_for_empty_and_wrong() -> None:
    """An empty one opens ComfyUI-Login while it has no password."""
    assert asked(probes("painter")) == [
        ("/login", None, 200),
        ("/system_stats", None, 401),
        ("/system_stats", WRONG, 401),
        ("/system_stats?token=", None, 401),
        (f"/system_stats?token={WRONG_TOKEN}", None, 401),
        ("/system_stats", "Bearer $2b$12$current", 200),
        ("/system_stats", "Bearer $2b$12$current", 200),  # the entry's own, which needs the token
    ]


def test_what_a_stranger_might_make_is_made_as_it_stands() -> None:
    locked: list[dict[str, Any]] = [
        {"method": "POST", "path": "/files/..%2Fx.js"},
        {"method": "OPTIONS", "path": "/files", "headers": {"Authorization": "Bearer"}},
        {"method": "OPTIONS", "path": "/files"},
    ]
    found = probes("painter", {"services.painter.auth.locked_requests": locked})
    made = [each for each in found if each.method != "GET"]
    assert [(each.method, each.path, each.headers) for each in made] == [
        (each["method"], each["path"], each.get("headers", {})) for each in locked
    ]
    assert [(each.expect, each.secret_header, each.body) for each in made] == [
        (Expectation(401, None, None),) + (None,) * 2
    ] * 3
    assert len({each.name for each in found}) == len(found)


def test_a_parameter_is_added_to_those_of_the_path() -> None:
    locked = {"services.painter.auth.locked_paths": ["/system_stats?full=1"]}
    paths = [each.path for each in probes("painter", locked)]
    assert "/system_stats?full=1&token=" in paths and f"/system_stats?full=1&token={WRONG_TOKEN}" in paths


def test_a_question_says_what_it_is_about() -> None:
    locked = [{"method": "POST", "path": "/files"}, {"method": "POST", "path": "/files"}]
    retire(LOGIN_HASH=["$2b$12$old", "$2b$12$older"])
    assert [each.name for each in probes("painter", {"services.painter.auth.locked_requests": locked})] == [
        "/login is open",
        "/system_stats is refused without a token",
        "/system_stats is refused with a wrong token",
        "/system_stats is refused with an empty `?token=`",
        "/system_stats is refused with a wrong `?token=`",
        "/system_stats answers with the token",
        "POST /files is refused without a token (1)",
        "POST /files is refused without a token (2)",
        "refuses the retired LOGIN_HASH",
        "refuses the retired LOGIN_HASH (2)",
        "draws",
    ]


def test_every_question_has_a_name_of_its_own() -> None:
    for service in ("api", "painter"):
        names = [each.name for each in probes(service)]
        assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("bind", "asked_at"),
    [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::", "::1"), ("10.0.0.7", "10.0.0.7")],
)
def test_a_service_is_asked_where_it_listens(bind: str, asked_at: str) -> None:
    [found] = request(sample.run({"services.api.bind": bind}, SECRETS), ["api"]).services
    assert (found.host, found.port, found.container, found.stack) == (asked_at, 9001, "api", "front")
    assert (found.start_budget_s, found.check_s) == (60.0, 15.0)


def test_only_to_be_waited_for_a_service_needs_no_secret() -> None:
    asked = request(sample.run(), ["api", "painter"], with_secrets=False)
    assert [(each.name, each.probes) for each in asked.services] == [("api", []), ("painter", [])]
    assert asked.window_s == 5.0


def test_without_auth_nobody_is_sent_away_and_nothing_is_sent() -> None:
    found = probes("painter", {"services.painter.auth": None})
    assert asked(found) == [("/system_stats", None, 200)]


def test_no_secret_is_in_the_text_of_a_request() -> None:
    assert "Bearer current" not in repr(probes())


def test_an_entrys_own_question_is_asked_as_it_stands() -> None:
    own = {
        "name": "generates",
        "path": "/v1/chat",
        "method": "POST",
        "headers": {"Accept": "text/plain"},
        "body": {"prompt": "hi"},
        "expect_status": 201,
        "json_has": {"ok": True},
        "contains": "hello",
    }
    found = probes(changes={"services.api.probes": [own]})[-1]
    assert {key: getattr(found, key) for key in ("name", "path", "method", "headers", "body")} == {
        key: own[key] for key in ("name", "path", "method", "headers", "body")
    }
    assert found.expect == Expectation(201, {"ok": True}, "hello")
    assert found.secret_header == Header("Authorization", "Bearer current")


def test_each_old_value_is_one_that_must_be_refused() -> None:
    retire(API_TOKEN=["old", "older"])
    assert refused(probes()) == [
        (retired_name("API_TOKEN"), "Bearer old"),
        (retired_name("API_TOKEN", 1), "Bearer older"),
    ]
    assert {each.path for each in probes() if each.name.startswith("refuses")} == {"/services"}


def test_the_current_value_is_never_one_that_must_be_refused() -> None:
    """An interrupted rotation has retired it, and it is what the service takes."""
    retire(API_TOKEN=["current", "older"])
    assert refused(probes()) == [(retired_name("API_TOKEN"), "Bearer older")]
    retire(API_TOKEN=["current"])
    assert refused(probes()) == []


def test_what_a_service_does_not_take_is_not_asked() -> None:
    retire(LOGIN_PASSWORD=["old password"], LABEL_HMAC_KEY=["old key"], LOGIN_HASH=["$2b$12$old"])
    assert refused(probes()) == []
    assert refused(probes("painter")) == [(retired_name("LOGIN_HASH"), "Bearer $2b$12$old")]
    assert refused(probes("painter", {"services.painter.auth": None})) == []

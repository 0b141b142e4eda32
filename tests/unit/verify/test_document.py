"""What hostside.verify is asked: the entry's probes, and the same with every value that was rotated away."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gpuhost.secrets import envfile
from gpuhost.verify.document import request, retired_name
from hostside.protocol import Expectation, Header, Probe, VerifyRequest
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
    return probe.secret_header and probe.secret_header.value


def refused(found: list[Probe]) -> list[tuple[str, str | None]]:
    """Name and value of the probes that must get 401 with a token."""
    return [(each.name, sent(each)) for each in found if each.expect.status == 401 and each.secret_header]


def test_only_the_entrys_own_without_retired_values() -> None:
    [found] = probes()
    assert found == Probe(
        name="answers",
        method="GET",
        path="/",
        headers={},
        secret_header=Header("Authorization", "Bearer current"),
        body=None,
        expect=Expectation(200, None, None),
        timeout_s=30.0,
    )


def test_no_secret_is_in_the_text_of_a_request() -> None:
    assert "Bearer current" not in repr(probes())


def test_each_old_value_is_one_that_must_be_refused() -> None:
    retire(API_TOKEN=["old", "older"])
    found = probes()
    assert [sent(each) for each in found] == ["Bearer current", "Bearer old", "Bearer older"]
    assert refused(found) == [
        (retired_name("API_TOKEN"), "Bearer old"),
        (retired_name("API_TOKEN", 1), "Bearer older"),
    ]
    assert len({each.name for each in found}) == 3


def test_it_is_asked_as_the_current_one_is() -> None:
    own = {
        "name": "generates",
        "path": "/v1/chat",
        "method": "POST",
        "token": "API_TOKEN",
        "headers": {"Accept": "text/plain"},
        "body": {"prompt": "hi"},
        "expect_status": 201,
        "json_has": {"ok": True},
        "contains": "hello",
    }
    retire(API_TOKEN=["old"])
    first, second = probes(changes={"services.api.probes": [own]})
    kept = ("method", "path", "headers", "body")
    assert [getattr(first, key) for key in kept] == [getattr(second, key) for key in kept] == [own[key] for key in kept]
    assert first.expect == Expectation(201, {"ok": True}, "hello")
    assert second.expect == Expectation(401, None, None)  # who refuses says nothing of these


def test_the_current_value_is_never_one_that_must_be_refused() -> None:
    """A rotation that was cut has retired it, and it is what the service takes."""
    retire(API_TOKEN=["current", "older"])
    found = probes()
    assert [sent(each) for each in found] == ["Bearer current", "Bearer older"]
    retire(API_TOKEN=["current"])
    assert refused(probes()) == []


def test_one_probe_a_value_however_many_ask_with_the_token() -> None:
    own = [
        {"name": "open", "path": "/health"},
        {"name": "without", "path": "/first", "expect_status": 401},
        {"name": "first", "path": "/first", "token": "API_TOKEN"},
        {"name": "second", "path": "/second", "token": "API_TOKEN"},
    ]
    retire(API_TOKEN=["old"])
    found = probes(changes={"services.api.probes": own})
    assert [each.name for each in found] == ["open", "without", "first", "second", retired_name("API_TOKEN")]
    assert found[-1].path == "/first"


def test_what_no_probe_asks_with_is_not_asked() -> None:
    retire(LOGIN_PASSWORD=["old password"], LABEL_HMAC_KEY=["old key"], LOGIN_HASH=["$2b$12$old"])
    assert refused(probes()) == []
    found = probes("painter")
    assert refused(found) == [(retired_name("LOGIN_HASH"), "Bearer $2b$12$old")]
    assert not {"Bearer old password", "Bearer old key"} & {sent(each) for each in found}


def test_two_secrets_of_one_service() -> None:
    own = [{"name": name, "path": f"/{name}", "token": name} for name in ("API_TOKEN", "LOGIN_HASH")]
    retire(API_TOKEN=["old"], LOGIN_HASH=["$2b$12$old"])
    found = probes(changes={"services.api.probes": own})
    assert refused(found) == [
        (retired_name("API_TOKEN"), "Bearer old"),
        (retired_name("LOGIN_HASH"), "Bearer $2b$12$old"),
    ]


def test_only_waiting_needs_no_secret() -> None:
    retire(API_TOKEN=["old"])
    asked = request(sample.run(secrets={}), ["api", "painter"], with_secrets=False)
    assert [each.probes for each in asked.services] == [[], []]
    assert "old" not in to_json(asked)

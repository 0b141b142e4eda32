"""What only looks at secrets, run by pyinfra in this process on this machine: a bad source is one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from pyinfra.api.config import Config
from pyinfra.api.connect import connect_all, disconnect_all
from pyinfra.api.exceptions import PyinfraError
from pyinfra.api.inventory import Inventory
from pyinfra.api.operations import run_ops
from pyinfra.api.state import State
from pyinfra.context import ctx_host, ctx_state

from gpuhost.catalog.inventory import Site
from gpuhost.plan import report
from gpuhost.run import data as data_names
from gpuhost.run import session
from gpuhost.secrets import operations
from gpuhost.secrets.store import SecretStore
from hostside.protocol.secret_audit import SecretAuditAnswer
from tasks import preflight, secrets, verify
from tests.unit import sample

RETIRED = Path("secrets/_local.retired.json")


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    for name in ("_sudo", "_root"):  # whoever runs this
        monkeypatch.setattr(preflight, name, list)
    read = Site(Path(), ["@local"], {"@local": sample.catalog()}, {})  # by config.py
    monkeypatch.setattr(preflight, "site", lambda: read)
    yield
    session._current = None
    ctx_host.reset()
    ctx_state.reset()


def look(stage: str) -> list[dict[str, Any]]:
    """The problems of a run that is limited to a stage which only looks."""
    path = Path("report.jsonl")
    data = {data_names.REPORT_DATA: str(path), data_names.ONLY_DATA: stage}
    state = State(Inventory((["@local"], data)), Config())
    session._current = None
    with ctx_state.use(state):
        connect_all(state)
        [host] = state.inventory
        with suppress(PyinfraError):  # it ends with one when no host is left
            with ctx_host.use(host):
                run = preflight.preflight()
                for task in (verify.verify, secrets.audit):
                    task(run)
            run_ops(state)
        disconnect_all(state)
    return list(report.select(report.read(path), "problem"))


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ("x" * 31, "`API_TOKEN` has fewer than 32 characters, which its service refuses"),
        ("tok\u00e9n" * 8, "`API_TOKEN` has characters that an HTTP header does not carry: nobody could send it"),
        ("x" * 32, None),
    ],
    ids=["too short", "unsendable", "right"],
)
def test_an_audit_says_what_an_apply_refuses(monkeypatch: pytest.MonkeyPatch, value: str, what: str | None) -> None:
    """In every location it is the same."""
    catalog = sample.catalog({"secrets.API_TOKEN.min_chars": 32})
    read = Site(Path(), ["@local"], {"@local": catalog}, {})
    monkeypatch.setattr(preflight, "site", lambda: read)
    Path(".env").write_text(f"API_TOKEN={value}\nGIVEN=it is\n")
    Path(".env").chmod(0o600)
    SecretStore(catalog, "@local").generate(sorted(catalog.secrets))
    monkeypatch.setattr(operations, "observe", lambda *_: SecretAuditAnswer({}, {}, [], 0))
    told = [problem["what"] for problem in look("audit")]
    assert told == ([what] if what else [])
    seen = report.select(report.read(Path("report.jsonl")), "secret_location")
    states = {each["state"] for each in seen if (each["secret"], each["kind"]) == ("API_TOKEN", "control")}
    assert states == {"in sync"}
    if what:  # in the same words
        assert what in [problem["what"] for problem in look("stacks")]


@pytest.mark.parametrize(
    ("stage", "path", "text"),
    [
        ("audit", Path(".env"), "GIVEN=hunter2\n"),
        ("verify", Path(".env"), "GIVEN=hunter2\n"),
        ("verify", RETIRED, '{"API_TOKEN": ["hunter2"]}\n'),
    ],
    ids=["audit", "verify", "verify, with retired values"],
)
def test_a_source_that_cannot_be_read_is_one_sentence(stage: str, path: Path, text: str) -> None:
    SecretStore(sample.catalog(), "@local").generate(sorted(sample.catalog().secrets))
    path.write_text(text)
    path.chmod(0o644)
    [problem] = look(stage)
    assert (problem["what"], problem["host"]) == (f"{path} can be read by others on this machine", "@local")

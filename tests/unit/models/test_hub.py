"""What the hub is asked from the control side, against the rehearsal's hub over real HTTP."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub.utils import close_session, filter_repo_objects, get_session  # type: ignore[attr-defined]
from hypothesis import given
from hypothesis import strategies as st

from gpuhost.errors import UserError
from gpuhost.models import hub
from gpuhost.models.patterns import chosen
from gpuhost.project import PROJECT
from tests.rehearsal.standins import hub as standin

from .hub_server import HubServer

REPO = "acme/model"
FILES: dict[str, bytes | Path] = {
    "config.json": b"{}",
    "weights/model one.safetensors": b"w" * 100,
    "größe.txt": b"",
    "other.bin": b"o" * 7,
}
TOKEN, OTHER = "hf_never-to-be-seen", "hf_of-somebody-else"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    monkeypatch.setattr(hub, "PAUSES_S", (0.0, 0.0))
    hub.listing.cache_clear()
    hub.check_access.cache_clear()
    made = HubServer(tmp_path / "hub")
    yield made
    made.close()


def refused(ask: object, *arguments: object) -> tuple[str, str, str]:
    with pytest.raises(hub.HubError) as caught:
        ask(*arguments)  # type: ignore[operator]
    [problem] = caught.value.problems
    assert TOKEN not in str(caught.value) + problem.hint
    return caught.value.kind, problem.what, problem.hint


def test_a_revision_is_a_commit_and_its_files(server: HubServer) -> None:
    commit = server.store.add(REPO, FILES, gated=False, commit=None)
    found = hub.resolve(REPO, "main", ["weights/", "*.json", "*.txt"], ["other*"], server.url)
    assert found.commit == commit
    assert {path: (file.size, file.sha256) for path, file in found.files.items()} == {
        "config.json": (2, None),
        "weights/model one.safetensors": (100, hashlib.sha256(b"w" * 100).hexdigest()),
        "größe.txt": (0, None),
    }
    assert found.files["config.json"].git_sha1 == hashlib.sha1(b"blob 2\0{}").hexdigest()
    assert server.tokens == [None] * 2  # a token that nobody gave is not looked for


def test_asked_once_in_a_process(server: HubServer) -> None:
    server.store.add(REPO, FILES, gated=False, commit=None)
    for patterns in (["*.json"], ["*.txt"], ["*"]):
        hub.resolve(REPO, "main", patterns, endpoint=server.url)
    assert len(server.requests) == 2


def test_all_pages_of_a_tree(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standin, "TREE_PAGE", 3)
    files: dict[str, bytes | Path] = {f"part-{number:02}.txt": b"x" * number for number in range(10)}
    server.store.add(REPO, files, gated=False, commit=None)
    found = hub.resolve(REPO, "main", endpoint=server.url)
    assert {path: file.size for path, file in found.files.items()} == {path: len(files[path]) for path in files}  # type: ignore[arg-type]
    assert len([each for each in server.requests if "/tree/" in each]) == 4


def test_what_is_not_there(server: HubServer) -> None:
    server.store.add(REPO, FILES, gated=False, commit=None)
    assert refused(hub.resolve, "acme/none", "main", ["*"], [], server.url)[0] == "repository"
    kind, what, hint = refused(hub.resolve, REPO, "gone", ["*"], [], server.url)
    assert (kind, what) == ("revision", "`acme/model` has no revision `gone`") and f"{server.url}/{REPO}" in hint
    with pytest.raises(UserError, match=r"no file of `acme/model` at `main` matches `allow` and `ignore`"):
        hub.resolve(REPO, "main", ["*.gguf"], endpoint=server.url)


def test_who_may_not_read_is_told_why_and_where_to_click(server: HubServer) -> None:
    server.store.add(REPO, FILES, gated=True, commit=None)
    server.store.add("acme/free", FILES, gated=False, commit=None)
    server.store.grant(OTHER, [])
    page, tokens = f"{server.url}/{REPO}", f"{server.url}/settings/tokens"
    kind, what, hint = refused(hub.check_access, server.url, REPO, None)
    assert (kind, what) == ("gated", "`acme/model` is gated, and there is no Hugging Face token")
    assert page in hint and tokens in hint
    kind, what, hint = refused(hub.check_access, server.url, REPO, TOKEN)  # nobody's
    assert kind == "token" and "refuses the token" in what and tokens in hint
    kind, what, hint = refused(hub.check_access, server.url, REPO, OTHER)
    assert kind == "licence" and "has not accepted the licence" in what and page in hint
    server.store.grant_fine_grained(TOKEN)
    hub.check_access.cache_clear()
    kind, what, hint = refused(hub.check_access, server.url, REPO, TOKEN)
    assert kind == "scope" and "may not read gated repositories" in what and tokens in hint
    hub.check_access(server.url, "acme/free", None)
    server.store.grant(OTHER, [REPO])
    hub.check_access.cache_clear()
    hub.check_access(server.url, REPO, OTHER)


def test_a_scope_that_only_whoami_tells(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.store.add(REPO, FILES, gated=True, commit=None)
    server.store.grant_fine_grained(TOKEN)
    server.refusals = [(403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "restricted"})]
    assert refused(hub.check_access, server.url, REPO, TOKEN)[0] == "scope"
    server.refusals = [(403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "awaiting a review"})] * 2
    hub.check_access.cache_clear()
    kind, what, _ = refused(hub.check_access, server.url, REPO, OTHER)
    assert kind == "licence" and "under review" in what


@pytest.mark.parametrize("status", [429, 500, 503, 0])
def test_what_may_pass_is_asked_again(server: HubServer, status: int) -> None:
    server.store.add(REPO, FILES, gated=False, commit=None)
    server.refusals = [(status, {"Retry-After": "0"})] * 2
    hub.resolve(REPO, "main", endpoint=server.url)
    hub.listing.cache_clear()
    server.refusals = [(status, {})] * 3
    kind, what, _ = refused(hub.resolve, REPO, "main", ["*"], [], server.url)
    assert kind == ("refused" if status else "unreachable") and (str(status) in what or not status)


@pytest.mark.parametrize("status", [401, 403, 404])
def test_what_does_not_pass_is_asked_once(server: HubServer, status: int) -> None:
    server.refusals = [(status, {})]
    assert refused(hub.resolve, REPO, "main", ["*"], [], server.url)[0] in ("repository", "gated")
    assert len(server.requests) == 1


def test_the_pause_is_the_hubs_within_bounds(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(hub.time, "sleep", slept.append)
    server.store.add(REPO, FILES, gated=False, commit=None)
    server.refusals = [(429, {"Retry-After": "7"}), (429, {"Retry-After": "100000"})]
    hub.resolve(REPO, "main", endpoint=server.url)
    assert slept == [7.0, hub.LONGEST_PAUSE_S]


def test_a_hub_that_is_not_there_or_says_nothing(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.close()
    kind, what, _ = refused(hub.resolve, REPO, "main", ["*"], [], server.url)
    assert kind == "unreachable" and f"the hub at {server.url} cannot be reached from here for `{REPO}`" in what
    monkeypatch.setattr(hub, "ANSWER_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert refused(hub.resolve, REPO, "main", ["*"], [], url)[0] == "unreachable"


def test_what_answers_and_is_no_hub(server: HubServer) -> None:
    server.refusals = [(200, {"Content-Type": "text/html"})]
    kind, what, _ = refused(hub.resolve, REPO, "main", ["*"], [], server.url)
    assert kind == "unreachable" and "is not a hub" in what


def test_a_run_without_a_question_does_not_load_the_client() -> None:
    program = "import sys, tasks.preflight, gpuhost.cli.main; assert 'huggingface_hub' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=PROJECT, timeout=60)


def test_a_forked_child_leaves_the_client_to_its_parent(server: HubServer) -> None:
    """It would wait for what another greenlet of the parent holds, and go on as that one."""
    hub.resolve(REPO, server.store.add(REPO, FILES, gated=False, commit=None), endpoint=server.url)
    client = get_session()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, b"closed" if client.is_closed else b"as it was")
        os._exit(0)
    os.waitpid(child, 0)
    os.close(write)
    with os.fdopen(read, "rb") as told:
        assert told.read() == b"as it was"
    close_session()
    assert client.is_closed


NAMES = st.text("ab/.*?[]", min_size=1, max_size=8)


@given(st.lists(NAMES, max_size=8), st.lists(NAMES, min_size=1, max_size=3), st.lists(NAMES, max_size=3))
def test_the_patterns_are_huggingface_hubs(paths: list[str], allow: list[str], ignore: list[str]) -> None:
    wanted = filter_repo_objects(paths, allow_patterns=allow, ignore_patterns=ignore or None)
    assert chosen(paths, allow, ignore) == sorted(wanted)

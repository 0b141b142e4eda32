"""Models from the plan to the file: the fact and the rules of the control side, the program on the host, against the
rehearsal's hub over real HTTP."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
from huggingface_hub import constants, errors
from huggingface_hub.file_download import repo_folder_name

from gpuhost.catalog.types import Model
from gpuhost.models import rules
from gpuhost.models.facts import ModelsState
from hostside import hub_cache
from hostside.models import fetch, hub_errors, manifest, store, watchdog
from hostside.protocol import ModelFile, ModelsRequest, model_event
from hostside.wire import to_json
from tests.rehearsal.standins.http import Request
from tests.rehearsal.standins.hub import Hub, HubStore
from tests.rehearsal.standins.misbehaviour import ConnectionCut, Order, refusal, spoil

REPO, FILE = "owner/model", "split/vae.safetensors"
BYTES = os.urandom(300_000)
SHA256 = hashlib.sha256(BYTES).hexdigest()


class HubServer:
    """The stand-in on a port. `order` spoils the next `order_times` answers."""

    def __init__(self, root: Path) -> None:
        self.store = HubStore(root)
        self.requests: list[str] = []
        self.tokens: list[str | None] = []  # of each request
        self.elsewhere = ""  # where the bytes of a file are asked for, when that is another server
        self.order: Order | None = None
        self.order_times = 0
        self.statuses: list[int] = []  # of the next answers, whatever is asked
        self._hub = Hub(root)
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer.serve(self)

            do_HEAD = do_GET

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def downloads(self) -> list[str]:
        """The requests for content."""
        return [request for request in self.requests if request.startswith("GET ")]

    def misbehave(self, mode: str, times: int = 1_000, **over: Any) -> None:
        self.order, self.order_times = Order(mode, **over), times

    def serve(self, handler: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(handler.path)
        self.requests.append(f"{handler.command} {parts.path}")
        self.tokens.append(handler.headers.get("Authorization"))
        request = Request(handler.command, "hub", parts.path, parts.query, handler.headers, b"")
        order = self.order if handler.command == "GET" and self.order_times > 0 else None
        self.order_times -= order is not None
        if self.elsewhere:
            handler.send_response(302)
            handler.send_header("Location", f"{self.elsewhere}{handler.path}")
            for name, value in self._hub.serve(request).headers.items():
                handler.send_header(name, value)
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        if self.statuses:
            handler.send_response(self.statuses.pop(0))
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        try:
            response = (order and refusal(order)) or self._hub.serve(request)
            response = spoil(order, response) if order else response
            handler.send_response(response.status)
            for name, value in response.headers.items():
                handler.send_header(name, value)
            handler.send_header("Content-Length", str(response.length))
            handler.end_headers()
            if handler.command == "GET":
                for block in response.body:
                    handler.wfile.write(block)
        except (ConnectionCut, BrokenPipeError, ConnectionResetError):
            handler.close_connection = True

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    server = HubServer(tmp_path / "hub-data")
    server.store.add(REPO, {FILE: BYTES, "config.json": b'{"a": 1}'}, gated=False, commit=None)
    server.store.add("owner/gated", {FILE: BYTES}, gated=True, commit=None)
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(fetch, "RETRY_AFTER_S", (0.0, 0.0))
    yield server
    server.close()


def a_model(**over: Any) -> Model:
    return Model(**({"repo": REPO, "file": FILE, "folder": "vae"} | over))


class Host:
    """One host's folders, what the control side plans for them, and the program run on them."""

    def __init__(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.cache, self.models, self.manifest = root / "cache/hub", root / "models", root / "state/models.json"
        self._capsys = capsys

    def planned(self, more: dict[str, Model] | None = None, **over: Any) -> list[rules.PlannedFile]:
        """What the plan says of the model `vae` and others, from the fact's real script."""
        wanted = {"vae": a_model(**over), **(more or {})}
        script = ModelsState().command(
            manifest=str(self.manifest),
            cache_dir=str(self.cache),
            links=[f"{self.models}/{rules.destination(model)}" for model in wanted.values()],
            files=[(model.repo, model.file) for model in wanted.values()],
        )
        said = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
        assert said.stderr == ""
        reading = ModelsState().process(said.stdout.splitlines())
        return rules.reconcile(wanted, reading, str(self.models), str(self.cache))

    def request(
        self, planned: list[rules.PlannedFile], stall_s: float = 120.0, token: str | None = None
    ) -> ModelsRequest:
        files = [each.file for each in planned]
        return ModelsRequest(files, str(self.cache), str(self.models), str(self.manifest), stall_s, token)

    def run(self, request: ModelsRequest) -> list[Any]:
        """All events of the program in this process; the exit status comes last."""
        try:
            ok = fetch.Run(fetch.parse(to_json(request))).run()
        except fetch.FetchError as error:
            fetch.complain(error)
            ok = False
        out = self._capsys.readouterr().out.splitlines()
        assert all(model_event(line) for line in out)  # the control side takes each
        return [*map(json.loads, out), 0 if ok else 1]

    def fetch(self, *, token: str | None = None, more: dict[str, Model] | None = None, **over: Any) -> list[Any]:
        """Plans and, when there is something to do, runs; the model is gated when there is a token."""
        planned = self.planned(more, **{"gated": token is not None} | over)
        return self.run(self.request(planned, token=token)) if planned else [0]

    @property
    def linked(self) -> Path:
        return self.models / "vae/vae.safetensors"

    @property
    def entry(self) -> dict[str, Any]:
        return json.loads(self.manifest.read_text())["models"]["vae"]


@pytest.fixture
def host(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Host:
    return Host(tmp_path / "host", capsys)


def errors_of(events: list[Any]) -> list[tuple[str, str]]:
    return [(event["kind"], event["message"]) for event in events[:-1] if event["event"] == "error"]


def states_of(events: list[Any]) -> list[str]:
    return [event["state"] for event in events[:-1] if event["event"] == "model"]


def test_fetches_verifies_links_and_then_asks_nobody(hub: HubServer, host: Host) -> None:
    events = host.fetch()
    assert (states_of(events), events[-1]) == (["downloaded"], 0)
    assert events[0] | {"free_bytes": 0} == {"event": "plan", "models": 1, "download_bytes": 300_000, "free_bytes": 0}
    entry = host.entry
    blob = Path(entry["path"]).resolve()
    assert host.linked.read_bytes() == BYTES and not host.linked.is_symlink()
    assert host.linked.stat().st_ino == blob.stat().st_ino == entry["inode"]
    assert (entry["sha256"], entry["size"], entry["revision"], len(entry["commit"])) == (SHA256, 300_000, "main", 40)
    assert not list(host.cache.rglob("*.incomplete")) and not (host.cache / ".gpuhost-inflight.json").exists()
    assert "HEAD /owner/model/resolve/main/split/vae.safetensors" in hub.requests and hub.downloads

    hub.requests.clear()
    before = {path: path.lstat().st_mtime_ns for path in host.cache.parent.parent.rglob("*")}
    assert host.planned() == [] and host.planned(sha256=SHA256) == []
    assert hub.requests == []
    assert before == {path: path.lstat().st_mtime_ns for path in host.cache.parent.parent.rglob("*")}


def actions(planned: list[rules.PlannedFile]) -> list[tuple[str, str]]:
    return [(each.file.action, each.reason) for each in planned]


def test_a_lost_link_costs_neither_a_download_nor_a_hash(
    hub: HubServer, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.fetch()
    hub.requests.clear()
    monkeypatch.setattr(fetch, "digest", None)
    host.linked.unlink()
    assert actions(host.planned()) == [("link", "it is not in the models folder")]
    assert states_of(host.fetch()) == ["linked"] and host.linked.read_bytes() == BYTES
    assert host.planned() == []
    assert actions(host.planned(folder="other")) == [("link", "it is not in the models folder")]
    assert states_of(host.fetch(folder="other")) == ["linked"] and host.entry["dest"] == "other/vae.safetensors"
    assert actions(host.planned()) == [("link", "it was recorded as other/vae.safetensors")]
    host.fetch()
    assert host.planned() == [] and hub.requests == []


def test_a_file_that_was_touched_is_hashed_again(hub: HubServer, host: Host) -> None:
    host.fetch()
    hub.requests.clear()
    host.linked.touch()
    assert actions(host.planned()) == [("verify", "the file changed since it was verified")]
    assert states_of(host.fetch()) == ["verified"]
    assert host.planned() == [] and hub.requests == []


def test_a_lost_manifest_costs_no_download(hub: HubServer, host: Host) -> None:
    host.fetch()
    commit = host.entry["commit"]
    hub.requests.clear()
    host.manifest.unlink()
    assert actions(host.planned()) == [("fetch", "it was never verified")]  # `main` has to be asked for
    assert states_of(host.fetch()) == ["downloaded"] and host.entry["commit"] == commit
    assert not hub.downloads
    hub.requests.clear()
    host.manifest.write_text("half a manif")
    assert actions(host.planned(revision=commit)) == [("verify", "it is in the cache and was never verified")]
    assert states_of(host.fetch(revision=commit)) == ["verified"]
    assert host.planned(revision=commit) == [] and hub.requests == []


@pytest.mark.parametrize("gone", ["snapshot", "blob"])
def test_what_is_gone_from_the_cache_is_seen(hub: HubServer, host: Host, gone: str) -> None:
    host.fetch()
    snapshot = Path(host.entry["path"])
    (snapshot if gone == "snapshot" else snapshot.resolve()).unlink()
    assert actions(host.planned()) == [("fetch", "it is gone from the cache")]
    assert states_of(host.fetch()) == ["downloaded"] and host.linked.read_bytes() == BYTES
    assert host.planned() == []


def test_a_damaged_file_is_set_aside_and_fetched_by_the_next_run(hub: HubServer, host: Host) -> None:
    host.fetch()
    hub.requests.clear()
    host.linked.write_bytes(b"x" * 300_000)
    events = host.fetch()
    ((kind, message),) = errors_of(events)
    assert (kind, events[-1]) == ("bytes", 1) and "`vae` changed since it was fetched" in message
    assert [event["hint"] for event in events[:-1] if event["event"] == "error"] == ["run again: it is then fetched"]
    (moved,) = [event for event in events[:-1] if event["event"] == "moved_aside"]
    assert Path(moved["moved_to"]).read_bytes() == b"x" * 300_000 and moved["moved_from"] == str(host.linked)
    assert not host.linked.exists() and hub.requests == []  # nothing was fetched that the plan had not named
    assert actions(host.planned()) == [("fetch", "it is gone from the cache")]
    assert states_of(host.fetch()) == ["downloaded"] and host.linked.read_bytes() == BYTES


def test_a_damaged_file_that_is_not_linked_is_set_aside_too(hub: HubServer, host: Host) -> None:
    host.fetch()
    host.linked.unlink()
    Path(host.entry["path"]).resolve().write_bytes(b"damaged")
    (moved,) = [event for event in host.fetch()[:-1] if event["event"] == "moved_aside"]
    assert Path(moved["moved_to"]).read_bytes() == b"damaged" and not host.linked.exists()
    assert states_of(host.fetch()) == ["downloaded"] and host.linked.read_bytes() == BYTES


def test_a_file_of_another_size_is_set_aside_unread(
    hub: HubServer, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody put 2 TB that cost nothing in its place."""
    host.fetch()
    os.truncate(host.linked, 2 * 10**12)
    assert actions(host.planned()) == [("verify", "the file changed since it was verified")]
    monkeypatch.setattr(fetch, "digest", None)
    ((kind, message),) = errors_of(host.fetch())
    assert kind == "bytes" and "it has 2000000000000 bytes, not 300000" in message and not host.linked.exists()
    monkeypatch.undo()


def test_what_changed_since_the_plan_is_left_alone(hub: HubServer, host: Host) -> None:
    host.fetch()
    host.linked.unlink()
    link = host.request(host.planned())
    Path(host.entry["path"]).resolve().write_bytes(b"damaged")
    verify = host.request(host.planned())
    assert [each.action for each in (*link.models, *verify.models)] == ["link", "verify"]
    assert errors_of(host.run(link))[0][1].endswith("as it was when the plan was made") and not host.linked.exists()
    Path(host.entry["path"]).unlink()
    hub.requests.clear()
    assert errors_of(host.run(verify))[0][0] == "missing" and hub.requests == []


def test_every_failure_is_reported_and_nothing_is_downloaded(hub: HubServer, host: Host) -> None:
    host.fetch()
    host.linked.write_bytes(b"x" * 300_000)
    more = {"none": a_model(repo="owner/none"), "config": a_model(file="config.json")}
    hub.requests.clear()
    events = host.fetch(more=more)
    assert [kind for kind, _ in errors_of(events)] == ["bytes", "missing"] and events[-1] == 1
    assert not hub.downloads


def test_a_small_file_is_verified_by_its_git_id(hub: HubServer, host: Host) -> None:
    assert states_of(host.fetch(file="config.json", folder="text")) == ["downloaded"]
    hub.misbehave("wrong-bytes")
    other = Host(host.cache.parent.parent / "other", host._capsys)
    assert errors_of(other.fetch(file="config.json", folder="text"))[0][0] == "bytes"


def test_wrong_bytes_once_are_fetched_again_twice_are_an_error(hub: HubServer, host: Host) -> None:
    hub.misbehave("wrong-bytes", times=1)
    assert states_of(host.fetch()) == ["downloaded"] and host.linked.read_bytes() == BYTES
    other = Host(host.cache.parent.parent / "other", host._capsys)
    hub.misbehave("wrong-bytes")
    events = other.fetch()
    assert events[-1] == 1 and errors_of(events)[0][0] == "bytes"
    assert not other.linked.exists() and not list(other.cache.rglob("blobs/*")) and not other.manifest.exists()


def test_a_pin_that_the_hub_does_not_have_costs_no_download_and_no_file(hub: HubServer, host: Host) -> None:
    assert errors_of(host.fetch(sha256="0" * 64))[0][0] == "bytes"
    assert not list(host.cache.rglob("blobs/*"))
    host.fetch(sha256=SHA256)
    assert actions(host.planned(sha256="0" * 64)) == [("fetch", "its sha256 is not the expected one")]
    hub.requests.clear()
    assert errors_of(host.fetch(sha256="0" * 64))[0][0] == "bytes"
    assert not hub.downloads
    assert host.linked.read_bytes() == BYTES  # the pin was wrong, not the file


def test_a_wrong_pin_of_a_file_that_is_hashed_again_costs_no_file(hub: HubServer, host: Host) -> None:
    host.fetch()
    commit = host.entry["commit"]
    host.manifest.unlink()
    hub.requests.clear()
    events = host.fetch(revision=commit, sha256="0" * 64)
    assert [kind for kind, _ in errors_of(events)] == ["bytes"] and "correct `sha256`" in str(events)
    assert host.linked.read_bytes() == BYTES and hub.requests == []


def test_a_new_pin_of_a_branch_that_moved_on_is_fetched(hub: HubServer, host: Host) -> None:
    host.fetch(sha256=SHA256)
    hub.store.add(REPO, {FILE: b"newer"}, gated=False, commit=None)
    assert host.planned(sha256=SHA256) == []  # what is pinned is there
    newer = hashlib.sha256(b"newer").hexdigest()
    assert states_of(host.fetch(sha256=newer)) == ["downloaded"] and host.linked.read_bytes() == b"newer"
    assert host.planned(sha256=newer) == []


def test_a_foreign_file_is_moved_aside_an_own_older_one_is_replaced(hub: HubServer, host: Host) -> None:
    host.linked.parent.mkdir(parents=True)
    host.linked.write_bytes(b"somebody's own finetune")
    (moved,) = [event for event in host.fetch()[:-1] if event["event"] == "moved_aside"]
    assert Path(moved["moved_to"]).read_bytes() == b"somebody's own finetune"
    newer = hub.store.add(REPO, {FILE: b"newer"}, gated=False, commit=None)
    assert actions(host.planned(revision=newer)) == [("fetch", "another revision was fetched")]
    events = host.fetch(revision=newer)
    assert host.linked.read_bytes() == b"newer" and "moved_aside" not in str(events)
    assert len(list(host.linked.parent.iterdir())) == 2
    host.linked.unlink()
    host.linked.write_bytes(b"another finetune")
    assert actions(host.planned(revision=newer)) == [("link", "another file is in its place in the models folder")]
    (moved,) = [event for event in host.fetch(revision=newer)[:-1] if event["event"] == "moved_aside"]
    assert Path(moved["moved_to"]).read_bytes() == b"another finetune" and host.linked.read_bytes() == b"newer"


REFUSALS = {
    "no token": ({"repo": "owner/gated"}, None, "gated", "is gated, and there is no Hugging Face token"),
    "not accepted": ({"repo": "owner/gated"}, "hf_stranger", "licence", "may not read `owner/gated` (403)"),
    "wrong token": ({}, "hf_wrong", "token", "refuses the token"),
    "no repository": ({"repo": "owner/none"}, None, "missing", "knows no public repository `owner/none`"),
    "no repository, token": ({"repo": "owner/none"}, "hf_stranger", "missing", "no public repository"),
    "no revision": ({"revision": "v9"}, None, "missing", "has no revision `v9`"),
    "no file": ({"file": "x.bin"}, None, "missing", "has no file `x.bin` at revision `main`"),
}


@pytest.mark.parametrize("refusal", REFUSALS)
def test_each_refusal_is_one_sentence_before_the_first_byte(hub: HubServer, host: Host, refusal: str) -> None:
    hub.store.grant("hf_stranger", [])
    over, token, kind, sentence = REFUSALS[refusal]
    good = {"good": a_model(folder="good")}
    events = host.fetch(token=token, more=good if kind != "token" else None, **over)
    ((seen_kind, message),) = errors_of(events)
    assert events[-1] == 1 and seen_kind == kind and sentence in message and "\n" not in message
    assert not hub.downloads
    assert token is None or token not in str(events)


def test_a_gated_file_with_access(hub: HubServer, host: Host) -> None:
    hub.store.grant("hf_good", ["owner/gated"])
    assert states_of(host.fetch(repo="owner/gated", token="hf_good")) == ["downloaded"]
    assert set(hub.tokens) == {"Bearer hf_good"}


def test_the_token_is_sent_for_gated_files_only(hub: HubServer, host: Host) -> None:
    hub.store.grant("hf_good", ["owner/gated"])
    assert states_of(host.fetch(token="hf_good", gated=False)) == ["downloaded"] and set(hub.tokens) == {None}
    gated = {"gated": a_model(repo="owner/gated", folder="gated", gated=True)}
    assert states_of(host.fetch(token="hf_good", gated=False, more=gated)) == ["downloaded"]
    sent = dict(zip(hub.requests, hub.tokens, strict=True))
    assert {token for asked, token in sent.items() if "owner/gated" in asked} == {"Bearer hf_good"}
    assert {token for asked, token in sent.items() if "owner/gated" not in asked} == {None}


def test_the_token_does_not_follow_to_another_server(
    hub: HubServer, host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.store.grant("hf_good", ["owner/gated"])
    storage = HubServer(tmp_path / "hub-data")
    storage.store.add("owner/gated", {FILE: BYTES}, gated=False, commit=None)
    hub.elsewhere = storage.url
    host.fetch(repo="owner/gated", token="hf_good")
    assert set(hub.tokens) == {"Bearer hf_good"} and storage.requests and set(storage.tokens) == {None}
    storage.close()


def test_no_token_of_this_machine_is_found(hub: HubServer, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the hub's client would use by itself: its variable, and a file in its home."""
    monkeypatch.setenv("HF_TOKEN", "hf_environment")
    home = host.cache.parent
    home.mkdir(parents=True)
    (home / "token").write_text("hf_file")
    process = run_program(hub, host.request(host.planned(gated=True)), HF_HOME=str(home))
    assert process.wait(20) == 0 and set(hub.tokens) == {None}


def test_a_hub_that_is_down(hub: HubServer, host: Host) -> None:
    hub.close()
    ((kind, message),) = errors_of(host.fetch())
    assert kind == "network" and "cannot be reached" in message


def test_a_passing_failure_of_the_download_is_tried_again(hub: HubServer, host: Host) -> None:
    hub.misbehave("503", times=2)
    assert states_of(host.fetch()) == ["downloaded"]


def test_too_small_a_disk_stops_before_the_first_byte(
    hub: HubServer, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = store.shutil.disk_usage("/")._replace(free=310_000)  # enough for the file, not for 5 % more
    monkeypatch.setattr(store.shutil, "disk_usage", lambda path: usage)
    ((kind, message),) = errors_of(host.fetch())
    assert kind == "disk" and "GB free" in message and not hub.downloads


def test_two_filesystems_are_refused(hub: HubServer, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(store.os, "link", link)
    ((kind, message),) = errors_of(host.fetch())
    assert kind == "filesystem" and "no hard link is possible" in message and hub.requests == []


def test_only_own_leftovers_are_removed(hub: HubServer, host: Host) -> None:
    blobs = host.cache / "models--owner--model" / "blobs"
    blobs.mkdir(parents=True)
    own, foreign = blobs / f"{SHA256}.0a1b2c3d.incomplete", blobs / "another.0a1b2c3d.incomplete"
    own.write_bytes(b"half")
    foreign.write_bytes(b"half")
    (host.cache / ".gpuhost-inflight.json").write_text(json.dumps([[REPO, SHA256]]))
    host.fetch()
    assert not own.exists() and foreign.exists()


def run_program(hub: HubServer, request: ModelsRequest, **environ: str) -> subprocess.Popen[str]:
    environ = {**os.environ, "HF_ENDPOINT": hub.url, **environ}
    program = [sys.executable, "-I", "-B", "-m", "hostside.models"]
    process = subprocess.Popen(program, env=environ, text=True, stdin=-1, stdout=-1, stderr=-1)
    assert process.stdin is not None
    process.stdin.write(to_json(request))
    process.stdin.close()
    process.stdin = None
    return process


def wait_for(condition: Any) -> None:
    while not condition():  # the test's own time limit ends it
        time.sleep(0.01)


def test_killed_in_the_middle_and_run_again_it_finishes(hub: HubServer, host: Host, tmp_path: Path) -> None:
    hub.store.grant("hf_good", ["owner/gated"])
    hub.misbehave("slow", slow_bytes_per_s=100_000)
    planned = host.planned(repo="owner/gated", gated=True)
    process = run_program(hub, host.request(planned, token="hf_good"), HF_HOME=str(tmp_path / "host" / "cache"))
    wait_for(lambda: list(host.cache.rglob("*.incomplete")))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert list(host.cache.rglob("*.incomplete"))
    left = [path for path in tmp_path.rglob("*") if path.is_file() and "hub-data" not in path.parts]
    assert left and not [path for path in left if b"hf_good" in path.read_bytes()]
    hub.order = None
    events = host.fetch(repo="owner/gated", token="hf_good")
    assert states_of(events) == ["downloaded"] and host.linked.read_bytes() == BYTES
    assert not list(host.cache.rglob("*.incomplete"))


class Killed(BaseException):
    """The process is dead: it changes nothing any more."""


CHANGES = ("link", "mkdir", "open", "remove", "rename", "replace", "rmdir", "symlink", "unlink")


def die_at(monkeypatch: pytest.MonkeyPatch, number: int) -> list[int]:
    """From its `number`th change of the file system on, this process makes none. Returns the count of changes."""
    made = [0]

    def patched(real: Any) -> Any:
        def change(*given: Any, **named: Any) -> Any:
            if real is not os_open or given[1] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                made[0] += 1
                if made[0] > number:
                    raise Killed
            return real(*given, **named)

        return change

    os_open = os.open
    for name in CHANGES:
        monkeypatch.setattr(os, name, patched(getattr(os, name)))
    return made


def scenario(host: Host, name: str) -> None:
    """Something to do: a first fetch, a lost link, a damaged file, a lost manifest."""
    if name != "fetch":
        host.fetch()
    if name == "link":
        host.linked.unlink()
    elif name == "damaged":
        host.linked.write_bytes(b"x" * 300_000)
    elif name == "touched":
        host.linked.touch()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the dead do not tidy up
@pytest.mark.parametrize("name", ["fetch", "link", "damaged", "touched"])
def test_killed_at_any_change_and_run_again_it_finishes(hub: HubServer, tmp_path: Path, capsys: Any, name: str) -> None:
    counted = Host(tmp_path / "counted", capsys)
    scenario(counted, name)
    with pytest.MonkeyPatch.context() as patch:
        made = die_at(patch, 10**6)
        counted.run(counted.request(counted.planned()))
        changes = made[0]
    assert changes >= 4
    for number in range(0, changes, max(1, changes // 12)):
        host = Host(tmp_path / f"killed-{number}", capsys)
        scenario(host, name)
        request = host.request(host.planned())
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
            die_at(patch, number)
            host.run(request)
        for _ in range(3):  # what was damaged is set aside by one run, and fetched by the next
            host.fetch()
        assert host.planned() == [] and host.linked.read_bytes() == BYTES
        assert not list(host.cache.rglob("*.incomplete")) and not list(host.models.rglob(".*"))
        # At most one file is left over, which the next write takes.
        assert {path.name for path in host.manifest.parent.iterdir()} <= {"models.json", ".models.json.new"}


def test_a_stalled_download_starts_over_without_xet_then_gives_up(hub: HubServer, host: Host) -> None:
    hub.misbehave("slow", slow_bytes_per_s=10)  # a drip: no read ever times out
    process = run_program(hub, host.request(host.planned(), stall_s=0.2))
    out, err = process.communicate(timeout=20)
    events = [json.loads(line)["event"] for line in out.splitlines()]
    assert events == ["plan", "stalled", "plan", "error"] and process.returncode == 1
    assert "stood still" in err


def test_what_was_done_before_a_stall_is_not_done_again(hub: HubServer, host: Host) -> None:
    host.fetch()
    host.linked.unlink()
    hub.store.add("owner/other", {FILE: BYTES[::-1]}, gated=False, commit=None)
    hub.misbehave("slow", slow_bytes_per_s=10)
    planned = host.planned({"other": a_model(repo="owner/other", folder="other")})
    assert [each.file.action for each in planned] == ["link", "fetch"]
    out, _ = run_program(hub, host.request(planned, stall_s=0.2)).communicate(timeout=20)
    assert [json.loads(line)["event"] for line in out.splitlines()] == ["model", "plan", "stalled", "plan", "error"]


def refused(status: int, kind: type[errors.HfHubHTTPError] = errors.HfHubHTTPError) -> errors.HfHubHTTPError:
    """What huggingface_hub raises for an answer of the hub."""
    return kind(
        "a text\nof several lines", response=httpx2.Response(status, request=httpx2.Request("GET", "http://hub"))
    )


def os_error(number: int, file: str | None = "/cache/x") -> OSError:
    return OSError(number, os.strerror(number), file)


@pytest.mark.parametrize(
    ("error", "has_token", "kind", "transient", "said"),
    [
        (os_error(errno.ENOSPC), False, "disk", False, "the disk is full: /cache/x"),
        (os_error(errno.EDQUOT, None), False, "disk", False, f"the disk is full: {FILE}"),
        (os_error(errno.EACCES), False, "filesystem", False, "`/cache/x` cannot be written: Permission denied"),
        (os_error(errno.EPERM), False, "filesystem", False, "`/cache/x` cannot be written: Operation not permitted"),
        (os_error(errno.EROFS), False, "filesystem", False, "`/cache/x` cannot be written: Read-only file system"),
        (os_error(errno.EIO), False, "network", True, "Input/output error"),
        (errors.OfflineModeIsEnabled("off"), False, "network", False, "switched off for this program"),
        (httpx2.ReadTimeout("slow"), False, "network", True, "cannot be reached for `owner/model`: slow"),
        (httpx2.ReadTimeout(""), False, "network", True, "cannot be reached for `owner/model`: ReadTimeout"),
        (errors.LocalEntryNotFoundError("not\nhere"), False, "network", True, "not here"),
        (ValueError("of its own"), False, "network", False, "of its own"),
        (ValueError("long " * 100), False, "network", False, ": " + ("long " * 40)[:200]),
        *((refused(status), False, "network", True, f"answered {status}") for status in (408, 429, 500, 502, 503, 504)),
        *((refused(status), False, "network", False, f"answered {status}") for status in (400, 410, 418, 501)),
        (refused(401), False, "missing", False, "no public repository"),
        (refused(401), True, "token", False, "refuses the token, or hides"),
        (refused(403), True, "licence", False, "may not read `owner/model` (403)"),
        (refused(403), False, "licence", False, "may not read `owner/model` (403)"),
        (refused(404), True, "missing", False, "no public repository"),
        (refused(404, errors.RepositoryNotFoundError), False, "missing", False, "no public repository"),
        (refused(401, errors.RepositoryNotFoundError), True, "token", False, "refuses the token, or hides"),
        (refused(404, errors.RevisionNotFoundError), True, "missing", False, "no revision `main`"),
        (refused(404, errors.RemoteEntryNotFoundError), True, "missing", False, f"no file `{FILE}` at revision `main`"),
        (refused(401, errors.GatedRepoError), False, "gated", False, "there is no Hugging Face token"),
        (refused(401, errors.GatedRepoError), True, "token", False, "is gated, and the hub refuses the token"),
        (refused(403, errors.GatedRepoError), True, "licence", False, "may not read"),
    ],
)
def test_each_failure_is_one_sentence_and_one_thing_to_do(
    error: Exception, has_token: bool, kind: str, transient: bool, said: str
) -> None:
    known = hub_errors.explain(error, REPO, "main", FILE, has_token)
    assert (known.kind, known.transient) == (kind, transient)
    assert said in str(known) and known.hint and "\n" not in f"{known}{known.hint}"
    assert len(str(known)) < 320


def a_file(**over: Any) -> ModelFile:
    known = {"name": "vae", "repo": REPO, "revision": "main", "file": FILE, "dest": "vae/x", "sha256": None}
    return ModelFile(**(known | {"action": "fetch", "commit": None} | over))


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../x", ""])
@pytest.mark.parametrize("field", ["dest", "file"])
def test_a_path_outside_its_folder_is_refused(field: str, path: str) -> None:
    with pytest.raises(fetch.RequestError, match=field):
        fetch.parse(to_json(ModelsRequest([a_file(**{field: path})], "/c", "/m", "/f", 1)))


@pytest.mark.parametrize(
    ("action", "commit"),
    [("fetch", "a" * 40), ("verify", None), ("link", None), ("verify", ""), ("link", "../" * 13 + "a"), ("link", "/a")],
)
def test_an_action_and_its_commit_go_together(action: str, commit: str | None) -> None:
    with pytest.raises(fetch.RequestError):
        fetch.parse(to_json(ModelsRequest([a_file(action=action, commit=commit)], "/c", "/m", "/f", 1)))


def test_the_cache_is_looked_at_where_the_hubs_client_keeps_it() -> None:
    assert hub_cache.folder_name(REPO) == repo_folder_name(repo_id=REPO, repo_type="model")


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_status_that_may_pass_is_tried_again(hub: HubServer, host: Host, status: int) -> None:
    hub.statuses = [status, status]
    assert states_of(host.fetch()) == ["downloaded"] and hub.statuses == []


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 451, 501])
def test_a_final_refusal_is_not_tried_again(hub: HubServer, host: Host, status: int) -> None:
    hub.statuses = [status] * 9
    ((_, message),) = errors_of(host.fetch())
    assert len(hub.requests) == 1 and "\n" not in message


class Seconds:
    """Time for a watchdog: each of its looks is a moment later; `happens`: what moves before the look at a second."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, happens: dict[int, Callable[[], None]], until_s: int) -> None:
        self.now_s = 1000.0
        self._happens = {1000 + at_s: act for at_s, act in happens.items()}
        self._until_s = 1000 + until_s
        self.over = threading.Event()
        monkeypatch.setattr(watchdog, "time", SimpleNamespace(monotonic=lambda: self.now_s))
        monkeypatch.setattr(watchdog, "threading", SimpleNamespace(Thread=threading.Thread, Event=lambda: self))

    def wait(self, seconds: float) -> bool:
        self.now_s += seconds
        self._happens.pop(int(self.now_s), lambda: None)()
        if self.now_s > self._until_s:
            self.over.set()
        return self.over.is_set()

    def set(self) -> None:
        self.over.wait()


def watched(
    monkeypatch: pytest.MonkeyPatch, happens: dict[int, Callable[[], None]], until_s: int = 1000, stall_s: float = 100.0
) -> tuple[list[tuple[float, int]], list[float]]:
    """What a watchdog tells, each with the second at which it does: (progress, stalls)."""
    seconds = Seconds(monkeypatch, happens, until_s)
    progress: list[tuple[float, int]] = []
    stalls: list[float] = []

    def stall() -> None:
        stalls.append(seconds.now_s - 1000)
        seconds.over.set()

    with watchdog.Watchdog(stall_s, lambda count: progress.append((seconds.now_s - 1000, count)), stall):
        pass
    return progress, stalls


def test_a_download_that_stands_still_is_a_stall(monkeypatch: pytest.MonkeyPatch) -> None:
    assert watched(monkeypatch, {})[1] == [100]
    assert watched(monkeypatch, {}, until_s=98)[1] == []
    assert watched(monkeypatch, {}, stall_s=2.0)[1] == [2]  # it looks often enough for that


def received() -> None:
    watchdog.Meter(total=1).update(1)


def received_by_xet() -> None:
    """Before anything is written."""
    watchdog.Meter(total=1).update_transfer(1.5)


def started_over() -> None:
    """huggingface_hub takes back what it counted."""
    watchdog.Meter(total=1).update(-1)


@pytest.mark.parametrize("moved", [received, received_by_xet, started_over])
def test_whatever_moves_now_and_then_is_no_stall(monkeypatch: pytest.MonkeyPatch, moved: Callable[[], None]) -> None:
    assert watched(monkeypatch, dict.fromkeys(range(90, 700, 90), moved), until_s=720)[1] == []
    assert watched(monkeypatch, dict.fromkeys(range(90, 700, 90), moved))[1] == [630 + 100]
    assert watched(monkeypatch, {50: lambda: watchdog.Meter(total=1).update(None)})[1] == [100]


def test_the_meter_shows_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """Lines of the program are events."""
    with watchdog.Meter(total=10) as meter:
        meter.update(10)
        meter.set_transfer_postfix_str("x")
    assert capfd.readouterr() == ("", "")


def test_progress_is_told_every_ten_seconds_in_bytes_of_this_download(monkeypatch: pytest.MonkeyPatch) -> None:
    received()  # by an earlier one
    happens = {second: lambda: watchdog.Meter(total=1).update(7) for second in (5, 15, 16)}
    happens[17] = received_by_xet  # not written yet
    progress, _ = watched(monkeypatch, happens, until_s=35)
    assert progress == [(10, 7), (20, 21), (30, 21)]


def test_the_manifest_survives_a_failed_write(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    manifest.write_atomically(path, "old")
    with pytest.raises(TypeError):
        manifest.write_atomically(path, 3)  # type: ignore[arg-type]
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]

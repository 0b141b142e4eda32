"""The fetch program against the rehearsal's hub, over real HTTP."""

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
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
from huggingface_hub import constants, errors

from tests.rehearsal.standins.http import Request
from tests.rehearsal.standins.hub import Hub, HubStore
from tests.rehearsal.standins.misbehaviour import ConnectionCut, Order, refusal, spoil

sys.path.insert(0, str(Path(__file__).parents[3] / "files" / "host"))

import fetch_models
import hub_errors
import manifest
import store

REPO, FILE = "owner/model", "split/vae.safetensors"
BYTES = os.urandom(300_000)
SHA256 = hashlib.sha256(BYTES).hexdigest()


class HubServer:
    """The stand-in on a port. `order` spoils the next `order_times` answers."""

    def __init__(self, root: Path) -> None:
        self.store = HubStore(root)
        self.requests: list[str] = []
        self.order: Order | None = None
        self.order_times = 0
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

    def misbehave(self, mode: str, times: int = 1_000, **over: Any) -> None:
        self.order, self.order_times = Order(mode, **over), times

    def serve(self, handler: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(handler.path)
        self.requests.append(f"{handler.command} {parts.path}")
        request = Request(handler.command, "hub", parts.path, parts.query, handler.headers, b"")
        order = self.order if handler.command == "GET" and self.order_times > 0 else None
        self.order_times -= order is not None
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
    monkeypatch.setattr(fetch_models, "RETRY_AFTER_S", (0.0, 0.0))
    for name in ("HF_TOKEN_PATH", "CREDENTIALS_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)
    yield server
    server.close()


class Host:
    """One host's folders, and the program run on it."""

    def __init__(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.cache, self.models, self.manifest = root / "cache/hub", root / "models", root / "state/models.json"
        self._capsys = capsys

    def document(self, **over: Any) -> dict[str, Any]:
        model = {"name": "vae", "repo": REPO, "revision": "main", "file": FILE, "dest": "vae/vae.safetensors"}
        known = {"cache_dir": str(self.cache), "models_dir": str(self.models), "manifest": str(self.manifest)}
        return {"models": [{**model, "sha256": None, **over}], **known}

    def fetch(self, *, token: str | None = None, more: list[dict[str, Any]] | None = None, **over: Any) -> list[Any]:
        """All events of a run in this process; the exit status comes last."""
        document = self.document(**over)
        document["models"] += more or []
        text = json.dumps(document)
        try:
            ok = fetch_models.Fetch(fetch_models.parse(text), text, token).run()
        except fetch_models.FetchError as error:
            fetch_models.complain(error)
            ok = False
        return [*(json.loads(line) for line in self._capsys.readouterr().out.splitlines()), 0 if ok else 1]

    @property
    def linked(self) -> Path:
        return self.models / "vae/vae.safetensors"


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
    entry = json.loads(host.manifest.read_text())["models"]["vae"]
    blob = Path(entry["path"]).resolve()
    assert host.linked.read_bytes() == BYTES and not host.linked.is_symlink()
    assert host.linked.stat().st_ino == blob.stat().st_ino == entry["inode"]
    assert (entry["sha256"], entry["size"], entry["revision"], len(entry["commit"])) == (SHA256, 300_000, "main", 40)
    assert not list(host.cache.rglob("*.incomplete")) and not (host.cache / ".gpuhost-inflight.json").exists()
    assert "HEAD /owner/model/resolve/main/split/vae.safetensors" in hub.requests

    hub.requests.clear()
    before = {path: path.lstat().st_mtime_ns for path in host.cache.parent.parent.rglob("*")}
    assert states_of(host.fetch()) == ["present"]
    assert hub.requests == []
    assert before == {path: path.lstat().st_mtime_ns for path in host.cache.parent.parent.rglob("*")}


def test_a_lost_link_or_manifest_costs_no_download(hub: HubServer, host: Host) -> None:
    host.fetch()
    hub.requests.clear()
    host.linked.unlink()
    assert states_of(host.fetch()) == ["relinked"] and host.linked.exists()
    host.linked.touch()
    assert states_of(host.fetch()) == ["verified"]
    assert hub.requests == []
    host.manifest.unlink()
    assert states_of(host.fetch()) == ["downloaded"]  # `main` has to be asked for, but no byte moves
    assert not [request for request in hub.requests if request.startswith("GET")]
    commit = json.loads(host.manifest.read_text())["models"]["vae"]["commit"]
    hub.requests.clear()
    host.manifest.write_text("half a manif")
    assert states_of(host.fetch(revision=commit)) == ["verified"] and hub.requests == []


def test_damaged_files_are_noticed_and_fetched_again(hub: HubServer, host: Host) -> None:
    host.fetch()
    host.linked.write_bytes(b"x" * 300_000)
    assert states_of(host.fetch()) == ["downloaded"]
    assert host.linked.read_bytes() == BYTES


def test_a_small_file_is_verified_by_its_git_id(hub: HubServer, host: Host) -> None:
    assert states_of(host.fetch(file="config.json", dest="text/config.json")) == ["downloaded"]
    hub.misbehave("wrong-bytes")
    other = Host(host.cache.parent.parent / "other", host._capsys)
    assert errors_of(other.fetch(file="config.json", dest="text/config.json"))[0][0] == "bytes"


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
    assert errors_of(host.fetch(sha256="0" * 64))[0][0] == "bytes"
    assert host.linked.read_bytes() == BYTES  # the pin was wrong, not the file


def test_a_foreign_file_is_moved_aside_an_own_older_one_is_replaced(hub: HubServer, host: Host) -> None:
    host.linked.parent.mkdir(parents=True)
    host.linked.write_bytes(b"somebody's own finetune")
    (moved,) = [event for event in host.fetch()[:-1] if event["event"] == "moved_aside"]
    assert Path(moved["moved_to"]).read_bytes() == b"somebody's own finetune"
    newer = hub.store.add(REPO, {FILE: b"newer"}, gated=False, commit=None)
    events = host.fetch(revision=newer)
    assert host.linked.read_bytes() == b"newer" and "moved_aside" not in str(events)
    assert len(list(host.linked.parent.iterdir())) == 2


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
    good = host.document(name="good", dest="good.bin")["models"]
    events = host.fetch(token=token, more=good if kind != "token" else None, **over)
    ((seen_kind, message),) = errors_of(events)
    assert events[-1] == 1 and seen_kind == kind and sentence in message and "\n" not in message
    assert not [request for request in hub.requests if request.startswith("GET")]
    assert token is None or token not in str(events)


def test_a_gated_file_with_access(hub: HubServer, host: Host) -> None:
    hub.store.grant("hf_good", ["owner/gated"])
    assert states_of(host.fetch(repo="owner/gated", token="hf_good")) == ["downloaded"]


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
    assert kind == "disk" and "GB free" in message and not [r for r in hub.requests if r.startswith("GET")]


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


def run_program(hub: HubServer, document: dict[str, Any], **environ: str) -> subprocess.Popen[str]:
    environ = {**os.environ, "HF_ENDPOINT": hub.url, "PYTHONDONTWRITEBYTECODE": "1", **environ}
    process = subprocess.Popen(
        [sys.executable, fetch_models.__file__], env=environ, text=True, stdin=-1, stdout=-1, stderr=-1
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(document))
    process.stdin.close()
    process.stdin = None
    return process


def wait_for(condition: Any) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_killed_in_the_middle_and_run_again_it_finishes(hub: HubServer, host: Host, tmp_path: Path) -> None:
    secret = tmp_path / "token"
    secret.write_text("hf_good\n")
    hub.store.grant("hf_good", ["owner/gated"])
    hub.misbehave("slow", slow_bytes_per_s=100_000)
    process = run_program(hub, host.document(repo="owner/gated"), HF_TOKEN_PATH=str(secret))
    wait_for(lambda: list(host.cache.rglob("*.incomplete")))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert list(host.cache.rglob("*.incomplete"))
    hub.order = None
    events = host.fetch(repo="owner/gated", token="hf_good")
    assert states_of(events) == ["downloaded"] and host.linked.read_bytes() == BYTES
    assert not list(host.cache.rglob("*.incomplete"))


def test_a_stalled_download_starts_over_without_xet_then_gives_up(hub: HubServer, host: Host) -> None:
    hub.misbehave("slow", slow_bytes_per_s=10)  # a drip: no read ever times out
    process = run_program(hub, {**host.document(), "stall_s": 0.2})
    out, err = process.communicate(timeout=20)
    events = [json.loads(line)["event"] for line in out.splitlines()]
    assert events == ["plan", "stalled", "plan", "error"] and process.returncode == 1
    assert "stood still" in err


def test_the_token_comes_from_a_file_only(tmp_path: Path) -> None:
    (tmp_path / "hf_token").write_text(" hf_x \n")
    assert fetch_models.read_token({"HF_TOKEN": "hf_environment"}) is None
    assert fetch_models.read_token({"CREDENTIALS_DIRECTORY": str(tmp_path)}) == "hf_x"
    assert fetch_models.read_token({"HF_TOKEN_PATH": str(tmp_path / "hf_token")}) == "hf_x"
    assert fetch_models.read_token({"CREDENTIALS_DIRECTORY": str(tmp_path / "none")}) is None
    with pytest.raises(fetch_models.FetchError, match="cannot be read"):
        fetch_models.read_token({"HF_TOKEN_PATH": str(tmp_path / "none")})


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError(errno.ENOSPC, "No space left", "/cache/x"), "disk"),
        (OSError(errno.EACCES, "Permission denied", "/cache/x"), "filesystem"),
        (errors.OfflineModeIsEnabled("off"), "network"),
        (httpx2.ReadTimeout("slow"), "network"),
    ],
)
def test_other_failures(error: Exception, kind: str) -> None:
    known = hub_errors.explain(error, REPO, "main", FILE, has_token=False)
    assert known.kind == kind and known.hint and "\n" not in str(known)


@pytest.mark.parametrize("dest", ["/etc/passwd", "../x", "a/../../x", ""])
def test_a_destination_outside_the_models_folder_is_refused(host: Host, dest: str) -> None:
    with pytest.raises(fetch_models.DocumentError, match="dest"):
        fetch_models.parse(json.dumps(host.document(dest=dest)))


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"models": [{"x": 1}], "cache_dir": "a", "models_dir": "b"}'])
def test_a_wrong_document(text: str) -> None:
    with pytest.raises(fetch_models.DocumentError):
        fetch_models.parse(text)


def test_the_manifest_survives_a_failed_write(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    manifest.write_atomically(path, "old")
    with pytest.raises(TypeError):
        manifest.write_atomically(path, 3)  # type: ignore[arg-type]
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]

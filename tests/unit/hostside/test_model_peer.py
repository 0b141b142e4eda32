"""Files of models that one host gives to another: both programs over real pipes, and the fetch through them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3

from gpuhost.run import stream
from hostside.model_peer import ANSWER, ASK, PIECE_BYTES
from hostside.models import fetch
from hostside.protocol.model_peer import GivenFile, GiveRequest, TakenFile, TakeReady, TakeRequest
from hostside.protocol.models import ModelFile
from hostside.wire import from_json, to_json
from tests.rehearsal.standins.local import LocalHub

from .model_host import REPO, STALL_S, Host, events, only

SECRET = "never-to-be-guessed"  # noqa: S105
LARGE = os.urandom(1 << 20) * 5 + b"end"
MANY: dict[str, bytes | Path] = {f"folder {n % 3}/größe {n}.json": os.urandom(900 + n) for n in range(30)}


class Program:
    """`give` or `take`, as the control side starts it: `end` is its stdin and its stdout."""

    def __init__(self, action: str, request: str) -> None:
        self.end, its = socket.socketpair()
        line = [sys.executable, "-I", "-B", "-m", "hostside.model_peer", action]
        with its:
            self.process = subprocess.Popen(line, stdin=its.fileno(), stdout=its.fileno(), stderr=-1)
        self.end.sendall(f"{request}\n".encode())

    def ended(self) -> int:
        """It does, by itself; its exit status."""
        return self.process.wait(20)

    def stop(self) -> None:
        self.end.close()
        self.process.kill()
        self.process.wait()


@pytest.fixture
def start() -> Iterator[Callable[[str, str], Program]]:
    """Programs that end with the test."""
    started: list[Program] = []

    def begin(action: str, request: str) -> Program:
        started.append(Program(action, request))
        return started[-1]

    yield begin
    for each in started:
        each.stop()


# -- who gives ---------------------------------------------------------------------------------------------------------


def ask(giving: Program, number: int, offset: int, length: int) -> bytes | None:
    """What it answers; None: it has ended."""
    giving.end.sendall(ASK.pack(number, offset, length))
    head = giving.end.recv(ANSWER.size, socket.MSG_WAITALL)
    return giving.end.recv(ANSWER.unpack(head)[0], socket.MSG_WAITALL) if len(head) == ANSWER.size else None


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Of one file, as huggingface_hub keeps it: a snapshot's link to its bytes."""
    for folder in ("hub/models--a--b/blobs", "hub/models--a--b/snapshots/c"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "hub/models--a--b/blobs/sha").write_bytes(b"0123456789")
    (tmp_path / "hub/models--a--b/snapshots/c/x").symlink_to("../../blobs/sha")
    (tmp_path / "secret").write_bytes(b"not for you")
    return tmp_path / "hub"


AT = "models--a--b/snapshots/c/x"


def giving(cache: Path, *files: GivenFile) -> str:
    return to_json(GiveRequest([*files], str(cache)))


def test_the_planned_files_are_given_piece_by_piece(start: Any, cache: Path) -> None:
    program = start("give", giving(cache, GivenFile(AT, 10)))
    assert ask(program, 0, 0, PIECE_BYTES) == b"0123456789"
    assert (ask(program, 0, 3, 4), ask(program, 0, 8, 4), ask(program, 0, 10, 4)) == (b"3456", b"89", b"")
    program.end.shutdown(socket.SHUT_WR)
    assert program.ended() == 0


@pytest.mark.parametrize(
    "asked", [(1, 0, 1), (2**32 - 1, 0, 1), (0, 0, PIECE_BYTES + 1), (0, 11, 1), (0, 2**64 - 1, 1)]
)
def test_what_is_not_planned_is_not_given_and_who_asks_for_it_nothing_more(
    start: Any, cache: Path, asked: tuple[int, int, int]
) -> None:
    program = start("give", giving(cache, GivenFile(AT, 10)))
    assert ask(program, 0, 0, 1) == b"0"
    assert ask(program, *asked) is None and program.ended() == 2


@pytest.mark.parametrize("at", ["../secret", "/etc/passwd", f"{AT}/../../../../../secret", "", "."])
def test_no_path_out_of_the_cache_is_taken(start: Any, cache: Path, at: str) -> None:
    program = start("give", giving(cache, GivenFile(at, 11)))
    assert program.ended() == 2
    assert program.process.stderr.read().startswith(b"error: `at` names no path below the cache")


def _link_to(target: str) -> Callable[[Path], None]:
    def damage(cache: Path) -> None:
        (cache / AT).unlink()
        (cache / AT).symlink_to(target)

    return damage


def _linked_folder(cache: Path) -> None:
    """The folder of the blobs is another one."""
    (cache / "models--a--b/blobs").rename(cache.parent / "elsewhere")
    (cache / "models--a--b/blobs").symlink_to(cache.parent / "elsewhere")


def _fifo(cache: Path) -> None:
    (cache / AT).unlink()
    os.mkfifo(cache / AT)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "gone": lambda cache: (cache / AT).unlink(),
    "a link out": _link_to("../../../../secret"),
    "a link to anywhere": _link_to("/proc/self/environ"),
    "a link to itself": _link_to("x"),
    "a folder that is a link out": _linked_folder,
    "a FIFO": _fifo,
    "a device": _link_to("/dev/zero"),
    "another size": lambda cache: (cache / "models--a--b/blobs/sha").write_bytes(b"01234567890"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_what_is_not_as_planned_is_not_given_and_the_rest_is(
    start: Any, cache: Path, damage: Callable[[Path], object]
) -> None:
    (cache / "other").write_bytes(b"fine")
    damage(cache)
    program = start("give", giving(cache, GivenFile(AT, 10), GivenFile(AT, 11), GivenFile("other", 4)))
    size = 11 if damage is DAMAGES["another size"] else 0
    assert (ask(program, 0, 0, 9), ask(program, 1, 0, 11)) == (b"", b"01234567890"[:size])
    assert ask(program, 2, 0, 9) == b"fine"


# -- who takes ---------------------------------------------------------------------------------------------------------


def taking(size: int = 10) -> str:
    return to_json(TakeRequest([TakenFile("a/b", "c", "d e/x", size, "sha")], SECRET))


def address(program: Program) -> str:
    return f"http://127.0.0.1:{from_json(TakeReady, stream.line(program.end, 200)).port}"


def get(url: str, secret: str | None = SECRET, wanted: str | None = "bytes=0-9") -> urllib3.BaseHTTPResponse:
    headers = {"Authorization": f"Bearer {secret}"} if secret is not None else {}
    headers |= {"Range": wanted} if wanted else {}
    return urllib3.request("GET", url, headers=headers, retries=False, timeout=20)


@pytest.mark.parametrize(
    ("path", "secret", "wanted", "status"),
    [
        ("/a/b/resolve/c/d%20e/x", None, "bytes=0-9", 401),
        ("/a/b/resolve/c/d%20e/x", "", "bytes=0-9", 401),
        ("/a/b/resolve/c/d%20e/x", f"{SECRET}x", "bytes=0-9", 401),
        ("/a/b/resolve/c/y", SECRET, "bytes=0-9", 404),
        ("/", SECRET, "bytes=0-9", 404),
        ("/a/b/resolve/c/d%20e/x", SECRET, None, 404),
        ("/a/b/resolve/c/d%20e/x", SECRET, "bytes=0-9,3-4", 404),
        ("/a/b/resolve/c/d%20e/x", SECRET, "bytes=0-10", 416),
        ("/a/b/resolve/c/d%20e/x", SECRET, "bytes=9-8", 416),
    ],
)
def test_what_is_refused_asks_the_other_side_for_nothing(
    start: Any, path: str, secret: str | None, wanted: str | None, status: int
) -> None:
    program = start("take", taking())
    url = address(program)
    assert get(url + path, secret, wanted).status == status
    program.end.setblocking(False)
    with pytest.raises(BlockingIOError):
        program.end.recv(1)


def test_it_answers_as_a_hub_does_to_who_knows_the_secret_on_the_loopback_alone(start: Any) -> None:
    program = start("take", taking())
    url = address(program)
    found: list[urllib3.BaseHTTPResponse] = []
    asks = threading.Thread(target=lambda: found.append(get(f"{url}/a/b/resolve/c/d%20e/x", wanted="bytes=2-5")))
    asks.start()
    assert ASK.unpack(program.end.recv(ASK.size, socket.MSG_WAITALL)) == (0, 2, 4)
    program.end.sendall(ANSWER.pack(4) + b"2345")
    asks.join()
    assert (found[0].status, found[0].data, found[0].headers["Content-Range"]) == (206, b"2345", "bytes 2-5/10")
    assert (found[0].headers["X-Repo-Commit"], found[0].headers["ETag"]) == ("c", '"sha"')
    listening = Path(f"/proc/{program.process.pid}/net/tcp").read_text()
    port = f":{int(url.rpartition(':')[2]):04X}"
    assert f"0100007F{port} 00000000:0000 0A" in listening and f"00000000{port}" not in listening
    program.end.shutdown(socket.SHUT_WR)
    assert program.ended() == 0


def test_who_sends_more_than_was_asked_for_is_left(start: Any) -> None:
    program = start("take", taking())
    url = address(program)
    with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as raw:
        raw.sendall(f"GET /a/b/resolve/c/d%20e/x HTTP/1.1\r\nAuthorization: Bearer {SECRET}\r\n".encode())
        raw.sendall(b"Range: bytes=0-9\r\n\r\n")
        program.end.recv(ASK.size, socket.MSG_WAITALL)
        program.end.sendall(ANSWER.pack(2**32 - 1))
        assert program.ended() == 2 and raw.recv(1) == b""


def test_a_secret_in_any_letters_is_compared(start: Any) -> None:
    url = address(start("take", taking()))
    with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as raw:
        raw.sendall("GET / HTTP/1.1\r\nAuthorization: Bearer größe\r\n\r\n".encode())
        assert raw.recv(12) == b"HTTP/1.1 401"


@pytest.mark.parametrize("action", ["give", "take", "", "both"])
def test_a_request_that_is_none_is_refused(start: Any, action: str) -> None:
    program = start(action, '{"files": 1}')
    assert program.ended() == 2 and b"hint: " in program.process.stderr.read()


# -- the fetch through both --------------------------------------------------------------------------------------------


class Pair:
    """A host that has a repository, one that lacks it, and the way from one to the other."""

    def __init__(self, giver: Host, taker: Host, start: Any) -> None:
        self.giver, self.taker, self._start = giver, taker, start

    def join(self, lost: str = "", after_bytes: int = 0) -> list[ModelFile]:
        """The files as the taker's plan has them. `lost`: that program is killed when so much has come through."""
        files = self.taker.files()
        given = [GivenFile(str(self.giver.pointer(f).relative_to(self.giver.cache)), f.size) for f in files]
        taken = [TakenFile(f.repo, f.commit, f.file, f.size, str(f.sha256 or f.git_sha1)) for f in files]
        self.gives = self._start("give", to_json(GiveRequest(given, str(self.giver.cache))))
        self.takes = self._start("take", to_json(TakeRequest(taken, SECRET)))
        url = address(self.takes)
        gives, takes = self.gives.end, self.takes.end

        def carry() -> None:
            passed = 0
            while lost and passed < after_bytes:
                piece = gives.recv(4096)
                takes.sendall(piece)
                passed += len(piece)
            if lost:
                getattr(self, lost).process.kill()
            stream.hand_on(gives, takes)

        threading.Thread(target=carry, daemon=True).start()
        threading.Thread(target=stream.hand_on, args=(takes, gives), daemon=True).start()
        return self.taker.files(peers=[url])

    def run(self, files: list[ModelFile], stall_s: float = STALL_S) -> list[Any]:
        return self.taker.run(files, peer_secret=SECRET, stall_s=stall_s)


@pytest.fixture
def pair(tmp_path: Path, hub: LocalHub, capsys: pytest.CaptureFixture[str], start: Any) -> Pair:
    hub.store.add(REPO, {**MANY, "large.safetensors": LARGE}, gated=False, commit=None)
    giver = Host(tmp_path / "giver", hub, capsys)
    assert giver.run()[-1] == 0
    hub.requests.clear()
    hub.sent_bytes = 0
    return Pair(giver, Host(tmp_path / "taker", hub, capsys), start)


def right(pair: Pair, found: list[Any]) -> None:
    assert found[-1] == 0
    for file in pair.taker.files():
        assert pair.taker.pointer(file).read_bytes() == pair.giver.pointer(file).read_bytes(), file.file
    assert pair.taker.partials() == []


TOTAL = len(LARGE) + sum(len(each) for each in MANY.values() if isinstance(each, bytes))


def test_everything_comes_from_the_neighbour_and_the_hub_is_not_asked(pair: Pair, hub: LocalHub) -> None:
    found = pair.run(pair.join())
    right(pair, found)
    assert hub.requests == [] and only(found, "done")["peer_bytes"] == only(found, "done")["downloaded_bytes"] == TOTAL


def test_wrong_bytes_come_from_the_hub(pair: Pair, hub: LocalHub) -> None:
    """The neighbour's file was changed behind its back, or it lies."""
    files = pair.join()
    large = next(file for file in files if file.sha256)
    bytes_of = pair.giver.pointer(large).resolve()
    bytes_of.write_bytes(LARGE[:-1] + b"X")
    found = pair.run(files)
    bytes_of.write_bytes(LARGE)
    right(pair, found)
    assert len(hub.requests) == 1 and hub.sent_bytes == len(LARGE)
    [retried] = events(found, "retrying")
    assert retried["peer"] and "is not what the hub says" in retried["cause"]


def test_what_the_neighbour_has_no_more_comes_from_the_hub(pair: Pair, hub: LocalHub) -> None:
    files = pair.join()
    pair.giver.pointer(files[3]).unlink()
    found = pair.run(files)
    assert found[-1] == 0 and len(hub.requests) == 1
    [retried] = events(found, "retrying")
    assert retried["cause"] == "a neighbour does not give it: it answers 404" and retried["file"] == files[3].file


@pytest.mark.parametrize("lost", ["gives", "takes"])
def test_when_the_neighbour_is_lost_the_hub_goes_on_from_there(pair: Pair, hub: LocalHub, lost: str) -> None:
    found = pair.run(pair.join(lost, after_bytes=3 << 20))
    right(pair, found)
    done = only(found, "done")
    assert done["downloaded_bytes"] == TOTAL == done["peer_bytes"] + hub.sent_bytes  # no byte twice
    assert 1 << 20 < done["peer_bytes"] < TOTAL


def test_for_one_that_stands_still_nobody_waits_twice(pair: Pair, hub: LocalHub) -> None:
    files = pair.join()
    os.kill(pair.gives.process.pid, signal.SIGSTOP)
    found = pair.run(files, stall_s=0.5)
    right(pair, found)
    causes = [each["cause"] for each in events(found, "retrying")]
    assert set(causes) == {"a neighbour does not give it: it stood still"} and len(causes) <= fetch.SMALL_AT_ONCE < len(
        files
    )
    assert hub.sent_bytes == TOTAL


def test_the_secret_and_the_bytes_go_to_no_proxy(pair: Pair, hub: LocalHub) -> None:
    request = pair.taker.request(pair.join(), peer_secret=SECRET)
    process = pair.taker.start(request, http_proxy=hub.url, HTTP_PROXY=hub.url, ALL_PROXY=hub.url)
    out, err = process.communicate()
    assert process.returncode == 0 and err == "" and hub.requests == [] and SECRET not in out


def test_a_neighbour_sends_nobody_elsewhere(pair: Pair, hub: LocalHub, tmp_path: Path) -> None:
    """Whoever answers in its place, when it has gone."""
    other = LocalHub(tmp_path / "other")
    other.store.add(REPO, {**MANY, "large.safetensors": LARGE}, gated=False, commit=pair.taker.files()[0].commit)
    other.store.grant(SECRET, [])
    other.elsewhere = hub.url
    try:
        found = pair.run(pair.taker.files(peers=[other.url]))
    finally:
        other.close()
    right(pair, found)
    assert {each["cause"] for each in events(found, "retrying")} == {
        "a neighbour does not give it: the connection broke"
    }
    assert SECRET not in str(hub.tokens)


def test_a_token_for_the_hub_is_told_to_no_neighbour(pair: Pair, hub: LocalHub, tmp_path: Path) -> None:
    hub.store.grant("hf_mine", [REPO])
    other = LocalHub(tmp_path / "other")
    other.store.add(REPO, {**MANY, "large.safetensors": LARGE}, gated=False, commit=pair.taker.files()[0].commit)
    other.store.grant(SECRET, [])
    try:
        files = pair.taker.files(peers=[other.url], gated=True)
        assert pair.taker.run(files, peer_secret=SECRET, token="hf_mine")[-1] == 0
    finally:
        other.close()
    assert set(other.tokens) == {f"Bearer {SECRET}"} and hub.requests == []

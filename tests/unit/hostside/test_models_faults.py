"""What a hub, a network and a disk can do to a download: each ends in the right bytes or in one clear error, nothing
wrong is ever where a service looks, and the next run finishes. A table of what each cost is printed at the end."""

from __future__ import annotations

import functools
import os
import random
import signal
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hostside.cache_lock import alone
from hostside.models import download, fetch, partial
from hostside.models.meter import Meter
from hostside.models.partial import LOST_BYTES_MAX
from hostside.protocol.models import ModelFile
from tests.rehearsal.standins.local import LocalHub
from tests.rehearsal.standins.misbehaviour import Order

from .model_host import REPO, STALL_S, Host, errors_of, events, only, wait_for

SEED = 20261128
SIZE = 8_000_000
CONTENT = {"a/weights.safetensors": random.Random(SEED).randbytes(SIZE), "config.json": b'{"a": 1}'}
NEEDED = sum(map(len, CONTENT.values()))
COST: dict[str, tuple[int, int]] = {}  # trouble -> bytes that the hub sent, bytes that were needed


@pytest.fixture(scope="module", autouse=True)
def _cost_told() -> Iterator[None]:
    yield
    for name, (sent, needed) in COST.items():
        print(f"{name:40} {sent:>12} / {needed:>12} = {sent / needed:6.3f}")


@dataclass(frozen=True)
class Trouble:
    """`orders`: for the downloads of the large file, then always `lasting`; `kind`: of the one error, "" for none;
    `attempts`: how many are made."""

    orders: list[Order | None] = field(default_factory=list)
    lasting: Order | None = None
    kind: str = ""
    says: str = ""
    attempts: int = 1
    stall_s: float = STALL_S


def at(mode: str, count: int = 1, **over: Any) -> list[Order | None]:
    return [Order(mode, match="weights", **over) for _ in range(count)]


def cuts(count: int) -> list[Order | None]:
    chance = random.Random(SEED)
    return [Order("cut", match="weights", after_bytes=chance.randint(0, SIZE // 12)) for _ in range(count)]


TROUBLES = {
    "wrong bytes, once": Trouble(at("wrong-bytes"), attempts=2),
    "wrong bytes, always": Trouble([], Order("wrong-bytes"), "bytes", "is not what the hub says", 2),
    "truncated to a half, always": Trouble([], Order("truncated"), "network", "early", 28),  # its last byte never comes
    "truncated to nothing, always": Trouble([], Order("truncated", after_bytes=0), "network", "early", 5),
    "cut at 10 random offsets": Trouble(cuts(10), attempts=11),
    "cut before the first byte, always": Trouble([], Order("cut", after_bytes=0), "network", "cannot be reached", 5),
    "503 three times": Trouble(at("503", 3), attempts=4),
    "503, always": Trouble([], Order("503"), "network", "answered 503", 5),
    "429 with Retry-After": Trouble(at("429", 2, retry_after="0"), attempts=3),
    "500 four times": Trouble(at("500", 4), attempts=5),
    "a stalled socket, once": Trouble(at("stalled"), attempts=2, stall_s=0.3),
    "a stalled socket, always": Trouble([], Order("stalled", after_bytes=0), "network", "stood still", 5, 0.2),
    "a drip, always": Trouble([], Order("slow", slow_bytes_per_s=10), "network", "stood still for 0.2 s", 5, 0.2),
    "401": Trouble([], Order("401"), "missing", "no public repository"),
    "403": Trouble([], Order("403"), "licence", "may not read"),
    "404": Trouble([], Order("404"), "missing", "no public repository"),
    "410": Trouble([], Order("410"), "network", "answered 410"),
    "the hub is down": Trouble([], Order("down"), "network", "cannot be reached", 5),
}


@pytest.mark.parametrize("name", TROUBLES)
def test_a_trouble_ends_well_or_is_told_and_the_next_run_finishes(hub: LocalHub, host: Host, name: str) -> None:
    trouble = TROUBLES[name]
    hub.store.add(REPO, dict(CONTENT), gated=False, commit=None)
    large = [each for each in host.files(links={"a/weights.safetensors": ["vae/x.bin"]}) if each.size == SIZE]
    hub.orders, hub.order = list(trouble.orders), trouble.lasting
    watcher = Watcher(host, large)
    with watcher:
        found = host.run(large, stall_s=trouble.stall_s)
    asked = len(hub.requests)
    assert [kind for kind, _ in errors_of(found)] == ([trouble.kind] if trouble.kind else [])
    assert asked == trouble.attempts and len(events(found, "retrying")) == trouble.attempts - 1
    if trouble.kind:
        error = only(found, "error")
        assert trouble.says in error["message"] and error["hint"] and error["attempt"] == trouble.attempts
        assert error["file"] == "a/weights.safetensors" and found[-1] == 1
    hub.orders, hub.order = [], None
    files = host.files(links={"a/weights.safetensors": ["vae/x.bin"]})
    assert host.run(files)[-1] == 0
    finished(host, files, CONTENT)
    COST[name] = (hub.sent_bytes, NEEDED)


class Watcher:
    """A service that looks all the time: whatever it can open has the right size, and at the end the right bytes."""

    def __init__(self, host: Host, files: list[ModelFile]) -> None:
        self._host, self._files = host, files
        self._sizes = {file.size for file in files}
        self._over = threading.Event()
        self.wrong: list[Path] = []

    def __enter__(self) -> None:
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        assert self.wrong == []

    def _watch(self) -> None:
        right = {CONTENT[file.file] for file in self._files}
        while not self._over.wait(0.02):
            for path in self._host.visible():
                if path.read_bytes() not in right:
                    self.wrong.append(path)


def finished(host: Host, files: list[ModelFile], content: Mapping[str, bytes | Path]) -> None:
    for file in files:
        assert host.pointer(file).read_bytes() == content[file.file]
        assert host.pointer(file).stat().st_mode & 0o777 == 0o644
        assert all((host.models / link).samefile(host.pointer(file)) for link in file.links)
    assert not host.partials() and not list(host.cache.rglob("*.gpuhost-link"))


class Pieces:
    """What comes, as an answer gives it: (after how many seconds, how many bytes) each."""

    def __init__(self, clock: list[float], *pieces: tuple[float, int]) -> None:
        self._clock = clock
        self._pieces = pieces

    def pieces(self, size: int) -> Iterator[bytes]:
        for after_s, count in self._pieces:
            self._clock[0] += after_s
            yield b"x" * count


ENOUGH, LITTLE = download.SLOW_BYTES, 1000
FILE = ModelFile("vae", REPO, "0" * 40, "a/weights.safetensors", SIZE, None, None, [], "fetch", False)


@pytest.mark.parametrize(
    ("pieces", "stands_still"),
    [
        ([(40.0, ENOUGH)] * 20, False),  # slow, and it comes on
        ([(0.1, LITTLE)] * 500, False),
        ([(20.0, ENOUGH // 3 + 1)] * 30, False),  # enough in three pieces, time after time
        ([(40.0, ENOUGH), (40.0, LITTLE), (40.0, LITTLE)], True),
        ([(20.0, LITTLE)] * 4, True),
        ([(60.0, LITTLE), (0.5, LITTLE)], True),
        ([(60.0, LITTLE), (0.0, LITTLE)], False),
    ],
    ids=["slow", "short", "in pieces", "at last", "from the first", "a moment too late", "just in time"],
)
def test_what_comes_on_slowly_does_not_stand_still(
    monkeypatch: pytest.MonkeyPatch, pieces: list[tuple[float, int]], stands_still: bool
) -> None:
    """However long the whole takes: each time that enough came, the time begins anew."""
    clock, came = [1000.0], 0
    monkeypatch.setattr(download, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    downloads = download.Downloads(None, 60.0, Meter(lambda _: None), lambda _: None)

    def write(chunk: bytes) -> None:
        nonlocal came
        came += len(chunk)

    def pour() -> None:
        partial = SimpleNamespace(write=write)
        downloads._pour(FILE, Pieces(clock, *pieces), partial, False)  # type: ignore[arg-type]

    if stands_still:
        with pytest.raises(download.Standstill, match="stood still for 60 s"):
            pour()
    else:
        pour()
        assert came == downloads.downloaded_bytes == sum(count for _, count in pieces)


def test_a_revision_that_is_gone_is_told_once_for_all_its_files(hub: LocalHub, host: Host) -> None:
    hub.store.add(REPO, dict(CONTENT), gated=False, commit=None)
    ((kind, message),) = errors_of(host.run(host.files(commit="0" * 40)))
    assert kind == "missing" and f"no revision `{'0' * 40}`" in message and host.visible() == []
    assert host.run()[-1] == 0


def test_a_repository_that_refuses_does_not_keep_another_from_coming(hub: LocalHub, host: Host) -> None:
    hub.store.add("owner/gated", {f"{number}.json": b"%d" % number for number in range(30)}, gated=True, commit=None)
    hub.store.add(REPO, dict(CONTENT), gated=False, commit=None)
    found = host.run([*host.files("owner/gated"), *host.files()])
    ((kind, message),) = errors_of(found)
    assert kind == "gated" and "no Hugging Face token" in message and found[-1] == 1
    assert {event["file"] for event in events(found, "model")} == set(CONTENT)


def test_what_the_hub_asks_to_wait_is_waited(hub: LocalHub, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.store.add(REPO, dict(CONTENT), gated=False, commit=None)
    hub.misbehave_first(at("429", retry_after="7") + at("429", retry_after="86400"))
    waited: list[float] = []
    monkeypatch.setattr(download.Downloads, "pause", lambda self, seconds: waited.append(seconds))
    found = host.run([each for each in host.files() if each.size == SIZE])
    assert found[-1] == 0 and waited == [7.0, download.RETRY_AFTER_MAX_S]
    assert [event["pause_s"] for event in events(found, "retrying")] == waited


def test_a_hub_that_knows_no_ranges_starts_over(hub: LocalHub, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.store.add(REPO, dict(CONTENT), gated=False, commit=None)
    hub.misbehave_first(at("cut"))
    monkeypatch.setattr("tests.rehearsal.standins.http.byte_range", lambda header, size: None)
    assert host.run()[-1] == 0
    finished(host, host.files(), CONTENT)


def test_what_answers_and_is_no_hub_is_told(hub: LocalHub, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page of a hotel's network, say."""
    hub.store.add(REPO, dict(CONTENT), gated=False, commit=None)
    files = host.files()
    from tests.rehearsal.standins import local
    from tests.rehearsal.standins.http import html

    monkeypatch.setattr(local.Hub, "serve", lambda self, request: html("<h1>Welcome</h1>"))
    ((kind, message),) = errors_of(host.run(files))
    assert kind == "network" and "is not a hub" in message and host.visible() == []


def test_a_failure_of_the_network_ends_every_download_at_once(hub: LocalHub, host: Host) -> None:
    content: dict[str, bytes | Path] = {f"{number}.bin": os.urandom(1000) for number in range(40)}
    hub.store.add(REPO, content, gated=False, commit=None)
    hub.misbehave("down")
    assert len(errors_of(host.run())) == 1 and len(hub.requests) <= fetch.SMALL_AT_ONCE * 5


# -- the disk ----------------------------------------------------------------------------------------------------------


def test_a_disk_that_is_too_small_stops_before_the_first_byte(
    hub: LocalHub, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.store.add(REPO, dict(CONTENT), gated=False, commit=None)
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_bavail=int(NEEDED * 1.049), f_frsize=1))
    found = host.run()
    assert errors_of(found) == [
        ("disk", f"0.01 GB and 5 % on top are to be downloaded, but `{host.cache}` has only 0.01 GB free"),
    ]
    assert hub.requests == [] and host.visible() == []
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_bavail=int(NEEDED * 1.051), f_frsize=1))
    assert host.run()[-1] == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 48 MiB."""
    if os.geteuid() != 0:
        pytest.skip("root mounts file systems")
    path = tmp_path / "small"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", path], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode()}")
    yield path
    subprocess.run(["umount", path], check=True)


def test_a_disk_that_fills_up_meanwhile_is_told_and_goes_on_once_there_is_room(
    hub: LocalHub, small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content: dict[str, bytes | Path] = {"weights.bin": os.urandom(40_000_000)}
    hub.store.add(REPO, content, gated=False, commit=None)
    host = Host(small_disk, hub, capsys)
    other = small_disk / "somebody's"
    hub.misbehave("stalled", after_bytes=10_000_000)
    files = host.files()
    process = host.start(host.request(files, stall_s=3))
    wait_for(lambda: [path for path in host.partials() if path.stat().st_size > 8_000_000])
    other.write_bytes(bytes(20_000_000))
    hub.order = None  # it stalls, and goes on
    _, err = process.communicate()
    assert process.returncode == 1 and err.count("error: the disk is full: ") == 1 and "hint: free space" in err, err
    assert host.visible() == [] and len(host.partials()) == 1
    other.unlink()
    written = host.partials()[0].stat().st_size
    found = host.run(files)
    finished(host, files, content)
    assert written > 10_000_000 and only(found, "done")["downloaded_bytes"] == 40_000_000 - written
    COST["disk full"] = (hub.sent_bytes, 40_000_000)


def test_a_file_that_another_user_owns_is_told(hub: LocalHub, host: Host) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root gives files away")
    hub.store.add(REPO, dict(CONTENT), gated=False, commit=None)
    files = host.files()
    left = host.cache / "models--owner--model/blobs" / f"{files[0].sha256}.gpuhost.incomplete"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"not ours")
    os.chown(left, 12345, 12345)
    ((kind, message),) = errors_of(host.run(files[:1]))
    assert kind == "filesystem" and f"`{left}` is not a plain file of our own" in message
    assert left.read_bytes() == b"not ours" and host.visible() == []
    left.unlink()
    assert host.run(files)[-1] == 0
    finished(host, files, CONTENT)


def test_a_model_of_another_account_becomes_one_of_our_own(hub: LocalHub, host: Host) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root gives files away")
    hub.store.add(REPO, dict(CONTENT), gated=False, commit=None)
    files = [replace(file, links=[f"a/{number}"]) for number, file in enumerate(host.files())]
    assert host.run(files)[-1] == 0
    for file in files:
        os.chown(host.pointer(file), 12345, 12345)
    asked = len(hub.requests)
    with host.pointer(files[0]).open("r+b") as theirs:  # held open by whoever had the file before
        assert host.run([replace(file, action="verify") for file in files])[-1] == 0
        theirs.write(b"changed afterwards")
    finished(host, files, CONTENT)
    for number, file in enumerate(files):
        found = host.pointer(file).stat()
        assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (0, 0o644)
        assert os.path.samestat(found, (host.models / f"a/{number}").stat())
    assert len(hub.requests) == asked and host.partials() == []


def test_wrong_bytes_of_another_account_are_set_aside(hub: LocalHub, host: Host) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root gives files away")
    hub.store.add(REPO, dict(CONTENT), gated=False, commit=None)
    file = next(each for each in host.files() if each.size)
    assert host.run([file])[-1] == 0
    host.pointer(file).write_bytes(bytes(file.size))
    os.chown(host.pointer(file), 12345, 12345)
    ((kind, message),) = errors_of(host.run([replace(file, action="verify")]))
    assert kind == "bytes" and "changed since it was fetched" in message
    assert host.visible() == [] and host.partials() == []


@pytest.mark.parametrize("mode", [0o600, 0o666, 0o755])
def test_the_mode_of_a_model_is_put_right(hub: LocalHub, host: Host, mode: int) -> None:
    hub.store.add(REPO, dict(CONTENT), gated=False, commit=None)
    files = host.files()
    assert host.run(files)[-1] == 0
    for file in files:
        host.pointer(file).chmod(mode)
    entries = [host.entry(file) for file in files]
    assert host.run([replace(file, action="link") for file in files])[-1] == 0
    assert {stat.S_IMODE(host.pointer(file).stat().st_mode) for file in files} == {0o644}
    assert [host.entry(file) for file in files] == entries  # nothing was hashed again


@pytest.mark.parametrize("kind", ["link", "hard link", "fifo", "folder"])
def test_no_planted_name_is_written_through(hub: LocalHub, host: Host, tmp_path: Path, kind: str) -> None:
    hub.store.add(REPO, dict(CONTENT), gated=False, commit=None)
    files = host.files()
    victim, planted = (
        tmp_path / "victim",
        host.cache / "models--owner--model/blobs" / f"{files[0].sha256}.gpuhost.incomplete",
    )
    victim.write_bytes(b"dear")
    planted.parent.mkdir(parents=True)
    plant: dict[str, Callable[[], Any]] = {
        "link": lambda: planted.symlink_to(victim),
        "hard link": lambda: planted.hardlink_to(victim),
        "fifo": lambda: os.mkfifo(planted),
        "folder": planted.mkdir,
    }
    plant[kind]()
    assert [kind for kind, _ in errors_of(host.run(files[:1]))] == ["filesystem"]
    assert victim.read_bytes() == b"dear" and host.visible() == []


# -- kills -------------------------------------------------------------------------------------------------------------

BIG = 96 * 2**20


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("big") / "big.safetensors"
    path.write_bytes(random.Random(SEED).randbytes(2**20) * 96)
    return path


def _got(process: subprocess.Popen[Any], left: Path, size: int) -> bool:
    """The download has ended, or has more than `size` bytes."""
    return process.poll() is not None or (left.exists() and left.stat().st_size > size)


def test_killed_at_ten_moments_it_loses_little_and_finishes(hub: LocalHub, host: Host, big: Path) -> None:
    """kill -9, ten times in one download: each costs no more than what was perhaps not on disk."""
    hub.store.add(REPO, {"big.safetensors": big, **CONTENT}, gated=False, commit=None)
    files = host.files(links={"big.safetensors": ["unet/big.safetensors"]})
    request = host.request(files)
    (blob,) = [file.sha256 for file in files if file.size == BIG]
    left = host.cache / "models--owner--model/blobs" / f"{blob}.gpuhost.incomplete"
    chance = random.Random(SEED)
    for kill in range(10):
        hub.misbehave("slow", slow_bytes_per_s=100 * 2**20)
        process = host.start(request)
        goal = chance.randint(0, BIG * 8 // 10)
        wait_for(functools.partial(_got, process, left, goal))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        sizes = {path.stat().st_size for path in host.visible()}
        assert sizes <= {len(CONTENT["config.json"]), SIZE}, kill
    hub.order = None
    done = only(host.run(files), "done")
    assert done["downloaded_bytes"] <= BIG + NEEDED
    assert big.read_bytes() == host.pointer(next(file for file in files if file.size == BIG)).read_bytes()
    assert not host.partials() and (host.models / "unet/big.safetensors").exists()
    lost = hub.sent_bytes - BIG - NEEDED
    assert lost <= 10 * (LOST_BYTES_MAX + SIZE + 2**23)  # and what was on its way
    COST["kill -9 at 10 moments"] = (hub.sent_bytes, BIG + NEEDED)


def test_what_was_perhaps_not_on_disk_is_asked_for_again(hub: LocalHub, host: Host, big: Path) -> None:
    """A loss of power: the file has its size, and zeros where its last bytes were."""
    hub.store.add(REPO, {"big.safetensors": big}, gated=False, commit=None)
    files = host.files()
    left = host.cache / "models--owner--model/blobs" / f"{files[0].sha256}.gpuhost.incomplete"
    left.parent.mkdir(parents=True)
    got = 70 * 2**20
    left.write_bytes(big.read_bytes()[: got - LOST_BYTES_MAX] + bytes(LOST_BYTES_MAX))
    left.chmod(partial.BEING_WRITTEN)
    done = only(host.run(files), "done")
    assert done["downloaded_bytes"] == BIG - got + LOST_BYTES_MAX
    assert host.pointer(files[0]).read_bytes() == big.read_bytes()
    COST["power cut at 70 MiB"] = (done["downloaded_bytes"] + got, BIG)


def test_no_more_is_ever_written_than_may_be_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk falls behind: writing waits for it."""
    asked: list[int] = []
    release = threading.Event()

    def slow_sync(descriptor: int) -> None:
        size = os.fstat(descriptor).st_size
        release.wait(20)
        asked.append(size)

    monkeypatch.setattr(partial.os, "fdatasync", slow_sync)
    size = 4 * partial.SYNC_BYTES
    file = ModelFile("m", REPO, "a" * 40, "f", size, "0" * 64, None, [], "fetch", False)
    path, written = tmp_path / "x", [0]
    with partial.Partial(path, file, lambda count: None) as writing:

        def write() -> None:
            for _ in range(size // 2**20):
                writing.write(bytes(2**20))
                written[0] += 2**20

        thread = threading.Thread(target=write)
        thread.start()
        wait_for(lambda: written[0] >= 2 * partial.SYNC_BYTES - 2**20)
        time.sleep(0.1)
        assert written[0] <= LOST_BYTES_MAX and path.stat().st_size <= LOST_BYTES_MAX
        release.set()
        thread.join()
        writing.finish()  # what is left is asked for by this
    assert len(asked) == 3 and asked[-1] >= 3 * partial.SYNC_BYTES


class Killed(BaseException):
    """The process is dead: it changes nothing any more."""


CHANGES = (
    "fchmod",
    "link",
    "mkdir",
    "open",
    "pwrite",
    "remove",
    "rename",
    "replace",
    "rmdir",
    "symlink",
    "unlink",
    "ftruncate",
    "write",
)


def die_at(monkeypatch: pytest.MonkeyPatch, number: int) -> list[int]:
    """From its `number`th change of the file system on, this process makes none. Returns the count of changes."""
    made = [0]

    def patched(real: Any) -> Any:
        def change(*given: Any, **named: Any) -> Any:
            if real is os_write and given[0] < 3:
                return real(*given, **named)
            if real is not os_open or given[1] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                made[0] += 1
                if made[0] > number:
                    raise Killed
            return real(*given, **named)

        return change

    os_open, os_write = os.open, os.write
    for name in CHANGES:
        monkeypatch.setattr(os, name, patched(getattr(os, name)))
    return made


def scenario(host: Host, name: str) -> str:
    """Something to do, and its action: a first fetch, a lost link, a damaged file, a lost manifest."""
    file = next(each for each in host.files(links=LINKS) if each.size == SMALL)
    if name != "fetch":
        host.run([file])
    if name == "link":
        (host.models / "vae/x.bin").unlink()
    elif name == "damaged":
        (host.models / "vae/x.bin").write_bytes(b"x" * SMALL)
    elif name == "touched":
        (host.models / "vae/x.bin").touch()
    return {"link": "link", "damaged": "verify", "touched": "verify"}.get(name, "fetch")


SMALL = 300_000
LINKS = {"split/w.safetensors": ["vae/x.bin"]}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the dead do not tidy up
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("name", ["fetch", "link", "damaged", "touched"])
def test_killed_at_any_change_and_run_again_it_finishes(
    hub: LocalHub, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    content = {"split/w.safetensors": os.urandom(SMALL)}
    hub.store.add(REPO, dict(content), gated=False, commit=None)
    counted = Host(tmp_path / "counted", hub, capsys)
    action = scenario(counted, name)
    with pytest.MonkeyPatch.context() as patch:
        made = die_at(patch, 10**6)
        counted.run(counted.files(links=LINKS, action=action))
        changes = made[0]
    assert changes >= 4
    died = 0
    for number in range(0, changes, max(1, changes // 12)):
        host = Host(tmp_path / f"killed-{number}", hub, capsys)
        scenario(host, name)
        with pytest.MonkeyPatch.context() as patch:
            die_at(patch, number)
            try:
                host.run(host.files(links=LINKS, action=action))
            except Killed:
                died += 1
        files = host.files(links=LINKS)
        assert host.run(files)[-1] == 0
        finished(host, files, content)
        # At most one file is left over, which the next write takes.
        assert {path.name for path in host.manifest.parent.iterdir()} <= {"models.json", ".models.json.new"}
    assert died >= 4  # bytes come in more or fewer pieces: the last moments may be none


# -- two at once -------------------------------------------------------------------------------------------------------


def test_two_at_once_download_once(hub: LocalHub, host: Host) -> None:
    hub.store.add(REPO, dict(CONTENT), gated=False, commit=None)
    request = host.request(host.files())
    host.cache.mkdir(parents=True)
    with alone(host.cache):  # until both wait
        both = [host.start(request), host.start(request)]
        for process in both:
            assert process.stderr is not None and process.stderr.readline().endswith("waiting for it\n")
    said = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert hub.sent_bytes == NEEDED
    finished(host, host.files(), CONTENT)
    COST["two deploys at once"] = (hub.sent_bytes, NEEDED)

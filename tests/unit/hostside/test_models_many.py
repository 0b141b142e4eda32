"""Many small files together: over libcurl while all goes well, each by itself from the first trouble on."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hostside import models
from hostside.models import batch, fetch, many
from hostside.models.batch import Batch
from hostside.models.store import Digest, Store
from hostside.protocol.models import ModelFile, ModelRef, ModelsRequest
from hostside.wire import to_json
from tests.rehearsal.standins.local import LocalHub
from tests.rehearsal.standins.misbehaviour import Order

from .connect_proxy import ConnectProxy
from .model_host import REPO, Host, errors_of, events, only, states_of
from .test_models import tls  # noqa: F401 - a fixture
from .test_models_faults import Killed, die_at

CHANCE = random.Random(7)
COUNT = 60
SOME: dict[str, bytes] = {
    **{f"folder {n % 7}/größe {n} (%&#?).bin": CHANCE.randbytes(CHANCE.randrange(1, 20_000)) for n in range(COUNT - 3)},
    "config.json": b'{"a": 1}',
    "a/b/c/config.json": b'{"a": 1}',  # the same bytes
    "the largest.bin": CHANCE.randbytes(fetch.SMALL_BYTES),
    "nothing.txt": b"",
}


@pytest.fixture
def some(hub: LocalHub) -> None:
    hub.store.add(REPO, dict(SOME), gated=False, commit=None)


@pytest.fixture
def by_itself(monkeypatch: pytest.MonkeyPatch) -> ByItself:
    """The files that are downloaded each by itself; `when_first`: called before the first."""
    found, real = ByItself(), fetch.Run._fetch

    def fetch_it(run: fetch.Run, files: list[ModelFile]) -> None:
        found.when_first()
        found.append(files[0].file)
        real(run, files)

    monkeypatch.setattr(fetch.Run, "_fetch", fetch_it)
    return found


class ByItself(list[str]):
    def when_first(self) -> None:
        pass


def right(host: Host, content: dict[str, bytes], files: list[ModelFile] | None = None) -> None:
    """All is there, as the hub's own client keeps it, and nothing else."""
    for file in files or host.files():
        pointer = host.pointer(file)
        assert pointer.read_bytes() == content[file.file] and pointer.is_symlink()
        assert not pointer.readlink().is_absolute() and pointer.resolve().parent.name == "blobs"
        assert pointer.stat().st_mode & 0o777 == 0o644
        entry = host.entry(file)
        assert (entry.sha256, entry.size) == (hashlib.sha256(content[file.file]).hexdigest(), len(content[file.file]))
        assert entry.inode == pointer.stat().st_ino and entry.checked_against == "hub"
    folder = f"models--{(files or host.files())[0].repo.replace('/', '--')}"
    blobs = list(host.cache.glob(f"{folder}/blobs/*"))
    assert len(blobs) == len(set(content.values())) and not host.partials()


# -- all goes well -----------------------------------------------------------------------------------------------------


def test_many_come_together_and_are_what_the_hubs_client_reads(
    hub: LocalHub, host: Host, some: None, by_itself: ByItself
) -> None:
    files = host.files(links={"the largest.bin": ["vae/x.bin"], "a/b/c/config.json": ["vae/c.json", "d.json"]})
    found = host.run(files, refs=[ModelRef(REPO, "main", files[0].commit)])
    assert found[-1] == 0 and states_of(found) == ["downloaded"] * len(SOME) and errors_of(found) == []
    assert by_itself == ["nothing.txt"]  # nobody is asked for it
    assert len(hub.requests) == len(set(SOME.values())) - 1 and not set(hub.tokens) - {None}
    needed = sum(map(len, set(SOME.values())))
    assert only(found, "done")["downloaded_bytes"] == only(found, "plan")["download_bytes"] == needed
    right(host, SOME)
    for file in files:
        assert all((host.models / link).samefile(host.pointer(file)) for link in file.links)
    program = "import sys; from huggingface_hub import snapshot_download; print(snapshot_download(sys.argv[1]))"
    environ = {**os.environ, "HF_HOME": str(host.cache.parent), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program, REPO], env=environ, capture_output=True, text=True, check=True
    )
    folder = Path(done.stdout.strip())
    assert {str(each.relative_to(folder)) for each in folder.rglob("*") if each.is_file()} == set(SOME)


def test_as_a_program_it_says_a_line_for_each(hub: LocalHub, host: Host, some: None) -> None:
    program = host.start(host.request(host.files()))
    out, err = program.communicate()
    found = [*map(json.loads, out.splitlines()), program.returncode]
    assert err == "" and found[-1] == 0 and found[-2]["event"] == "done"
    assert {event["file"] for event in events(found, "model")} == set(SOME)
    right(host, SOME)


def test_what_is_there_is_not_asked_for_again(hub: LocalHub, host: Host, some: None, by_itself: ByItself) -> None:
    files = host.files()
    there = [file for file in files if file.size][:20]
    assert host.run(there)[-1] == 0
    hub.requests.clear(), by_itself.clear()
    assert host.run(files)[-1] == 0
    asked = {SOME[file.file] for file in files if file not in there} - {SOME[file.file] for file in there}
    assert len(hub.requests) == len(asked - {b""}) and by_itself == ["nothing.txt"]
    right(host, SOME)


def test_few_files_and_those_of_neighbours_come_by_themselves(
    hub: LocalHub, host: Host, some: None, by_itself: ByItself
) -> None:
    files = [file for file in host.files() if file.size]
    few, rest = files[: fetch.MANY - 1], files[fetch.MANY - 1 :]
    assert host.run(few)[-1] == 0 and len(by_itself) == len({SOME[file.file] for file in few})
    by_itself.clear()
    assert host.run([replace(file, peers=[hub.url]) for file in rest])[-1] == 0
    assert len(by_itself) == len({SOME[file.file] for file in rest} - {SOME[file.file] for file in few})
    assert {path.read_bytes() for path in host.visible()} == set(SOME.values()) - {b""}


def test_over_more_connections_the_farther_away_the_hub_is() -> None:
    far, near, between = many._Pace(), many._Pace(), many._Pace()
    assert near.at_once == many.AT_ONCE_NEAR
    far.answered(0.05)
    assert far.at_once == many.AT_ONCE  # after one answer
    for _ in range(100):
        near.answered(near.at_once * 0.0002)  # as many as ask at once wait for each other
        between.answered(0.003)
    assert near.at_once == many.AT_ONCE_NEAR < between.at_once == 6 < many.AT_ONCE
    for _ in range(100):
        far.answered(0.0005)
    assert far.at_once == many.AT_ONCE_NEAR


def test_a_hub_that_is_far_away_is_asked_over_all_connections(
    hub: LocalHub, host: Host, some: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, now, most, answer = threading.Lock(), [0], [0], hub._answer

    def counted(handler: Any) -> None:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        try:
            answer(handler)
        finally:
            with lock:
                now[0] -= 1

    monkeypatch.setattr(hub, "_answer", counted)
    hub.away_s = 0.02
    assert host.run()[-1] == 0
    assert many.AT_ONCE / 2 < most[0] <= many.AT_ONCE


# -- something does not ------------------------------------------------------------------------------------------------

TROUBLES = {
    "wrong bytes": (Order("wrong-bytes"), ""),
    "truncated": (Order("truncated"), ""),
    "truncated to nothing": (Order("truncated", after_bytes=0), ""),
    "cut": (Order("cut"), ""),
    "cut before the first byte": (Order("cut", after_bytes=0), ""),
    "503": (Order("503"), ""),
    "429": (Order("429", retry_after="0"), ""),
    "500": (Order("500"), ""),
    "stalled": (Order("stalled"), ""),
    "a drip": (Order("slow", slow_bytes_per_s=10), ""),
    "down": (Order("down"), ""),
    "401": (Order("401"), "missing"),
    "403": (Order("403"), "licence"),
    "404": (Order("404"), "missing"),
    "410": (Order("410"), "network"),
}


@pytest.mark.parametrize("name", TROUBLES)
def test_at_the_first_trouble_the_rest_come_by_themselves(
    hub: LocalHub, host: Host, some: None, by_itself: ByItself, name: str
) -> None:
    """Some have come by then. A trouble that passes is told to nobody; the others are, by who meets them next."""
    order, _ = TROUBLES[name]
    hub.misbehave_first([*[None] * 20, order])
    if order.mode == "down":  # libcurl asks once more where a kept connection is gone
        hub.order = order
        by_itself.when_first = lambda: setattr(hub, "order", None)  # type: ignore[method-assign]
    found = host.run(stall_s=0.3)
    assert found[-1] == 0 and errors_of(found) == []
    stands_still = order.mode in ("stalled", "slow")  # the others come meanwhile
    assert (2 if stands_still else 20) <= len(by_itself) <= COUNT - 5
    right(host, SOME)


@pytest.mark.parametrize("name", [name for name, (_, kind) in TROUBLES.items() if kind])
def test_what_stays_is_told_once_and_nothing_wrong_is_shown(hub: LocalHub, host: Host, some: None, name: str) -> None:
    order, kind = TROUBLES[name]
    hub.misbehave_first([None] * 20)
    hub.order = order
    found = host.run()
    assert found[-1] == 1 and [each for each, _ in errors_of(found)] == [kind]
    shown = {path.read_bytes() for path in host.visible()}
    assert len(shown) >= 5 and shown <= set(SOME.values())
    hub.order = None
    assert host.run()[-1] == 0
    right(host, SOME)


def test_bytes_that_are_always_wrong_are_shown_nowhere(hub: LocalHub, host: Host, some: None) -> None:
    hub.misbehave("wrong-bytes")
    found = host.run()
    assert found[-1] == 1 and {kind for kind, _ in errors_of(found)} == {"bytes"}
    assert {path.read_bytes() for path in host.visible()} <= {b""}


def test_what_answers_in_the_place_of_the_hub_is_believed_nothing(
    hub: LocalHub, host: Host, some: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve = hub._hub.serve

    def portal(request: Any) -> Any:
        response = serve(request)
        response.headers.pop("X-Repo-Commit", None)
        return response

    monkeypatch.setattr(hub._hub, "serve", portal)
    ((kind, message), *_) = errors_of(host.run())
    assert kind == "network" and "is not a hub" in message and host.visible() == []


def test_no_more_is_taken_than_a_file_has(hub: LocalHub, host: Host, some: None, by_itself: ByItself) -> None:
    files = [replace(file, size=file.size - 1) if file.file == "the largest.bin" else file for file in host.files()]
    found = host.run(files)
    assert [kind for kind, _ in errors_of(found)] == ["bytes"] and "the largest.bin" in by_itself
    assert SOME["the largest.bin"] not in {path.read_bytes() for path in host.visible()}


def test_a_body_without_an_end_is_not_gathered(
    hub: LocalHub, host: Host, some: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve = hub._hub.serve

    def endless(request: Any) -> Any:
        response = serve(request)
        response.body, response.length = (bytes(2**20) for _ in range(200)), 200 * 2**20
        return response

    monkeypatch.setattr(hub._hub, "serve", endless)
    files = [file for file in host.files() if file.size]
    assert list(many.contents(files, fetch.Run(host.request(files))._downloads, lambda: False)) == []
    assert hub.sent_bytes < 20 * 2**20


def test_what_ends_the_others_ends_this(hub: LocalHub, host: Host, some: None) -> None:
    files = [file for file in host.files() if file.size]
    downloads = fetch.Run(host.request(files))._downloads
    came = []
    for each in many.contents(files, downloads, lambda: False):
        came.append(each)
        downloads.stop.set()
    assert 1 <= len(came) <= 2 * many.AT_ONCE < len(files)


@pytest.mark.parametrize("trouble", ["libcurl fails", "no libcurl", "a name that is no ASCII"])
def test_without_libcurl_each_comes_by_itself(
    hub: LocalHub, host: Host, some: None, by_itself: ByItself, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    if trouble == "libcurl fails":

        def fail(*_: Any) -> Any:
            raise many.pycurl.error(1, "no")

        monkeypatch.setattr(many, "_wait", fail)
    elif trouble == "no libcurl":
        monkeypatch.delattr(models, "many")
        monkeypatch.setitem(sys.modules, "hostside.models.many", None)
    else:
        monkeypatch.setattr(many, "url_of", lambda file, source: "http://hüb")
    assert host.run()[-1] == 0 and len(by_itself) > many.AT_ONCE
    right(host, SOME)


def test_what_an_earlier_run_left_of_a_file_is_gone(hub: LocalHub, host: Host, some: None, by_itself: ByItself) -> None:
    file = next(file for file in host.files() if file.size > 1000)
    left = host.cache / "models--owner--model/blobs" / f"{file.sha256}.gpuhost.incomplete"
    left.parent.mkdir(parents=True)
    left.write_bytes(SOME[file.file][:500])
    left.chmod(0o644)  # all of it is there for certain
    found = host.run()
    assert found[-1] == 0 and sorted(by_itself) == sorted([file.file, "nothing.txt"])
    needed = sum(map(len, set(SOME.values()))) - 500
    assert only(found, "plan")["download_bytes"] == only(found, "done")["downloaded_bytes"] == needed
    right(host, SOME)


def test_connections_are_kept_where_the_hub_sends_one_on(
    hub: LocalHub, tmp_path: Path, host: Host, some: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalHub(tmp_path / "hub-data")
    opened: list[Any] = []
    for server in (hub._server, store._server):
        real = server.process_request
        monkeypatch.setattr(server, "process_request", lambda *given, real=real: (opened.append(given), real(*given)))
    hub.elsewhere, hub.away_s = store.url, 0.01
    assert host.run()[-1] == 0 and len(store.requests) == len(set(SOME.values())) - 1
    store.close()
    assert len(opened) <= 2 * many.AT_ONCE
    right(host, SOME)


def test_redirects_without_an_end_are_told(hub: LocalHub, host: Host, some: None) -> None:
    hub.elsewhere = hub.url
    assert {kind for kind, _ in errors_of(host.run())} == {"network"} and host.visible() == []


# -- whom it asks, and who may read it ---------------------------------------------------------------------------------


def test_the_token_goes_to_the_hub_alone(tls: LocalHub, hub: LocalHub, tmp_path: Path) -> None:  # noqa: F811
    tls.store.grant("hf_good", ["owner/gated"])
    tls.store.add("owner/gated", dict(SOME), gated=True, commit=None)
    tls.store.add("owner/open", dict(SOME), gated=False, commit=None)
    hub.store.add("owner/gated", dict(SOME), gated=False, commit=None)  # where the bytes are kept
    host = Host(tmp_path / "host", tls)
    tls.elsewhere = hub.url
    out, err = host.start(host.request(host.files("owner/gated"), token="hf_good")).communicate()
    asked = len(set(SOME.values())) - 1
    assert '"event": "done"' in out and err == "", err
    assert tls.tokens == ["Bearer hf_good"] * asked and hub.tokens == [None] * asked
    tls.elsewhere = ""
    assert host.start(host.request(host.files("owner/open"), token="hf_good")).wait() == 0
    assert tls.tokens[asked:] == [None] * asked
    right(host, SOME, host.files("owner/gated"))


def test_the_token_is_not_sent_where_others_can_read_it(hub: LocalHub, host: Host) -> None:
    hub.store.grant("hf_good", ["owner/gated"])
    hub.store.add("owner/gated", dict(SOME), gated=True, commit=None)
    ((kind, message),) = errors_of(host.run(host.files("owner/gated"), token="hf_good"))
    assert kind == "token" and "others could read it" in message and hub.requests == []


def test_a_certificate_that_nobody_signed_is_told(tls: LocalHub, tmp_path: Path) -> None:  # noqa: F811
    tls.store.add("owner/open", dict(SOME), gated=False, commit=None)
    host = Host(tmp_path / "host", tls)
    request = host.request(host.files("owner/open"))
    _, err = host.start(request, SSL_CERT_FILE="/etc/ssl/certs/ca-certificates.crt").communicate()
    assert "is not trusted" in err and tls.requests == [] and host.visible() == []


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_whom_the_environment_trusts_is_trusted(
    tls: LocalHub,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    """And in this process: nothing of it is left to the other way."""
    certificate = Path(os.environ["SSL_CERT_FILE"])
    folder = tmp_path / "trusted"
    folder.mkdir()
    (folder / "hub.pem").write_bytes(certificate.read_bytes())
    subprocess.run(["openssl", "rehash", folder], check=True)
    trusted = {"SSL_CERT_FILE": str(certificate), "SSL_CERT_DIR": str(folder)}
    for each in trusted:
        monkeypatch.delenv(each, raising=False)
    monkeypatch.setenv(name, trusted[name])
    monkeypatch.setattr(many.constants, "ENDPOINT", tls.url)
    tls.store.add("owner/open", dict(SOME), gated=False, commit=None)
    host = Host(tmp_path / "host", tls)
    files = [file for file in host.files("owner/open") if file.size]
    run = fetch.Run(host.request(files))
    came = list(many.contents(files, run._downloads, lambda: False))
    assert {(file.file, content) for file, content, _ in came} == {(file.file, SOME[file.file]) for file in files}


@pytest.mark.parametrize("name", ["http_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"])
def test_behind_a_proxy_each_comes_by_itself(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for each in [each for each in os.environ if each.lower().endswith("_proxy")]:
        monkeypatch.delenv(each)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert many.is_possible()
    monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert not many.is_possible()
    monkeypatch.setenv(name, "")
    assert many.is_possible()
    monkeypatch.setattr(many.constants, "is_offline_mode", lambda: True)
    assert not many.is_possible()


def test_a_proxy_is_asked_for_all(tls: LocalHub, tmp_path: Path) -> None:  # noqa: F811
    tls.store.add("owner/open", dict(SOME), gated=False, commit=None)
    host, proxy = Host(tmp_path / "host", tls), ConnectProxy()
    environ = {"https_proxy": f"http://127.0.0.1:{proxy.port}", "no_proxy": "", "NO_PROXY": ""}
    out, err = host.start(host.request(host.files("owner/open")), **environ).communicate()
    proxy.close()
    assert '"event": "done"' in out and err == "" and set(proxy.asked) == {tls.url.removeprefix("https://")}
    right(host, SOME, host.files("owner/open"))


@pytest.mark.parametrize("token", ["hf_good\r", "hf_good\r\nX-Other: 1", "hf_gööd"])
def test_a_token_that_no_header_carries_is_refused_and_not_told(token: str) -> None:
    request = ModelsRequest([], [], "/c", "/m", "/f", 1)
    assert fetch.parse(to_json(replace(request, token="hf_good", peer_secret="of-the-run")))
    for wrong in (replace(request, token=token), replace(request, peer_secret=token)):
        with pytest.raises(fetch.RequestError) as caught:
            fetch.parse(to_json(wrong))
        assert "hf_" not in str(caught.value)


# -- the disk ----------------------------------------------------------------------------------------------------------


def a_file(content: bytes) -> ModelFile:
    known = hashlib.sha256(content).hexdigest()
    return ModelFile("model", REPO, "a" * 40, known[:8], len(content), known, None, [], "fetch", False)


def digest_of(file: ModelFile) -> Digest:
    return Digest(file.sha256 or "", None)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture
def disk(tmp_path: Path) -> Store:
    found = Store(tmp_path / "hub", tmp_path / "models")
    found.prepare()
    return found


def test_nothing_has_a_name_before_the_disk_has_it(disk: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written when the disk was asked, and no more, is shown once it has answered."""
    said: list[str] = []
    written: list[ModelFile] = []
    sure: set[str] = set()

    def sync(folder: int) -> None:
        assert not list(disk.cache_dir.glob("models--*/blobs/*")) or sure
        sure.update(file.file for file in written)

    def land(files: Any, read: Digest) -> None:
        assert files[0].file in sure and disk.blob(files[0]).read_bytes() == contents[files[0].file]
        said.append(files[0].file)

    contents = {}
    monkeypatch.setattr(batch, "_sync", sync)
    monkeypatch.setattr(batch, "TOGETHER", 10)
    before = descriptors()
    with Batch(disk, land) as together:
        for number in range(95):
            content = b"%d" % number
            file = a_file(content)
            contents[file.file] = content
            together.add([file], content, digest_of(file))
            written.append(file)
            if not number % 3:
                together.work()
        while not said:  # by the test's time limit
            together.work()
        assert len(said) < 95 and descriptors() > before
    assert sorted(said) == sorted(contents) and descriptors() == before


def test_no_more_wait_than_may_be_open(disk: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the disk is."""
    waiting = threading.Event()
    monkeypatch.setattr(batch, "_sync", lambda folder: waiting.wait(0.05))
    monkeypatch.setattr(batch, "TOGETHER", 5)
    monkeypatch.setattr(batch, "WAITING_FILES", 20)
    before, most = descriptors(), 0
    with Batch(disk, lambda files, read: None) as together:
        for number in range(200):
            file = a_file(b"%d" % number)
            together.add([file], b"%d" % number, digest_of(file))
            most = max(most, descriptors() - before)
    assert 20 <= most <= 3 * 20 and descriptors() == before


@pytest.mark.parametrize("where", ["sync", "write", "link"])
def test_what_the_disk_refuses_is_not_shown(disk: Store, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    files = [a_file(b"%d" % number) for number in range(30)]
    said: list[str] = []

    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError(errno.EIO, "the disk is broken")

    broken: dict[str, tuple[Any, str]] = {"sync": (batch, "_sync"), "write": (os, "write"), "link": (os, "link")}
    before = descriptors()
    with (
        pytest.raises(OSError, match="broken"),
        Batch(disk, lambda files, read: said.append(files[0].file)) as together,
    ):
        for number, file in enumerate(files):
            if number == 20:
                monkeypatch.setattr(*broken[where], refuse)
            together.add([file], b"%d" % number, digest_of(file))
    assert len(said) == {"sync": 0, "write": 20, "link": 0}[where]  # what was written before is shown
    assert len(list(disk.cache_dir.glob("models--*/blobs/*"))) == len(said) and descriptors() == before


def test_after_the_disk_said_no_it_is_not_asked_again(disk: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written meanwhile may be what it meant."""
    asked: list[int] = []

    def refuse(folder: int) -> None:
        asked.append(folder)
        raise MemoryError  # whatever it is

    monkeypatch.setattr(batch, "_sync", refuse)
    monkeypatch.setattr(batch, "TOGETHER", 10)
    before, said = descriptors(), list[str]()
    with pytest.raises(OSError), Batch(disk, lambda each, _: said.append(each[0].file)) as together:
        for number in range(15):
            together.add([a_file(b"%d" % number)], b"%d" % number, digest_of(a_file(b"%d" % number)))
    assert len(asked) == 1 and said == [] and descriptors() == before


def test_where_one_cannot_be_shown_the_others_are(disk: Store) -> None:
    files = [a_file(b"%d" % number) for number in range(30)]
    disk.blob(files[7]).parent.mkdir(parents=True)
    disk.blob(files[7]).symlink_to("nowhere")
    said: list[str] = []
    with pytest.raises(FileExistsError), Batch(disk, lambda each, _: said.append(each[0].file)) as together:
        for number, file in enumerate(files):
            together.add([file], b"%d" % number, digest_of(file))
    assert said == [file.file for file in files if file != files[7]]


@pytest.mark.parametrize("what", ["bytes", "seconds"])
def test_the_disk_is_asked_for_much_or_after_a_while(disk: Store, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """However few files they are: what is not asked for is lost in a kill."""
    name = {"bytes": "WAITING_BYTES", "seconds": "TOGETHER_S"}[what]
    monkeypatch.setattr(batch, name, 0)
    said: list[str] = []
    with Batch(disk, lambda each, _: said.append(each[0].file)) as together:
        together.add([a_file(b"1")], b"1", digest_of(a_file(b"1")))
        while not said:  # by the test's time limit
            together.work()


def test_a_write_that_takes_a_part_goes_on(disk: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    real, content = os.write, os.urandom(100)
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:7]))
    with Batch(disk, lambda each, _: None) as together:
        together.add([a_file(content)], content, digest_of(a_file(content)))
    assert disk.blob(a_file(content)).read_bytes() == content


def test_the_file_system_of_the_folder_is_what_is_asked_for(disk: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """By syncfs(2), whose error is the batch's."""
    asked: list[Path] = []

    class Libc:
        def syncfs(self, descriptor: int) -> int:
            asked.append(Path(f"/proc/self/fd/{descriptor}").readlink())
            return -1

    batch._sync(os.open(disk.cache_dir, os.O_RDONLY))
    monkeypatch.setattr(batch.ctypes, "CDLL", lambda name, use_errno: Libc())
    monkeypatch.setattr(batch.ctypes, "get_errno", lambda: errno.EIO)
    with pytest.raises(OSError, match="Input/output"), Batch(disk, lambda each, _: None) as together:
        together.add([a_file(b"1")], b"1", digest_of(a_file(b"1")))
    assert asked == [disk.cache_dir]


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EISDIR, errno.ENOSPC])
def test_a_file_system_that_cannot_do_it_gets_each_by_itself(
    hub: LocalHub, host: Host, some: None, by_itself: ByItself, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """One that knows no file without a name; one that is full for a moment."""
    real = os.open

    def refuse(path: Any, flags: int, *rest: Any, **named: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(number, os.strerror(number))
        return real(path, flags, *rest, **named)

    monkeypatch.setattr(os, "open", refuse)
    assert host.run()[-1] == 0 and len(by_itself) == len(set(SOME.values()))
    right(host, SOME)


@pytest.mark.parametrize("kind", ["link", "folder"])
def test_no_planted_name_is_written_through(hub: LocalHub, host: Host, some: None, tmp_path: Path, kind: str) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"dear")
    file = next(file for file in host.files() if file.file.startswith("folder"))
    planted = host.cache / "models--owner--model/blobs" / (file.sha256 or "")
    planted.parent.mkdir(parents=True)
    if kind == "link":
        planted.symlink_to(tmp_path / "nothing" / "there")
    else:
        planted.mkdir()
    host.run()
    assert victim.read_bytes() == b"dear" and not (tmp_path / "nothing").exists()
    assert {path.read_bytes() for path in host.visible()} <= set(SOME.values())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the dead do not tidy up
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_killed_at_any_change_and_run_again_it_finishes(
    hub: LocalHub, tmp_path: Path, some: None, capsys: pytest.CaptureFixture[str]
) -> None:
    counted = Host(tmp_path / "counted", hub, capsys)
    with pytest.MonkeyPatch.context() as patch:
        made = die_at(patch, 10**6)
        counted.run()
        changes = made[0]
    assert changes > 4 * (COUNT - 2)
    for number in [*range(0, changes, changes // 12), changes - 1]:
        host = Host(tmp_path / f"killed-{number}", hub, capsys)
        with pytest.MonkeyPatch.context() as patch:
            die_at(patch, number)
            with pytest.raises(Killed):
                host.run()
        assert {path.read_bytes() for path in host.visible()} <= set(SOME.values())
        assert host.run()[-1] == 0
        right(host, SOME)

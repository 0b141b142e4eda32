"""The fetch program: what it makes of a request, and what it leaves alone."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
import pytest
import urllib3
from huggingface_hub import errors, hf_hub_url
from huggingface_hub.file_download import repo_folder_name

from hostside import hub_cache
from hostside.models import content, download, fetch, hub_errors, manifest, meter, partial, store
from hostside.protocol.models import ModelFile, ModelRef, ModelsRequest
from hostside.wire import to_json
from tests.rehearsal.standins.local import LocalHub

from .connect_proxy import ConnectProxy
from .model_host import REPO, Host, errors_of, events, only, states_of

BYTES = os.urandom(300_000)
SHA256 = hashlib.sha256(BYTES).hexdigest()
VAE, CONFIG = "split/vae.safetensors", "config.json"
# A whole repository: nested folders, names that a shell or a URL would take apart, files without a byte.
MANY = {
    "README.md": b"words",
    "config.json": b'{"a": 1}',
    "empty.txt": b"",
    "empty.safetensors": b"",
    "model-00001-of-00002.safetensors": os.urandom(70_000),
    "model-00002-of-00002.safetensors": os.urandom(50_001),
    "text encoder/config.json": b'{"a": 1}',
    "text encoder/weights (1).safetensors": os.urandom(1000),
    "unet/deep/er/diffusion.bin": os.urandom(999),
    "vae/größe ü — 模型.safetensors": os.urandom(2000),
    "vae/100%+&=#?'\"$(id).json": b"{}",
    "tokenizer/merges.txt": b"a b\n" * 1000,
}


@pytest.fixture
def model(hub: LocalHub) -> dict[str, bytes]:
    files = {VAE: BYTES, CONFIG: b'{"a": 1}'}
    hub.store.add(REPO, dict(files), gated=False, commit=None)
    return files


def vae(host: Host, **over: Any) -> ModelFile:
    return replace(next(each for each in host.files(links={VAE: ["vae/vae.safetensors"]}) if each.file == VAE), **over)


def linked(host: Host) -> Path:
    return host.models / "vae/vae.safetensors"


def test_fetches_checks_links_writes_down(hub: LocalHub, host: Host, model: Any) -> None:
    found = host.run([vae(host)])
    assert found[-1] == 0 and states_of(found) == ["downloaded"]
    assert only(found, "plan") | {"free_bytes": 0} == {
        **{"event": "plan", "files": 1, "download_bytes": 300_000, "free_bytes": 0},
    }
    assert only(found, "done") == {
        **{"event": "done", "files": 1, "downloaded_bytes": 300_000, "needed_bytes": 300_000, "peer_bytes": 0},
    }
    assert only(found, "model")["checked_against"] == "hub"
    entry, pointer = host.entry(vae(host)), host.pointer(vae(host))
    assert entry.path == str(pointer) and pointer.is_symlink() and not pointer.readlink().is_absolute()
    assert linked(host).read_bytes() == BYTES and not linked(host).is_symlink()
    assert linked(host).stat().st_ino == pointer.stat().st_ino == entry.inode
    assert (entry.sha256, entry.size, entry.links) == (SHA256, 300_000, ["vae/vae.safetensors"])
    assert entry.checked_against == "hub" and entry.verified_ns > pointer.stat().st_mtime_ns
    assert not host.partials() and hub.requests == [f"GET /owner/model/resolve/{entry.commit}/{VAE}"]
    assert hub.tokens == [None]


def test_a_repository_is_one_that_huggingface_hub_reads_offline(hub: LocalHub, host: Host) -> None:
    """12 files in nested folders, in a process of its own that can reach nobody."""
    hub.store.add(REPO, dict(MANY), gated=False, commit=None)
    files = host.files()
    commit = files[0].commit
    found = host.run(files, refs=[ModelRef(REPO, "main", commit), ModelRef(REPO, "refs/pr/1", commit)])
    assert found[-1] == 0 and states_of(found) == ["downloaded"] * 12
    # No byte is asked for twice (`{"a": 1}` is two files), and none for an empty file.
    assert only(found, "done")["downloaded_bytes"] == sum(map(len, MANY.values())) - len(MANY["config.json"])
    assert len(hub.requests) == len(set(MANY.values())) - 1
    for file in files:
        assert host.pointer(file).read_bytes() == MANY[file.file], file.file
    program = """if True:
        import json, sys
        from pathlib import Path
        from huggingface_hub import hf_hub_download, scan_cache_dir, snapshot_download, try_to_load_from_cache
        folder = Path(snapshot_download(sys.argv[1]))
        scan = scan_cache_dir()
        assert not scan.warnings, scan.warnings
        (repo,) = scan.repos
        assert {ref for ref in repo.refs} >= {"main"}
        found = {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
        assert Path(hf_hub_download(sys.argv[1], "config.json")).read_bytes() == b'{"a": 1}'
        assert try_to_load_from_cache(sys.argv[1], "unet/deep/er/diffusion.bin")
        print(json.dumps(found))
    """
    environ = {
        **os.environ,
        "HF_HOME": str(host.cache.parent),
        "HF_HUB_OFFLINE": "1",
        "HF_ENDPOINT": "http://127.0.0.1:9",
    }
    done = subprocess.run(
        [sys.executable, "-c", program, REPO], env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {name: len(content) for name, content in MANY.items()}


def test_the_next_run_hashes_and_asks_nothing(
    hub: LocalHub, host: Host, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.run([vae(host)])
    hub.requests.clear()
    monkeypatch.setattr(fetch, "digest", None)
    assert states_of(host.run([vae(host)])) == ["linked"]
    linked(host).unlink()
    assert states_of(host.run([vae(host, action="link")])) == ["linked"] and linked(host).read_bytes() == BYTES
    both = ["vae/vae.safetensors", "other/deep/v a e.bin"]
    assert states_of(host.run([vae(host, action="link", links=both)])) == ["linked"]
    assert (host.models / both[1]).samefile(linked(host)) and host.entry(vae(host)).links == both
    assert hub.requests == []


def test_a_file_that_a_link_copies_up_is_the_one_that_is_recorded(
    hub: LocalHub, host: Host, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As overlayfs does with a file of a lower layer: the same file, another inode."""
    link = os.link

    def copied_up(source: Path, target: Path) -> None:
        copy = source.with_name("copy")
        shutil.copy2(source, copy)
        copy.replace(source)
        link(source, target)

    host.run([vae(host)])
    linked(host).unlink()
    before = host.entry(vae(host))
    monkeypatch.setattr(os, "link", copied_up)
    assert states_of(host.run([vae(host, action="link")])) == ["linked"]
    after, there = host.entry(vae(host)), host.pointer(vae(host)).stat()
    assert after.inode == there.st_ino != before.inode and after.mtime_ns == there.st_mtime_ns
    assert (host.models / vae(host).links[0]).samefile(host.pointer(vae(host)))


def test_a_lost_manifest_costs_a_hash_and_no_download(hub: LocalHub, host: Host, model: Any) -> None:
    host.run([vae(host)])
    hub.requests.clear()
    for text in (None, "half a manif"):
        host.manifest.write_text(text) if text else host.manifest.unlink()
        assert states_of(host.run([vae(host)])) == ["verified"]
        assert host.entry(vae(host)).sha256 == SHA256
    host.pointer(vae(host)).unlink()
    host.manifest.unlink()
    assert states_of(host.run([vae(host)])) == ["verified"]  # its bytes are there under their own name
    linked(host).touch()
    assert states_of(host.run([vae(host, action="verify", known_from="lock")])) == ["verified"]
    assert host.entry(vae(host)).checked_against == "lock" and hub.requests == []


def test_what_nobody_knows_a_hash_of_is_only_read(host: Host, model: Any) -> None:
    host.run([vae(host)])
    found = host.run([vae(host, action="verify", sha256=None, git_sha1=None)])
    assert only(found, "model")["checked_against"] == host.entry(vae(host)).checked_against == "none"


@pytest.mark.parametrize("how", ["linked", "unlinked", "longer"])
def test_a_damaged_file_is_set_aside_and_fetched_by_the_next_run(
    hub: LocalHub, host: Host, model: Any, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.run([vae(host)])
    hub.requests.clear()
    blob = host.pointer(vae(host)).resolve()
    if how == "unlinked":
        linked(host).unlink()
    if how == "longer":  # 2 TB that cost nothing: it is not even read
        os.truncate(blob, 2 * 10**12)
        monkeypatch.setattr(fetch, "digest", None)
    else:
        blob.write_bytes(b"x" * 300_000)
    found = host.run([vae(host, action="verify")])
    ((kind, message),) = errors_of(found)
    assert (kind, found[-1]) == ("bytes", 1) and "changed since it was fetched" in message
    assert only(found, "error")["hint"] == "run again: it is then fetched"
    moved = Path(only(found, "moved_aside")["moved_to"])
    assert moved.exists() and not host.pointer(vae(host)).exists() and not linked(host).exists()
    assert hub.requests == []  # nothing was fetched that the plan had not named
    if how == "longer":
        monkeypatch.setattr(fetch, "digest", store.digest)
        moved.unlink()
    assert states_of(host.run([vae(host)])) == ["downloaded"] and linked(host).read_bytes() == BYTES


def test_a_damaged_file_that_is_to_be_fetched_is_set_aside_first(hub: LocalHub, host: Host, model: Any) -> None:
    host.run([vae(host)])
    linked(host).write_bytes(b"y" * 300_000)
    found = host.run([vae(host)])
    assert found[-1] == 0 and linked(host).read_bytes() == BYTES
    assert Path(only(found, "moved_aside")["moved_to"]).read_bytes() == b"y" * 300_000


def test_what_changed_since_the_plan_is_left_alone(hub: LocalHub, host: Host, model: Any) -> None:
    host.run([vae(host)])
    linked(host).unlink()
    host.pointer(vae(host)).resolve().write_bytes(b"damaged")
    hub.requests.clear()
    ((kind, message),) = errors_of(host.run([vae(host, action="link")]))
    assert kind == "missing" and message.endswith("as it was when the plan was made") and not linked(host).exists()
    host.pointer(vae(host)).unlink()
    assert errors_of(host.run([vae(host, action="verify")]))[0][0] == "missing" and hub.requests == []


def test_every_failure_is_told_and_nothing_is_downloaded(hub: LocalHub, host: Host, model: Any) -> None:
    host.run([vae(host)])
    linked(host).write_bytes(b"x" * 300_000)
    hub.requests.clear()
    config = next(each for each in host.files() if each.file == CONFIG)
    gone = replace(config, action="verify")
    found = host.run([vae(host, action="verify"), gone, config])
    assert sorted(kind for kind, _ in errors_of(found)) == ["bytes", "missing"] and found[-1] == 1
    assert hub.requests == []


def test_a_wrong_pin_costs_neither_a_byte_nor_the_file(hub: LocalHub, host: Host, model: Any) -> None:
    host.run([vae(host)])
    for action in ("fetch", "verify"):
        host.manifest.unlink()
        ((kind, message),) = errors_of(host.run([vae(host, sha256="0" * 64, action=action)]))
        assert kind == "bytes" and "000000000000..." in message
        assert linked(host).read_bytes() == BYTES and host.pointer(vae(host)).exists()
        assert not host.partials() and len(hub.requests) == 1 + (action == "fetch")
        host.run([vae(host)])
        hub.requests[:] = ["the first"]


@pytest.mark.parametrize(("field", "value"), [("size", 299_999), ("size", 400_000), ("git_sha1", "0" * 40)])
def test_a_plan_that_the_hub_contradicts_costs_no_byte(
    hub: LocalHub, host: Host, model: Any, field: str, value: Any
) -> None:
    name = VAE if field == "size" else CONFIG
    file = replace(next(each for each in host.files() if each.file == name), **{field: value})
    ((kind, message),) = errors_of(host.run([file]))
    assert kind == "bytes" and "the hub has" in message and host.visible() == []


def test_a_foreign_file_is_moved_aside_an_own_older_one_is_replaced(hub: LocalHub, host: Host, model: Any) -> None:
    linked(host).parent.mkdir(parents=True)
    linked(host).write_bytes(b"somebody's own finetune")
    moved = only(host.run([vae(host)]), "moved_aside")
    assert Path(moved["moved_to"]).read_bytes() == b"somebody's own finetune"
    hub.store.add(REPO, {VAE: b"newer"}, gated=False, commit=None)
    found = host.run([vae(host)])
    assert linked(host).read_bytes() == b"newer" and not events(found, "moved_aside")
    assert len(list(linked(host).parent.iterdir())) == 2
    linked(host).unlink()
    linked(host).symlink_to("/etc/passwd")
    assert host.run([vae(host, action="link")])[-1] == 0 and linked(host).read_bytes() == b"newer"


def test_what_a_removed_model_left_half_is_removed(hub: LocalHub, host: Host, model: Any) -> None:
    blobs = host.cache / "models--owner--other" / "blobs"
    blobs.mkdir(parents=True)
    own, foreign = blobs / f"{SHA256}.gpuhost.incomplete", blobs / f"{SHA256}.0a1b2c3d.incomplete"
    own.write_bytes(b"half")
    foreign.write_bytes(b"half")  # another program's, which may be at work
    host.run([vae(host)])
    assert not own.exists() and foreign.exists()


# -- the token ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A hub behind TLS, trusted by the programs that this test starts."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        shlex.split(
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=127.0.0.1"
            f" -addext subjectAltName=IP:127.0.0.1 -keyout {key} -out {certificate}"
        ),
        capture_output=True,
        check=True,
    )
    server = LocalHub(tmp_path / "tls-data", (certificate, key))
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    yield server
    server.close()


def test_the_token_goes_to_the_hub_for_gated_files_over_tls_alone(tls: LocalHub, hub: LocalHub, tmp_path: Path) -> None:
    tls.store.grant("hf_good", ["owner/gated"])
    tls.store.add("owner/gated", {VAE: BYTES}, gated=True, commit=None)
    tls.store.add("owner/open", {VAE: BYTES[::-1]}, gated=False, commit=None)
    hub.store.add("owner/gated", {VAE: BYTES}, gated=False, commit=None)  # where the bytes are kept
    host = Host(tmp_path / "host", tls)
    tls.elsewhere = hub.url
    out, err = host.start(host.request(host.files("owner/gated"), token="hf_good")).communicate()
    assert '"downloaded_bytes": 300000' in out, err
    assert tls.tokens == ["Bearer hf_good"] and hub.tokens == [None]
    tls.elsewhere = ""
    assert host.start(host.request(host.files("owner/open"), token="hf_good")).wait() == 0
    assert tls.tokens[1:] == [None]
    left = [path for path in host.root.rglob("*") if path.is_file()]
    assert left and not [path for path in left if b"hf_good" in path.read_bytes()]


def test_the_token_is_not_sent_where_others_can_read_it(hub: LocalHub, host: Host) -> None:
    hub.store.grant("hf_good", ["owner/gated"])
    hub.store.add("owner/gated", {VAE: BYTES}, gated=True, commit=None)
    ((kind, message),) = errors_of(host.run(host.files("owner/gated"), token="hf_good"))
    assert kind == "token" and "others could read it" in message and hub.requests == []


def test_a_certificate_that_nobody_signed_is_told(tls: LocalHub, tmp_path: Path) -> None:
    tls.store.add("owner/open", {VAE: BYTES}, gated=False, commit=None)
    host = Host(tmp_path / "host", tls)
    _, err = host.start(
        host.request(host.files("owner/open")), SSL_CERT_FILE="/etc/ssl/certs/ca-certificates.crt"
    ).communicate()
    assert "is not trusted" in err and tls.requests == []


# -- proxies and redirects ---------------------------------------------------------------------------------------------


def test_a_proxy_is_asked_where_the_environment_names_one(hub: LocalHub, host: Host, model: Any) -> None:
    request = host.request(host.files())
    _, err = host.start(request, HF_ENDPOINT="http://hub.invalid", HTTP_PROXY="", http_proxy=hub.url).communicate()
    assert host.visible() and err == "" and len(hub.requests) == len(model)


def test_no_proxy_is_asked_where_the_environment_excepts_the_hub(hub: LocalHub, host: Host, model: Any) -> None:
    process = host.start(host.request(host.files()), http_proxy="http://127.0.0.1:1", no_proxy="127.0.0.1")
    _, err = process.communicate()
    assert host.visible() and err == "" and len(hub.requests) == len(model)


@pytest.mark.parametrize("account", ["", "ann:simple", "ann:with a space, @ and %"])
def test_a_proxy_tunnels_to_the_hub_and_reads_nothing(tls: LocalHub, tmp_path: Path, account: str) -> None:
    """By CONNECT, with the account that its address names."""
    tls.store.grant("hf_good", ["owner/gated"])
    tls.store.add("owner/gated", {VAE: BYTES, "config.json": b"{}"}, gated=True, commit=None)
    host, proxy = Host(tmp_path / "host", tls), ConnectProxy(account)
    name, _, password = account.partition(":")
    before = f"{name}:{quote(password, safe='')}@" if account else ""
    request = host.request(host.files("owner/gated"), token="hf_good")
    out, err = host.start(
        request, https_proxy=f"http://{before}127.0.0.1:{proxy.port}", no_proxy="", NO_PROXY=""
    ).communicate()
    proxy.close()
    assert '"event": "done"' in out and err == "", (out, err)
    assert set(proxy.asked) == {tls.url.removeprefix("https://")} and proxy.refused == 0
    assert tls.tokens == ["Bearer hf_good"] * 2


@pytest.mark.parametrize("account", ["", "ann:mistaken@"])
@pytest.mark.parametrize("scheme", ["https", "http"])
def test_a_proxy_that_wants_another_account_is_asked_once(
    tls: LocalHub, hub: LocalHub, tmp_path: Path, account: str, scheme: str
) -> None:
    """The password is in no line."""
    server = tls if scheme == "https" else hub
    server.store.add("owner/open", {VAE: BYTES}, gated=False, commit=None)
    host, proxy = Host(tmp_path / "host", server), ConnectProxy("ann:right")
    environ = {f"{scheme}_proxy": f"http://{account}127.0.0.1:{proxy.port}", "no_proxy": "", "NO_PROXY": ""}
    program = host.start(host.request(host.files("owner/open")), **environ)
    out, err = program.communicate()
    proxy.close()
    assert program.returncode == 1 and proxy.refused == 1 and server.requests == []
    assert err.count("error: ") == 1 and "error: the proxy wants a name and a password, and" in err
    assert "hint: set HTTPS_PROXY to http://NAME:PASSWORD@HOST:PORT " in err
    assert "retrying" not in out and "mistaken" not in out + err and host.visible() == []


def test_a_proxy_that_forbids_the_hub_is_asked_once(tls: LocalHub, tmp_path: Path) -> None:
    tls.store.add("owner/open", {VAE: BYTES}, gated=False, commit=None)
    host, proxy = Host(tmp_path / "host", tls), ConnectProxy(answer="403 Forbidden")
    environ = {"https_proxy": f"http://127.0.0.1:{proxy.port}", "no_proxy": "", "NO_PROXY": ""}
    out, err = host.start(host.request(host.files("owner/open")), **environ).communicate()
    proxy.close()
    assert proxy.refused == 1 and "retrying" not in out and "403 Forbidden" in err, (out, err)


@pytest.mark.parametrize("status", [502, 503, 504])
def test_a_proxy_that_does_not_reach_the_hub_is_asked_again(status: int) -> None:
    error = urllib3.exceptions.ProxyError("no tunnel", OSError())
    error.__cause__ = OSError(f"Tunnel connection failed: {status} Bad")
    assert hub_errors.explain(error, a_file(), False).transient


def test_redirects_without_an_end_are_told(hub: LocalHub, host: Host, model: Any) -> None:
    hub.elsewhere = hub.url
    with pytest.raises(urllib3.exceptions.ResponseError, match="redirects"):
        file = host.files()[0]
        with content.get(f"{hub.url}/{file.repo}/resolve/{file.commit}/{file.file}", {}, 5, 5):
            pass
    assert len(hub.requests) == content.REDIRECTS_MAX


def test_nothing_is_asked_when_the_hub_is_switched_off(hub: LocalHub, host: Host, model: Any) -> None:
    _, err = host.start(host.request(host.files()), HF_HUB_OFFLINE="1").communicate()
    assert "HF_HUB_OFFLINE" in err and hub.requests == []


# -- neighbours --------------------------------------------------------------------------------------------------------


@pytest.fixture
def neighbour(tmp_path: Path) -> Any:
    server = LocalHub(tmp_path / "neighbour-data")
    yield server
    server.close()


@pytest.mark.parametrize("trouble", ["", "wrong-bytes", "404", "down", "cut"])
def test_a_neighbour_is_asked_first_and_believed_nothing(
    hub: LocalHub, host: Host, model: Any, neighbour: LocalHub, trouble: str
) -> None:
    neighbour.store.add(REPO, dict(model), gated=False, commit=vae(host).commit)
    if trouble:
        neighbour.misbehave(trouble)
    found = host.run([vae(host, peers=[neighbour.url])])
    assert found[-1] == 0 and linked(host).read_bytes() == BYTES and len(neighbour.requests) == 1
    assert len(hub.requests) == bool(trouble) and len(events(found, "retrying")) == bool(trouble)


# -- the request -------------------------------------------------------------------------------------------------------


def a_file(**over: Any) -> ModelFile:
    known: dict[str, Any] = {
        "model": "vae",
        "repo": REPO,
        "commit": "a" * 40,
        "file": VAE,
        "size": 1,
        "sha256": "0" * 64,
    }
    return ModelFile(**(known | {"git_sha1": None, "links": [], "action": "fetch", "gated": False} | over))


def parsed(*files: ModelFile, refs: tuple[ModelRef, ...] = ()) -> ModelsRequest:
    return fetch.parse(to_json(ModelsRequest([*files], [*refs], "/c", "/m", "/f", 1)))


@pytest.mark.parametrize(
    "wrong",
    [
        *({field: value} for field in ("file",) for value in ("/etc/passwd", "../x", "a/../../x", "")),
        *({"links": ["vae/x", value]} for value in ("/etc/passwd", "../x", "a/../../x", "")),
        *({"commit": value} for value in ("", "main", "../" * 13 + "a", "a" * 41, "A" * 40)),
        *({"sha256": value} for value in ("", "0" * 63, "../" * 21 + "a")),
        {"git_sha1": "0" * 41},
        {"repo": "../x"},
        {"repo": "owner/.."},
        {"repo": "owner"},
        {"size": -1},
        {"sha256": None},
        {"peers": ["file:///etc/passwd"]},
        {"peers": ["http://user:secret@host"]},
        {"action": "remove"},
    ],
)
def test_a_request_for_something_else_is_refused(wrong: dict[str, Any]) -> None:
    assert parsed(a_file()) and parsed(a_file(sha256=None, git_sha1="0" * 40))
    with pytest.raises(fetch.RequestError):
        parsed(a_file(), a_file(**wrong))


@pytest.mark.parametrize("wrong", [{"revision": "../../x"}, {"revision": "/x"}, {"commit": "main"}, {"repo": "x"}])
def test_a_ref_outside_its_folder_is_refused(wrong: dict[str, str]) -> None:
    assert parsed(refs=(ModelRef(REPO, "refs/pr/1", "a" * 40),))
    with pytest.raises(fetch.RequestError):
        parsed(refs=(ModelRef(**({"repo": REPO, "revision": "main", "commit": "a" * 40} | wrong)),))


def test_the_cache_is_looked_at_where_the_hubs_client_keeps_it() -> None:
    assert hub_cache.folder_name(REPO) == repo_folder_name(repo_id=REPO, repo_type="model")


@pytest.mark.parametrize("name", MANY)
def test_a_file_is_asked_for_where_the_hubs_client_asks(name: str) -> None:
    file, hub = a_file(file=name), "https://hub.example/mirror"
    assert download.url_of(file, hub) == hf_hub_url(REPO, name, revision=file.commit, endpoint=hub)


# -- the bytes on their way to the disk --------------------------------------------------------------------------------

PIECE = partial.PIECE_BYTES


@pytest.mark.parametrize("disk", ["as it is", "knows no way past the cache", "refuses what it was asked"])
@pytest.mark.parametrize("size", [1, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE, 2 * PIECE + 4096, 3 * PIECE + 100_000])
def test_what_is_written_in_pieces_is_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, disk: str
) -> None:
    """However it comes, in one run or two."""
    control, write = fcntl.fcntl, os.pwrite

    def refuse(descriptor: int, command: int, flags: int = 0) -> Any:
        if command == fcntl.F_SETFL and flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "no such way")
        return control(descriptor, command, flags)

    def refuse_direct(descriptor: int, data: Any, at: int) -> int:
        if control(descriptor, fcntl.F_GETFL) & os.O_DIRECT:
            raise OSError(errno.EINVAL, "not so")
        return write(descriptor, data, at)

    if disk == "knows no way past the cache":
        monkeypatch.setattr(partial.fcntl, "fcntl", refuse)
    if disk == "refuses what it was asked":
        monkeypatch.setattr(partial.os, "pwrite", refuse_direct)
    content, moved = os.urandom(size), [0]
    file = a_file(size=size, sha256=hashlib.sha256(content).hexdigest())
    path = tmp_path / "blobs/x"
    for until in (size * 2 // 3, size):
        with partial.Partial(path, file, lambda count: moved.append(moved[-1] + count)) as writing:
            moved[:] = [writing.size]
            for at in range(writing.size, until, 300_001):
                writing.write(content[at : min(at + 300_001, until)])
            assert writing.size == moved[-1] == until
        assert path.read_bytes() == content[:until]
    with partial.Partial(path, file, lambda count: None) as writing:
        assert writing.finish().agrees(file)
    assert path.read_bytes() == content


def test_a_large_file_leaves_the_cache_to_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags: list[int] = []
    write = os.pwrite

    def see(descriptor: int, data: Any, at: int) -> int:
        flags.append(fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT)
        return write(descriptor, data, at)

    monkeypatch.setattr(partial.os, "pwrite", see)
    with partial.Partial(tmp_path / "x", a_file(size=3 * PIECE), lambda count: None) as writing:
        if not partial._past_cache(writing._descriptor, False):
            pytest.skip("this file system has no way past the cache")
        partial._past_cache(writing._descriptor, True)
        for _ in range(3):
            writing.write(bytes(PIECE))
        writing.finish()
    assert flags == [os.O_DIRECT] * 3


def test_nothing_is_written_behind_what_the_disk_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is there is the beginning of the file, and without a hole."""
    content, write = os.urandom(5 * PIECE), os.pwrite

    def fill_up(descriptor: int, data: Any, at: int) -> int:
        if at == 2 * PIECE:
            return write(descriptor, data[:4096], at)
        if at > 2 * PIECE:
            raise OSError(errno.ENOSPC, "full")
        return write(descriptor, data, at)

    path, file = tmp_path / "x", a_file(size=len(content), sha256=hashlib.sha256(content).hexdigest())
    monkeypatch.setattr(partial.os, "pwrite", fill_up)
    with pytest.raises(OSError, match="full"), partial.Partial(path, file, lambda count: None) as writing:
        for at in range(0, len(content), 1_000_000):
            writing.write(content[at : at + 1_000_000])
    monkeypatch.undo()
    assert path.read_bytes() == content[: 2 * PIECE + 4096]
    with partial.Partial(path, file, lambda count: None) as writing:
        writing.write(content[writing.size :])
        assert writing.finish().agrees(file)


# -- errors ------------------------------------------------------------------------------------------------------------


def refused(status: int, kind: type[errors.HfHubHTTPError] = errors.HfHubHTTPError, **headers: str) -> Exception:
    """What huggingface_hub raises for an answer of the hub."""
    request = httpx2.Request("GET", "http://hub")
    return kind("a text\nof several lines", response=httpx2.Response(status, request=request, headers=headers))


def os_error(number: int, file: str | None = "/cache/x") -> OSError:
    return OSError(number, os.strerror(number), file)


@pytest.mark.parametrize(
    ("error", "has_token", "kind", "transient", "said"),
    [
        (os_error(errno.ENOSPC), False, "disk", False, "the disk is full: /cache/x"),
        (os_error(errno.EDQUOT, None), False, "disk", False, f"the disk is full: {VAE}"),
        (os_error(errno.EACCES), False, "filesystem", False, "`/cache/x` cannot be used: Permission denied"),
        (os_error(errno.EROFS), False, "filesystem", False, "`/cache/x` cannot be used: Read-only file system"),
        (os_error(errno.EIO, None), False, "filesystem", False, f"`{VAE}` cannot be used: Input/output error"),
        (errors.OfflineModeIsEnabled("off"), False, "network", False, "switched off for this program"),
        (urllib3.exceptions.ProtocolError("slow"), False, "network", True, "cannot be reached for `owner/model`: slow"),
        (
            urllib3.exceptions.ProtocolError(""),
            False,
            "network",
            True,
            "`owner/model`: ProtocolError",
        ),
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
        (refused(404, errors.RevisionNotFoundError), True, "missing", False, f"no revision `{'a' * 40}`"),
        (refused(404, errors.RemoteEntryNotFoundError), True, "missing", False, f"no file `{VAE}` at revision"),
        (refused(401, errors.GatedRepoError), False, "gated", False, "there is no Hugging Face token"),
        (refused(401, errors.GatedRepoError), True, "token", False, "is gated, and the hub refuses the token"),
        (refused(403, errors.GatedRepoError), True, "licence", False, "may not read"),
    ],
)
def test_each_failure_is_one_sentence_and_one_thing_to_do(
    error: Exception, has_token: bool, kind: str, transient: bool, said: str
) -> None:
    known = hub_errors.explain(error, a_file(), has_token)
    assert (known.kind, known.transient) == (kind, transient)
    assert said in str(known) and known.hint and "\n" not in f"{known}{known.hint}"
    assert len(str(known)) < 320


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": "soon"}, None),
        ({"RateLimit": '"resolvers";r=0;t=55'}, 55.0),
    ],
)
def test_how_long_the_hub_asks_to_wait(headers: dict[str, str], seconds: float | None) -> None:
    assert hub_errors.retry_after_s(refused(429, errors.HfHubHTTPError, **headers)) == seconds
    assert hub_errors.retry_after_s(ValueError()) is None


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_status_that_may_pass_is_tried_again(status: int) -> None:
    assert hub_errors.explain(refused(status), a_file(), False).transient


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 416, 451])
def test_a_final_refusal_is_not_tried_again(status: int) -> None:
    assert not hub_errors.explain(refused(status), a_file(), True).transient


# -- the manifest, the meter -------------------------------------------------------------------------------------------


def test_the_manifest_survives_a_failed_write(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    manifest.write_atomically(path, "old")
    with pytest.raises(TypeError):
        manifest.write_atomically(path, 3)  # type: ignore[arg-type]
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_the_manifest_is_not_written_a_thousand_times_for_a_thousand_files(
    hub: LocalHub, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.store.add(REPO, {f"{number}.txt": b"%d" % number for number in range(100)}, gated=False, commit=None)
    saved: list[int] = []
    save = manifest.save
    monkeypatch.setattr(manifest, "save", lambda path, what: (saved.append(len(what.files)), save(path, what)))
    assert host.run()[-1] == 0 and saved[-1] == 100 and len(saved) < 50
    assert len(json.loads(host.manifest.read_text())["files"]) == 100


def test_how_far_files_and_the_whole_are() -> None:
    told: list[Any] = []
    with meter.Meter(told.append, every_s=0.02) as counting:
        counting.expect(1000)
        moved = counting.open(a_file(size=1000))
        moved(250)
        while not (told and told[-1].file is None and told[-1].bytes == 250):
            pass
        moved(250)
        while told[-1].bytes != 500 or told[-1].file is not None:
            pass
        counting.close(a_file())
        count = len(told)
        while len(told) < count + 3:
            pass
    whole = [each for each in told if each.file is None and each.bytes == 500]
    mine = [each for each in told if each.file == VAE and each.bytes == 500]
    assert mine and {each.total_bytes for each in whole + mine} == {1000}
    assert whole[0].bytes_per_s > 0 and whole[0].eta_s == pytest.approx(500 / whole[0].bytes_per_s)
    assert told[-1].file is None and told[-2].file is None  # what is closed is not told any more


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EPERM])
def test_folders_between_which_no_link_is_possible_are_refused_first(
    hub: LocalHub, host: Host, model: Any, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def link(*_: object) -> None:
        raise OSError(number, "no")

    monkeypatch.setattr(store.os, "link", link)
    ((kind, message),) = errors_of(host.run([vae(host)]))
    assert kind == "filesystem" and "no hard link is possible" in message and hub.requests == []

"""What the import takes, what it leaves as it was, and what it says of the rest."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from hostside import model_import
from hostside.models import manifest
from hostside.protocol.model_import import ImportLook, ImportRequest
from hostside.protocol.models import ModelFile, manifest_key
from hostside.wire import from_host, to_json

REPO, COMMIT = "o/m", "a" * 40
WEIGHTS, CONFIG = b"w" * 100_000, b'{"a": 1}'
GIT = hashlib.sha1(b"blob %d\0" % len(CONFIG) + CONFIG).hexdigest()
UID, GID = os.geteuid(), os.getegid()  # that it works with two accounts, the rehearsal proves


def wish(file: str, content: bytes, links: list[str], lfs: bool = True) -> ModelFile:
    return ModelFile(
        model="m",
        repo=REPO,
        commit=COMMIT,
        file=file,
        size=len(content),
        sha256=hashlib.sha256(content).hexdigest() if lfs else None,
        git_sha1="b" * 40 if lfs else GIT,
        links=links,
        action="fetch",
        gated=False,
        known_from="lock",
    )


class Host:
    """Folders of the account, and a folder of somebody else's."""

    def __init__(self, root: Path) -> None:
        self.cache, self.models, self.state, self.old = (root / name for name in ("hub", "models", "state", "old $ß"))
        for folder in (self.cache, self.models, self.state):
            folder.mkdir()
            os.chown(folder, UID, GID)
        (self.old / "vae").mkdir(parents=True)
        self.wishes = [wish("vae/one.bin", WEIGHTS, ["vae/one.bin"]), wish("config.json", CONFIG, [], lfs=False)]

    def put(self, name: str, content: bytes) -> Path:
        path = self.old / name
        path.write_bytes(content)
        path.chmod(0o600)
        return path

    def request(self) -> ImportRequest:
        folders = (str(self.cache), str(self.models), str(self.state / "manifest.json"))
        return ImportRequest(str(self.old), self.wishes, *folders, UID, GID)

    def take(self) -> list[str]:
        program = [sys.executable, "-I", "-B", "-m", "hostside.model_import", "take"]
        done = subprocess.run(
            program, input=to_json(self.request()), capture_output=True, text=True, timeout=60, check=False
        )
        assert (done.returncode, done.stderr) == (0, ""), done
        return done.stdout.splitlines()

    def shown(self, file: str) -> Path:
        return self.cache / "models--o--m/snapshots" / COMMIT / file

    def entry(self, file: str) -> Any:
        return manifest.load(self.state / "manifest.json").files.get(manifest_key(REPO, COMMIT, file))


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_looking_names_what_may_be_it_and_what_is_not(host: Host) -> None:
    one, notes = host.put("vae/any name.bin", WEIGHTS), host.put("notes.txt", b"hello")
    host.put("empty", b"")
    (host.old / "link").symlink_to(one)
    os.mkfifo(host.old / "fifo")
    found = from_host(ImportLook, to_json(model_import.look(host.request())))
    assert [(each.model, each.file, each.path) for each in found.candidates] == [("m", "vae/one.bin", str(one))]
    assert [(each.path, each.size) for each in found.others] == [(str(notes), 5)] and found.others_total == 1


def test_many_others_are_counted(host: Host) -> None:
    for number in range(60):
        host.put(f"{number}.txt", b"hello")
    found = model_import.look(host.request())
    assert len(found.others) == model_import.OTHERS_SHOWN and found.others_total == 60


def test_what_has_the_right_bytes_is_taken_by_a_second_name(host: Host) -> None:
    one, config = host.put("vae/any name.bin", WEIGHTS), host.put("old config", CONFIG)
    said = host.take()
    assert said[-1] == "2 files imported" and any("vae/one.bin: " in line for line in said)
    assert host.shown("vae/one.bin").samefile(one)
    for path, file in ((one, "vae/one.bin"), (host.shown("config.json").resolve(), "config.json")):
        assert host.shown(file).is_symlink()
        there = path.stat()
        assert (there.st_uid, there.st_gid, there.st_mode & 0o777) == (UID, GID, 0o644)
        entry = host.entry(file)
        assert (entry.size, entry.mtime_ns, entry.inode) == (there.st_size, there.st_mtime_ns, there.st_ino)
        assert (entry.checked_against, entry.sha256) == ("lock", hashlib.sha256(path.read_bytes()).hexdigest())
    assert host.entry("config.json").git_sha1 == GIT
    assert (host.models / "vae/one.bin").samefile(one)
    assert (host.cache / "models--o--m/blobs" / GIT).stat().st_uid == UID
    # A small file is copied, and stays who it was.
    assert (config.stat().st_nlink, config.stat().st_mode & 0o777) == (1, 0o600)
    assert host.take()[-1].endswith("files imported")


def test_the_first_models_of_a_host_can_be_imported(host: Host) -> None:
    """Before anything was fetched there is no cache."""
    one = host.put("vae/any name.bin", WEIGHTS)
    host.cache.rmdir()
    host.models.rmdir()
    assert host.take()[-1] == "1 files imported" and host.shown("vae/one.bin").samefile(one)
    assert (host.models / "vae/one.bin").samefile(one)


def test_what_has_other_bytes_is_left_to_its_owner_as_it_was(host: Host) -> None:
    broken = host.put("vae/broken.bin", WEIGHTS[:-1] + b"X")
    before = broken.stat()
    assert host.take() == [f"other bytes than those of a model: {broken}", "0 files imported"]
    after = broken.stat()
    assert (before.st_uid, before.st_mode, before.st_nlink) == (after.st_uid, after.st_mode, after.st_nlink)
    assert host.entry("vae/one.bin") is None and not list(host.models.rglob("*.bin"))
    good = host.put("vae/good.bin", WEIGHTS)
    assert host.take()[-1] == "1 files imported" and host.shown("vae/one.bin").samefile(good)


def test_what_somebody_writes_to_is_copied(host: Host) -> None:
    """A second name would let the writer change what was proved."""
    one = host.put("vae/one.bin", WEIGHTS)
    with one.open("r+b") as writer:
        said = host.take()
        assert said[-1] == "1 files imported" and "copied" in said[-2], said
        writer.write(b"X")
    assert host.shown("vae/one.bin").read_bytes() == WEIGHTS and one.stat().st_uid == os.geteuid()


def test_who_opens_it_for_writing_while_it_is_given_away_gets_no_hold_on_the_model(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After any earlier look whether somebody writes to it, and before the file has its new owner."""
    one, give = host.put("vae/one.bin", WEIGHTS), os.fchown
    opened: list[BinaryIO] = []

    def raced(descriptor: int, uid: int, gid: int) -> None:
        if not opened:
            opened.append(one.open("r+b"))
        give(descriptor, uid, gid)

    monkeypatch.setattr(os, "fchown", raced)
    assert model_import.take(host.request()) == 1
    with opened[0] as writer:
        writer.write(b"X")
    assert host.shown("vae/one.bin").read_bytes() == WEIGHTS and not host.shown("vae/one.bin").samefile(one)


def test_who_is_on_the_way_in_while_it_is_read_is_noticed(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let in by the kernel before the file had its new owner, and only then at the lease."""
    one, read = host.put("vae/one.bin", WEIGHTS), model_import._hashed

    def met(*arguments: Any) -> Any:
        assert one.stat().st_mode & 0o077 == 0  # nobody else reads it meanwhile either
        with pytest.raises(BlockingIOError):
            os.open(one, os.O_WRONLY | os.O_NONBLOCK)
        return read(*arguments)

    before = signal.signal(signal.SIGIO, signal.SIG_IGN)  # as main() has it
    monkeypatch.setattr(model_import, "_hashed", met)
    try:
        assert model_import.take(host.request()) == 1
    finally:
        signal.signal(signal.SIGIO, before)
    assert host.shown("vae/one.bin").read_bytes() == WEIGHTS and not host.shown("vae/one.bin").samefile(one)
    assert (one.stat().st_uid, one.stat().st_mode & 0o777) == (os.geteuid(), 0o600)


def test_what_runs_as_its_owner_is_copied_and_stays_as_it_is(host: Host) -> None:
    one = host.put("vae/one.bin", WEIGHTS)
    one.chmod(0o4755)
    assert host.take()[-1] == "1 files imported"
    assert not host.shown("vae/one.bin").samefile(one) and one.stat().st_mode & 0o7777 == 0o4755


def test_from_another_file_system_it_is_copied(host: Host, tmp_path: Path) -> None:
    other = Path("/dev/shm")
    if other.stat().st_dev == tmp_path.stat().st_dev or not os.access(other, os.W_OK):
        pytest.skip("there is no other file system here")
    folder = other / f"gpuhost-import-{os.getpid()}"
    folder.mkdir()
    try:
        host.old = folder
        one, broken = host.put("one", WEIGHTS), host.put("broken", WEIGHTS[:-1] + b"X")
        said = host.take()
        assert said[-1] == "1 files imported" and any(": copied, from " in line for line in said)
        assert host.shown("vae/one.bin").read_bytes() == WEIGHTS
        assert (one.stat().st_uid, one.stat().st_nlink) == (os.geteuid(), 1) and broken.exists()
        assert not list(host.cache.rglob("*.gpuhost-import"))
    finally:
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()


def test_a_file_in_the_place_of_a_link_is_kept(host: Host) -> None:
    host.put("one", WEIGHTS)
    (host.models / "vae").mkdir()
    (host.models / "vae/one.bin").write_bytes(b"mine")
    for path in (host.models / "vae", host.models / "vae/one.bin"):
        os.chown(path, UID, GID)
    host.take()
    assert (host.models / "vae/one.bin").read_bytes() == WEIGHTS
    assert sorted(path.read_bytes() for path in (host.models / "vae").glob("*.replaced-*")) == [b"mine"]


def test_no_folder_is_one_sentence(host: Host) -> None:
    host.old = host.old / "none"
    for action in ("look", "take"):
        program = [sys.executable, "-I", "-B", "-m", "hostside.model_import", action]
        done = subprocess.run(
            program, input=to_json(host.request()), capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 1 and done.stderr.startswith(f"error: `{host.old}`: no such folder\nhint: ")


def test_a_request_that_cannot_be_read() -> None:
    program = [sys.executable, "-I", "-B", "-m", "hostside.model_import", "look"]
    done = subprocess.run(program, input=json.dumps({}), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2 and done.stderr.startswith("error: ")

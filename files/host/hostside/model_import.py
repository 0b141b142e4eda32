"""Takes files of models that lie elsewhere on the host into the hub's cache, by their hash, without a download.

    python -m hostside.model_import look < request     what lies in the folder (a `ImportLook`)
    python -m hostside.model_import take < request     takes what has the right bytes; a line for each on stdout

The request is a `ImportRequest`. As root it reads files that anybody may own; it writes nothing. What may
write, in the cache and the models folder, is a second process that runs as their owner and gets each file open, over
a socket. On the cache's file system a file gets a second name (a hard link) and belongs to that owner from then on,
before it is read: nobody else can change what was proved. A lease of the kernel's tells who had it open for writing by
then. Elsewhere its bytes are copied, and read on the way; small files always.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from hostside.cache_lock import alone
from hostside.models import manifest
from hostside.models.store import CHUNK_BYTES, FILE_MODE, Digest, Hasher, Store
from hostside.protocol.model_import import ImportCandidate, ImportLook, ImportRequest, OtherFile, Placement
from hostside.protocol.models import ManifestEntry, ModelFile, manifest_key
from hostside.wire import MAX_BYTES, WireError, from_json, printable, to_json

OTHERS_SHOWN = 50
FILES_MAX = 1_000_000  # that are looked at in one folder
COPIED_BYTES = 2**16  # up to this: many a file has such a size by chance, and is given to nobody to find that out
MESSAGE_BYTES = 2**16
SAVE_EVERY_S = 2.0


def look(request: ImportRequest) -> ImportLook:
    """What lies in the folder, by size; nothing is read. Raises OSError when the folder cannot be."""
    candidates: list[ImportCandidate] = []
    others: list[OtherFile] = []
    total = 0
    for path, size, _ in _files(request.folder):
        mine = [wish for wish in request.wishes if wish.size == size]
        candidates += [ImportCandidate(wish.model, wish.file, _shown(path)) for wish in mine]
        if not mine:
            total += 1
            if len(others) < OTHERS_SHOWN:
                others.append(OtherFile(_shown(path), size))
    return ImportLook(candidates, others, total)


def take(request: ImportRequest) -> int:
    """Takes what has the right bytes; how many files were."""
    missing: dict[int, list[ModelFile]] = {}
    for wish in request.wishes:
        missing.setdefault(wish.size, []).append(wish)
    cache = Path(request.cache_dir)
    there = next(each for each in (cache, *cache.parents) if each.exists())  # before the first model there is no cache
    device, taken = there.stat().st_dev, 0
    with _placer(request) as place:
        for path, size, opened in _files(request.folder):
            for wish in list(missing.get(size, ())):
                with contextlib.suppress(OSError), opened() as file:
                    if place(_read(wish, path, file, device, request), file):
                        missing[size].remove(wish)
                        taken += 1
                        break
            else:
                if missing.get(size):
                    print(f"other bytes than those of a model: {_shown(path)}", flush=True)
    return taken


def _files(folder: str) -> Iterator[tuple[str, int, Callable[[], BinaryIO]]]:
    """(path, bytes, opens it) of every plain file with bytes in it; no link is followed."""
    if not Path(folder).is_dir():
        raise NotADirectoryError(20, "no such folder", folder)
    seen = 0
    for parent, folders, names, descriptor in os.fwalk(folder, follow_symlinks=False):
        folders.sort()
        for name in sorted(names):
            there = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
            seen += 1
            if seen > FILES_MAX:
                return
            if stat.S_ISREG(there.st_mode) and there.st_size:
                yield f"{parent}/{name}", there.st_size, lambda name=name, at=descriptor: _opened(name, at)  # type: ignore[misc]


def _opened(name: str, folder: int) -> BinaryIO:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    file = os.fdopen(os.open(name, flags, dir_fd=folder), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise FileNotFoundError(name)
    return file


def _read(wish: ModelFile, path: str, file: BinaryIO, device: int, request: ImportRequest) -> Placement | None:
    """What is to be done with a file; None when it has other bytes. What will be copied is not read yet."""
    before, copied = os.fstat(file.fileno()), Placement(wish, _shown(path), None, None)
    if before.st_dev != device or before.st_size <= COPIED_BYTES or before.st_mode & 0o7000:
        return copied
    try:
        found = _hashed_as_ours(wish, file, request)
    except OSError as error:
        _give_back(file, before)
        print(f"only copied, for it is in use or cannot be given away ({error.strerror}): {_shown(path)}", flush=True)
        return copied
    if found.agrees(wish):
        os.fchmod(file.fileno(), FILE_MODE)
        return Placement(wish, _shown(path), found.sha256, found.git_sha1)
    _give_back(file, before)
    return None


def _hashed_as_ours(wish: ModelFile, file: BinaryIO, request: ImportRequest) -> Digest:
    """The hash of bytes that nobody changes any more. Raises OSError when that cannot be.

    Given away first, and for nobody else more readable than it was: from then on its old owner opens it for writing no
    more. Who has it open so already keeps the lease from being given; who is on the way in at this very moment breaks
    it.
    """
    os.fchown(file.fileno(), request.uid, request.gid)
    os.fchmod(file.fileno(), stat.S_IMODE(os.fstat(file.fileno()).st_mode) & ~0o022)
    fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    try:
        found = _hashed(wish, file)
        if fcntl.fcntl(file, fcntl.F_GETLEASE) != fcntl.F_RDLCK:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return found
    finally:
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)


def _give_back(file: BinaryIO, before: os.stat_result) -> None:
    now = os.fstat(file.fileno())
    if (now.st_uid, now.st_gid, now.st_mode) != (before.st_uid, before.st_gid, before.st_mode):
        os.fchown(file.fileno(), before.st_uid, before.st_gid)
        os.fchmod(file.fileno(), stat.S_IMODE(before.st_mode))


def _hashed(wish: ModelFile, file: BinaryIO, out: BinaryIO | None = None) -> Digest:
    hasher, left = Hasher(wish), wish.size
    while chunk := file.read(min(CHUNK_BYTES, left)):
        left -= len(chunk)
        hasher.update(chunk)
        if out:
            out.write(chunk)
    return hasher.digest()


def _shown(path: str) -> str:
    return printable(os.fsencode(path).decode("utf-8", "replace"))


# -- the two processes -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _placer(request: ImportRequest) -> Iterator[Callable[[Placement | None, BinaryIO], bool]]:
    """The process that may write; what it is given to place it has placed, or not."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    identity = [f"--reuid={request.uid}", f"--regid={request.gid}", "--clear-groups"]
    program = [sys.executable, "-I", "-B", "-m", "hostside.model_import", "place", str(its.fileno())]
    line = [*(["setpriv", *identity, "--"] if os.geteuid() == 0 else []), *program]
    with ours, subprocess.Popen(line, stdin=subprocess.PIPE, pass_fds=[its.fileno()]) as process:
        its.close()
        assert process.stdin is not None
        process.stdin.write(to_json(replace(request, wishes=[])).encode())
        process.stdin.close()

        def place(placement: Placement | None, file: BinaryIO) -> bool:
            if placement is None:
                return False
            file.seek(0)
            socket.send_fds(ours, [to_json(placement).encode()], [file.fileno()])
            answer = ours.recv(16)
            if not answer:
                raise BrokenPipeError("the process that writes has ended")
            return answer == b"placed"

        try:
            yield place
        finally:
            ours.shutdown(socket.SHUT_WR)
    if process.returncode != 0:
        raise OSError(0, "the process that writes has failed", request.cache_dir)


def place(request: ImportRequest, channel: socket.socket) -> None:
    """As the owner of the cache: puts each file that comes where it belongs, until the other side ends."""
    store, path = Store(Path(request.cache_dir), Path(request.models_dir)), Path(request.manifest)
    store.cache_dir.mkdir(parents=True, exist_ok=True)
    with alone(store.cache_dir):
        known = manifest.load(path)
        saved = time.monotonic()
        while True:
            message, descriptors, _, _ = socket.recv_fds(channel, MESSAGE_BYTES, 1)
            if not message:
                break
            with os.fdopen(descriptors[0], "rb") as file:
                entry = _placed(from_json(Placement, message), file, store)
            if entry:
                known.files[manifest_key(entry.repo, entry.commit, entry.file)] = entry
                if time.monotonic() - saved > SAVE_EVERY_S:
                    manifest.save(path, known)
                    saved = time.monotonic()
            channel.send(b"placed" if entry else b"not")
        manifest.save(path, known)


def _placed(placement: Placement, file: BinaryIO, store: Store) -> ManifestEntry | None:
    """Puts one file into the cache and shows it; None when its bytes are others."""
    wish, blob = placement.file, store.blob(placement.file)
    blob.parent.mkdir(parents=True, exist_ok=True)
    new = blob.with_name(f"{blob.name}.gpuhost-import")
    new.unlink(missing_ok=True)
    how, found = "hard link", None
    if placement.sha256 is not None:
        found = Digest(placement.sha256, placement.git_sha1)
        try:
            # Python follows the link to the open file only where a folder is given, whatever it is.
            os.link(f"/proc/self/fd/{file.fileno()}", new, src_dir_fd=file.fileno(), follow_symlinks=True)
        except OSError:  # a file system without hard links, or too many of them
            found = None
    if found is None:
        how = "copied"
        with new.open("wb") as out:
            found = _hashed(wish, file, out)
            out.flush()
            os.fsync(out.fileno())
        if not found.agrees(wish):
            new.unlink()
            return None
    new.replace(blob)
    store.show(wish)
    pointer = store.pointer(wish)
    for link in wish.links:
        store.link(pointer, link, None)
    there = pointer.stat()
    print(f"{wish.model}: {printable(wish.file)}: {how}, from {placement.shown}", flush=True)
    return ManifestEntry(
        model=wish.model,
        repo=wish.repo,
        commit=wish.commit,
        file=wish.file,
        path=str(pointer),
        size=there.st_size,
        mtime_ns=there.st_mtime_ns,
        inode=there.st_ino,
        sha256=found.sha256,
        git_sha1=found.git_sha1,
        links=wish.links,
        verified_ns=time.time_ns(),
        checked_against=wish.known_from,
    )


def main() -> int:
    """Exit: 0 done; 1 the disk refused; 2 the request is wrong."""
    os.umask(0o022)
    action = sys.argv[1]
    try:
        request = from_json(ImportRequest, sys.stdin.buffer.read(MAX_BYTES + 1))
        if action == "look":
            print(to_json(look(request)))
        elif action == "take":
            signal.signal(signal.SIGIO, signal.SIG_IGN)  # says that a lease breaks; the kernel is asked instead
            print(f"{take(request)} files imported", flush=True)
        else:
            place(request, socket.socket(fileno=int(sys.argv[2])))
    except WireError as error:
        print(f"error: {error}\nhint: `gpuhost apply` ships the programs that fit this gpuhost", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: `{error.filename}`: {error.strerror}\nhint: name a folder of this host", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

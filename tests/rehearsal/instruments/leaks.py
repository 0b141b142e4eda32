"""Where a secret may leak to, and how to find it there: planted values (canaries) in the forms that programs give them.

Every channel returns lines "CHANNEL WHERE: NAME as FORM". No line, message or repr holds a value.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import fnmatch
import gc
import gzip
import io
import json
import os
import re
import select
import socket
import struct
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Any
from urllib.parse import quote, quote_plus

from hostside.envfile import quote as env_quote

from ..world.freshhost import FreshHost
from ..world.machine import PROJECT
from ..world.run import RunError, wait_for

SHORTEST_SECRET = 10  # bytes; in base64 it is long enough, whatever stands before it
SHORTEST_BASE64 = 12  # a shorter piece of base64 is found in innocent text
CHUNK = 1 << 20


# -- forms and canaries -------------------------------------------------------------------------------------------


def _json_by_go(text: str) -> str:
    escaped = json.dumps(text, ensure_ascii=False)[1:-1]
    return re.sub("[<>&\u2028\u2029]", lambda found: f"\\u{ord(found[0]):04x}", escaped)


# A text as it stands inside of what each makes of it, without the quotes around; each letter for itself.
_ENCODINGS: dict[str, Callable[[str], str]] = {
    "shell": lambda text: text.replace("'", "'\"'\"'"),
    "shell with backslashes": lambda text: text.replace("'", "'\\''"),
    "JSON": lambda text: json.dumps(text)[1:-1],
    "UTF-8 JSON": lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
    "Go JSON": _json_by_go,
    "compose": lambda text: text.replace("$", "$$"),
    "env file": lambda text: env_quote(text)[1:-1],
    "repr": lambda text: repr(text)[1:-1],
    "repr beside quotes": lambda text: repr("'\"" + text)[4:-1],
    "repr of bytes": lambda text: repr(text.encode())[2:-1],
    "repr of bytes beside quotes": lambda text: repr(b"'\"" + text.encode())[5:-1],
    "URL": lambda text: quote(text, safe=""),
    "URL path": quote,
    "URL query": quote_plus,
}
_OUTER = ("shell", "JSON", "UTF-8 JSON", "Go JSON", "compose")
_IN_BASE64 = ("raw", "shell", "JSON", "UTF-8 JSON", "compose", "env file")


def forms(secret: str) -> dict[str, bytes]:
    """What to look for, by the name of the form; what looks the same in several forms is there once.

    "JSON in shell" is JSON inside of a quoted word of a shell. A comma begins the name of a part: who finds the part
    has found the form.
    """
    texts = {"raw": secret, **{name: encode(secret) for name, encode in _ENCODINGS.items()}}
    for inner, text in [*texts.items()][1:]:
        texts.update({f"{inner} in {outer}": _ENCODINGS[outer](text) for outer in _OUTER})
    patterns = {name: text.encode() for name, text in texts.items()}
    for inner in _IN_BASE64:
        for kind, encode in (("base64", base64.b64encode), ("URL-safe base64", base64.urlsafe_b64encode)):
            for before in range(3):
                patterns |= _base64(f"{inner} in {kind} at {before}", encode, texts[inner].encode(), before)
    names: dict[bytes, str] = {}
    for name, pattern in patterns.items():
        names.setdefault(pattern, name)
    return {name: pattern for pattern, name in names.items()}


def _base64(name: str, encode: Callable[[bytes], bytes], raw: bytes, before: int) -> dict[str, bytes]:
    """Only the digits whose six bits are all ours, when `before` (mod 3) other bytes stand before us."""
    digits = encode(b"\0" * before + raw)[-(-before * 8 // 6) : (before + len(raw)) * 8 // 6]
    half = len(digits) // 2  # `base64` breaks lines; one break leaves one half whole
    parts = {"": digits, ", first half": digits[:half], ", second half": digits[half:]}
    return {f"{name}{part}": piece for part, piece in parts.items() if len(piece) >= SHORTEST_BASE64}


class Canaries:
    """Planted values by name. `value()` is the only way to a value.

    The search looks at every eighth byte only: whoever reads four bytes there and knows the first eight such groups of
    each pattern misses no pattern of eleven bytes or more, and the time does not depend on how many there are.
    """

    _STEP, _GROUP = 8, 4
    _SLICE = 256 << 10

    def __init__(self, values: Mapping[str, str]) -> None:
        short = [name for name, value in values.items() if len(value.encode()) < SHORTEST_SECRET]
        if short:
            raise ValueError(f"shorter than {SHORTEST_SECRET} bytes, they would be found in innocent text: {short}")
        self._values = dict(values)
        self._labels: dict[bytes, set[str]] = {}
        for name, value in values.items():
            for form, pattern in forms(value).items():
                self._labels.setdefault(pattern, set()).add(f"{name} as {form.partition(',')[0]}")
        shortest = self._STEP + self._GROUP - 1
        self._short = [pattern for pattern in self._labels if len(pattern) < shortest]
        self._owners: dict[int, list[bytes]] = {}
        for pattern in self._labels.keys() - set(self._short):
            for at in range(self._STEP):
                group = int.from_bytes(pattern[at : at + self._GROUP], sys.byteorder)
                self._owners.setdefault(group, []).append(pattern)
        self._groups = frozenset(self._owners)
        self._overlap = max(map(len, self._labels), default=1) - 1

    def __repr__(self) -> str:
        return f"Canaries({', '.join(self._values)})"

    @property
    def names(self) -> list[str]:
        """Their names, sorted."""
        return sorted(self._values)

    def value(self, name: str) -> str:
        """The value to plant."""
        return self._values[name]

    def forms(self, name: str) -> dict[str, bytes]:
        """forms() of one of them."""
        return forms(self._values[name])

    def find(self, data: bytes) -> list[str]:
        """All that is in `data`, sorted; each "NAME as FORM"."""
        __tracebackhide__ = True
        return self._labelled(self._patterns_in(data))

    def find_in(self, chunks: Iterable[bytes]) -> list[str]:
        """The same over a stream; what stands across a border is found too."""
        __tracebackhide__ = True
        found: set[bytes] = set()
        rest = b""
        for chunk in chunks:
            data = rest + chunk
            found |= self._patterns_in(data)
            rest = data[-self._overlap :] if self._overlap else b""
        return self._labelled(found)

    def masked(self, data: bytes | str) -> str:
        """As text in which every canary is replaced by its name."""
        __tracebackhide__ = True
        raw = data.encode(errors="surrogateescape") if isinstance(data, str) else data
        for pattern in sorted(self._patterns_in(raw), key=len, reverse=True):
            names = sorted({label.partition(" as ")[0] for label in self._labels[pattern]})
            raw = raw.replace(pattern, f"<{'/'.join(names)}>".encode())
        return raw.decode(errors="replace")

    def grep_patterns(self) -> bytes:
        """For `grep -F -f`, one a line: every form holds one of them. So what holds one may be no leak."""
        least = [pattern for pattern in self._labels if self._patterns_in(pattern) == {pattern}]
        return b"".join(sorted({max(pattern.split(b"\n"), key=len) + b"\n" for pattern in least}))

    def _patterns_in(self, data: bytes) -> set[bytes]:
        __tracebackhide__ = True
        found: set[bytes] = set()
        for start in range(0, len(data), self._SLICE):
            part = data if len(data) <= self._SLICE else data[start : start + self._SLICE + self._overlap]
            whole = memoryview(part)[: len(part) // self._GROUP * self._GROUP]
            groups = self._groups.intersection(whole.cast("I")[:: self._STEP // self._GROUP])
            suspects = {pattern for group in groups for pattern in self._owners[group]}
            found |= {pattern for pattern in [*suspects, *self._short] if pattern in part}
        return found

    def _labelled(self, patterns: Iterable[bytes]) -> list[str]:
        return sorted({label for pattern in patterns for label in self._labels[pattern]})


def _chunks(stream: IO[bytes]) -> Iterator[bytes]:
    while chunk := stream.read(CHUNK):
        yield chunk


# -- this side ----------------------------------------------------------------------------------------------------


def in_text(canaries: Canaries, what: str, text: str | bytes) -> list[str]:
    """In the output of a program, or any other text; `what` says whose."""
    __tracebackhide__ = True
    data = text.encode(errors="surrogateescape") if isinstance(text, str) else text
    return [f"output {what}: {hit}" for hit in canaries.find(data)]


def in_folder(canaries: Canaries, folder: Path, intended: Sequence[str] = ()) -> list[str]:
    """In names, link targets and contents of all below `folder`.

    `intended`: globs on the path; the contents of such files are not read. What a program removes meanwhile is passed
    over.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder: nothing was looked at")
    found = []
    for path in sorted(folder.rglob("*")):
        with contextlib.suppress(FileNotFoundError):
            target = os.fsencode(path.readlink()) if path.is_symlink() else b""
            name = os.fsencode(path.relative_to(folder))
            found += [f"folder {line}" for line in _in_name(canaries, name, target)]
            if path.is_file() and not path.is_symlink() and not _matches(str(path), intended):
                with path.open("rb") as file:
                    hits = canaries.find_in(_chunks(file))
                found += [f"folder {canaries.masked(name)}: {hit}" for hit in hits]
    return found


def in_git(canaries: Canaries, checkout: Path) -> list[str]:
    """In what a commit could take: names and contents of changed and untracked files, here and staged; the diffs."""

    def git(*words: str | bytes) -> bytes:
        line = [b"git", b"-C", os.fsencode(checkout), *(os.fsencode(word) for word in words)]
        done = subprocess.run(line, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        if done.returncode:
            raise RunError(f"git in {checkout}: {canaries.masked(done.stderr)}")
        return done.stdout

    found = []
    top = git("rev-parse", "--show-toplevel").removesuffix(b"\n")
    records = iter(git("status", "--porcelain", "-z", "-uall", "--ignored=no").split(b"\0")[:-1])
    for record in records:
        name = record[3:]
        names = [name, next(records)] if record[:1] in b"RC" else [name]
        found += [f"git {line}" for each in names for line in _in_name(canaries, each)]
        path = Path(os.fsdecode(top + b"/" + name))
        if path.is_symlink():
            found += [f"git {line}" for line in _in_name(canaries, name, os.fsencode(path.readlink()))]
        elif path.is_file():
            with path.open("rb") as file:
                found += [f"git {canaries.masked(name)}: {hit}" for hit in canaries.find_in(_chunks(file))]
    for name in git("diff", "--cached", "--name-only", "-z", "--diff-filter=d").split(b"\0")[:-1]:
        found += [f"git staged {canaries.masked(name)}: {hit}" for hit in canaries.find(git("show", b":" + name))]
    for words in (("diff",), ("diff", "--cached")):
        diff = git(*words, "--no-color", "--no-ext-diff", "--no-textconv", "--text")
        found += [f"git {' '.join(words)}: {hit}" for hit in canaries.find(diff)]
    return found


def _in_name(canaries: Canaries, path: bytes, target: bytes = b"") -> list[str]:
    """In a path and in what it links to. What is in its folder's path already was told there."""
    __tracebackhide__ = True
    told = {*canaries.find(os.path.dirname(path))}  # noqa: PTH120  (bytes: a name may be no text)
    hits = [hit for hit in canaries.find(path) if hit not in told] + canaries.find(target)
    return [f"name {canaries.masked(path)}: {hit}" for hit in hits]


def _matches(path: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)


# -- the host -----------------------------------------------------------------------------------------------------

# A container's merged view shows nothing but the layers that are read anyway. Journals are read by in_journal().
_FIND = r"find / \( -path /proc -o -path /sys -o -regex '/var/lib/docker/overlay2/[^/]*/merged' \) -prune -o"
_NAMES = _FIND + r" -printf '%p\n%l\0' 2>/dev/null || [ $? = 1 ]"
# The patterns lie in memory without a name: no file of the host's, no argument, and every grep can read them.
# Each grep searches them too, so that one that did not search is noticed.
_GREP = f"""
set -eu; export LC_ALL=C
held=$(mktemp /dev/shm/held.XXXXXX); exec 3<>"$held"; rm "$held"; cat >&3
{_FIND} -type f ! -path '/var/log/journal/*' ! -path '/run/log/journal/*' -print0 2>/dev/null |
    xargs -0 -r -n 1000 -P "$(nproc)" grep -slaZF --line-buffered -f /dev/fd/3 -- /dev/fd/3 || [ $? = 123 ]
"""


def on_host(canaries: Canaries, host: FreshHost, intended: Sequence[str] = ()) -> list[str]:
    """In names, link targets and contents of all files of the host, as root.

    `intended`: globs on the full path; the contents of such files are not read. Left out: /proc, /sys, the journals,
    and what lies compressed on the disk.
    """
    with _output(canaries, host, _NAMES) as stream:
        names = stream.read()
    if b"/etc/passwd\n\0" not in names:
        raise RunError("find on the host did not list its files")
    found = []
    for record in names.split(b"\0") if canaries.find(names) else []:
        path, _, target = record.partition(b"\n")
        found += [f"host {line}" for line in _in_name(canaries, path, target)]
    with _output(canaries, host, _GREP, canaries.grep_patterns()) as stream:
        suspects = {*stream.read().split(b"\0")[:-1]}
    if b"/dev/fd/3" not in suspects:
        raise RunError("grep on the host did not search")
    for suspect in sorted(suspects - {b"/dev/fd/3"}):
        if not _matches(os.fsdecode(suspect), intended):
            with _output(canaries, host, "xargs -0 cat -- 2>/dev/null || [ $? = 123 ]", suspect + b"\0") as stream:
                hits = canaries.find_in(_chunks(stream))
            found += [f"host {canaries.masked(suspect)}: {hit}" for hit in hits]
    return found


def in_journal(canaries: Canaries, host: FreshHost) -> list[str]:
    """In any field of any entry of the host's journal."""
    with _output(canaries, host, "journalctl --no-pager --quiet -o export") as stream:
        journal = stream.read()
    if b"\nMESSAGE=" not in journal:
        raise RunError("the host's journal is empty: nothing was looked at")
    found = set()
    for entry in journal_entries(journal) if canaries.find(journal) else []:
        by = canaries.masked(dict(entry).get("SYSLOG_IDENTIFIER", b"?"))
        for name, value in entry:
            found |= {f"journal {by} {name}: {hit}" for hit in canaries.find(value)}
    return sorted(found)


def journal_entries(export: bytes) -> Iterator[list[tuple[str, bytes]]]:
    """The fields of each entry of systemd's Journal Export Format."""
    entry: list[tuple[str, bytes]] = []
    at = 0
    while at < len(export):
        end = export.index(b"\n", at)
        line, at = export[at:end], end + 1
        if not line:
            yield entry
            entry = []
            continue
        name, equals, value = line.partition(b"=")
        if not equals:  # no plain text: its length, its bytes, a line break
            (size,) = struct.unpack_from("<Q", export, at)
            value, at = export[at + 8 : at + 8 + size], at + 8 + size + 1
        entry.append((name.decode(), value))
    if entry:
        yield entry


_LABELS = r"""
set -eu
docker container ls -aq | xargs -r docker container inspect -f '["container",{{json .Name}},{{json .Config.Labels}}]'
docker image ls -aq | sort -u | xargs -r docker image inspect -f '["image",{{json .RepoTags}},{{json .Config.Labels}}]'
docker network ls -q | xargs -r docker network inspect -f '["network",{{json .Name}},{{json .Labels}}]'
docker volume ls -q | xargs -r docker volume inspect -f '["volume",{{json .Name}},{{json .Labels}}]'
"""


def in_labels(canaries: Canaries, host: FreshHost) -> list[str]:
    """In names and labels of all containers, images, networks and volumes."""
    with _output(canaries, host, _LABELS) as stream:
        lines = stream.read().splitlines()
    if not lines:  # there are always three networks
        raise RunError("docker on the host listed nothing")
    found = set()
    for line in lines:
        kind, names, labels = json.loads(line)
        called = " ".join(names) if isinstance(names, list) else names or ""
        for label, text in {"": called, **(labels or {})}.items():
            where = canaries.masked(f"{kind} {called} {label}".strip())
            found |= {f"label {where}: {hit}" for hit in canaries.find(f"{label}={text}".encode())}
    return sorted(found)


def in_layers(canaries: Canaries, host: FreshHost) -> list[str]:
    """In every layer and configuration of every image on the host, intermediate ones too."""
    with _output(canaries, host, "docker image ls -aq --no-trunc") as stream:
        images = b"\0".join({*stream.read().split()})
    if not images:
        return []
    with _output(canaries, host, "xargs -0 docker image save", images) as stream:
        return in_saved(canaries, stream)


def in_saved(canaries: Canaries, stream: IO[bytes]) -> list[str]:
    """In what `docker image save` writes: names and contents of layers, compressed or not, and every other blob."""
    found = []
    with tarfile.open(fileobj=stream, mode="r|", bufsize=CHUNK) as saved:
        for member in saved:
            where = canaries.masked(re.sub(r"([0-9a-f]{12})[0-9a-f]{52}", r"\1", member.name))
            found += [f"image {where}: {hit}" for hit in _in_member(canaries, member)]
            blob = saved.extractfile(member) if member.isreg() else None
            if blob is not None:
                found += [f"image {where}{line}" for line in _in_blob(canaries, io.BufferedReader(blob, CHUNK))]
    return found


def _in_blob(canaries: Canaries, blob: io.BufferedReader[Any]) -> Iterator[str]:
    """Lines "[ FILE IN LAYER]: NAME as FORM"."""
    head = blob.peek(512)
    if head.startswith(b"\x1f\x8b"):
        blob = io.BufferedReader(gzip.GzipFile(fileobj=blob), CHUNK)
    elif head.startswith(b"\x28\xb5\x2f\xfd"):
        plain = subprocess.run(["zstd", "-dcq"], input=blob.read(), capture_output=True, check=True).stdout
        blob = io.BufferedReader(io.BytesIO(plain), CHUNK)
    if blob.peek(512)[257:262] != b"ustar":
        yield from (f": {hit}" for hit in canaries.find_in(_chunks(blob)))
        return
    with tarfile.open(fileobj=blob, mode="r|", bufsize=CHUNK) as layer:
        for member in layer:
            file = layer.extractfile(member) if member.isreg() else None
            hits = _in_member(canaries, member) + (canaries.find_in(_chunks(file)) if file else [])
            yield from (f" {canaries.masked(member.name)}: {hit}" for hit in hits)


def _in_member(canaries: Canaries, member: tarfile.TarInfo) -> list[str]:
    """In what a tar says of a file besides its content: names, link target, owner, extended attributes."""
    __tracebackhide__ = True
    texts = [member.name, member.linkname, member.uname, member.gname, *member.pax_headers.values()]
    return canaries.find("\0".join(texts).encode(errors="surrogateescape"))


def in_container_logs(canaries: Canaries, host: FreshHost) -> list[str]:
    """In what any container of the host said, on stdout and stderr."""
    with _output(canaries, host, "docker container ls -a --no-trunc --format '{{.ID}} {{.Names}}'") as stream:
        containers = [line.split(" ", 1) for line in stream.read().decode().splitlines()]
    found = []
    for identity, name in containers:
        with _output(canaries, host, f"docker container logs {identity} 2>&1") as stream:
            found += [f"log of {canaries.masked(name)}: {hit}" for hit in canaries.find_in(_chunks(stream))]
    return found


@contextmanager
def _output(canaries: Canaries, host: FreshHost, script: str, stdin: bytes = b"") -> Iterator[IO[bytes]]:
    """stdout of a script run as root on the host, byte for byte; RunError when it fails or complains."""
    __tracebackhide__ = True
    line = ["docker", "exec", "-i", host.container, "sh", "-c", script]
    with (
        os.fdopen(os.memfd_create("stderr"), "w+b") as complaints,
        subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=complaints) as process,
    ):
        assert process.stdin and process.stdout
        with contextlib.suppress(BrokenPipeError), process.stdin:
            process.stdin.write(stdin)
        try:
            yield process.stdout
            while process.stdout.read(CHUNK):
                pass
        finally:  # also when the reader failed: what the program said is the cause
            process.stdout.close()
            code = process.wait()
            complaints.seek(0)
            said = complaints.read()
            if code or said:
                raise RunError(f"{script.strip()[:100]}\nexit {code}\n{canaries.masked(said)[-1000:]}")


# -- command lines ------------------------------------------------------------------------------------------------


class Processes:
    """Collects the command lines of all processes of this machine, those of its containers too, while a block runs.

    A program of its own reads /proc/*/cmdline again and again, and at once when the kernel tells of an exec (`events`:
    it does so, for root outside of containers): many a process is over before the next round.
    `samples`: rounds. `seen`: distinct command lines. `lost`: the kernel had to drop events.
    """

    def __init__(self) -> None:
        self.samples = self.seen = 0
        self.events = self.lost = False
        self._lines: list[bytes] = []

    def __enter__(self) -> Processes:
        line = [sys.executable, "-m", __name__]
        pipe = subprocess.PIPE
        self._sampler = subprocess.Popen(line, cwd=PROJECT, stdin=pipe, stdout=pipe, start_new_session=True)
        assert self._sampler.stdout
        if self._sampler.stdout.readline() != b"ready\n":
            self._sampler.kill()
            raise RunError("the sampler of processes did not start")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        told = json.loads(self._sampler.communicate()[0])
        self.samples, self.events, self.lost = told["samples"], told["events"], told["lost"]
        self._lines = [line.encode("latin-1") for line in told["lines"]]
        self.seen = len(self._lines)

    def findings(self, canaries: Canaries) -> list[str]:
        """After the block: "process COMMAND: NAME as FORM"."""
        found = []
        for line in self._lines:
            shown = canaries.masked(line.replace(b"\0", b" ").strip())[:80]
            found += [f"process {shown}: {hit}" for hit in canaries.find(line)]
        return sorted(found)


def _sample() -> None:
    """The sampler: says "ready", works until its stdin ends, then tells all as JSON."""
    gc.disable()
    with contextlib.suppress(OSError):  # who comes late finds the process gone
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    lines: set[bytes] = set()
    kernel_threads: set[str] = set()
    samples, due_s, lost = 0, 0.0, False
    events = _exec_events()
    sources: list[int | socket.socket] = [0, events] if events else [0]
    while True:
        started_s = time.monotonic()
        if started_s >= due_s:
            for pid in os.listdir("/proc"):  # noqa: PTH208
                if pid.isdigit() and pid not in kernel_threads:
                    line = _command_line(pid)
                    lines.add(line)
                    if not line and _parent(pid) in ("0", "2"):
                        kernel_threads.add(pid)
            samples += 1
            if samples == 1:
                print("ready", flush=True)
            ended_s = time.monotonic()
            pause_s = 0.05 if events else 0.003
            due_s = ended_s + max(pause_s, 3 * (ended_s - started_s))  # at most a quarter of a core
        readable = select.select(sources, [], [], max(0.0, due_s - time.monotonic()))[0]
        if events and events in readable:
            try:
                lines.update(map(_command_line, _executed(events)))
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                lost = True
        if 0 in readable:
            break
    told = {"samples": samples, "events": bool(events), "lost": lost}
    print(json.dumps({**told, "lines": sorted(line.decode("latin-1") for line in lines if line)}))


def _command_line(pid: str) -> bytes:
    try:
        with open(f"/proc/{pid}/cmdline", "rb", buffering=0) as file:  # noqa: PTH123  (faster than Path)
            return file.read()
    except OSError:
        return b""


def _parent(pid: str) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]
    return ""


# From linux/netlink.h, linux/connector.h and linux/cn_proc.h.
_CONNECTOR, _PROCESSES, _DONE, _LISTEN, _EXEC = 11, 1, 3, 1, 2
_HEADER, _MESSAGE, _EVENT = struct.Struct("=IHHII"), struct.Struct("=IIIIHH"), struct.Struct("=IIQII")


def _exec_events() -> socket.socket | None:
    """The kernel's news about processes; None when it does not tell us."""
    try:
        events = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, _CONNECTOR)
        events.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        events.bind((os.getpid(), _PROCESSES))
        order = _MESSAGE.pack(_PROCESSES, 1, 0, 0, 4, 0) + struct.pack("=I", _LISTEN)
        events.send(_HEADER.pack(_HEADER.size + len(order), _DONE, 0, 0, os.getpid()) + order)
    except OSError:
        return None
    acknowledged = select.select([events], [], [], 0.2)[0]
    return events if acknowledged else None


def _executed(events: socket.socket) -> Iterator[str]:
    """The ids of the processes of all pending events that are an exec."""
    with contextlib.suppress(BlockingIOError):
        while True:
            what, _, _, _, pid = _EVENT.unpack_from(events.recv(4096), _HEADER.size + _MESSAGE.size)
            if what == _EXEC:
                yield str(pid)


_RECORD = """#!/bin/bash
# Records what sshd was asked to run, then runs it as sshd would have.
(umask 077; printf '%s\\0' "${{SSH_ORIGINAL_COMMAND-}}" >> {folder}/$$)
command=${{SSH_ORIGINAL_COMMAND-}}
unset SSH_ORIGINAL_COMMAND SHLVL OLDPWD
case $command in
'') exec -a "-${{SHELL##*/}}" "$SHELL" ;;
internal-sftp*) command=/usr/lib/openssh/sftp-server ;;
esac
exec -a "${{SHELL##*/}}" "$SHELL" -c "$command"
"""


class SshCommands:
    """Records every command that sshd of a host is asked to run for `admin`, verbatim, while a block runs.

    What runs, its streams and its exit code stay as they were. `folder`: where the record lies on the host (0700 of
    `admin`; a file for each process, every command ended by NUL); gone after the block.
    """

    folder = "/var/log/rehearsal-ssh"
    _PROGRAM = "/usr/local/sbin/rehearsal-ssh"
    _CONFIG = "/etc/ssh/sshd_config.d/rehearsal-ssh.conf"

    def __init__(self, host: FreshHost) -> None:
        self._host = host
        self._kept: list[bytes] | None = None

    def __enter__(self) -> SshCommands:
        forced = f"Match User admin\n    ForceCommand {self._PROGRAM}\nMatch all\n"
        self._host.root(f"install -d -o admin -g admin -m 700 {self.folder}", check=True)
        self._host.root(
            f"cat > {self._PROGRAM} && chmod 755 {self._PROGRAM}", _RECORD.format(folder=self.folder), check=True
        )
        self._host.root(f"cat > {self._CONFIG} && sshd -t && systemctl reload ssh", forced, check=True)
        wait_for(lambda: self._host.ssh("true").rc == 0 and self.count > 0, "sshd to record what it runs", 10)
        self._host.root(f"rm {self.folder}/*", check=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._kept = self._commands()
        self._host.root(f"rm {self._CONFIG} && systemctl reload ssh && rm -r {self._PROGRAM} {self.folder}", check=True)
        wait_for(lambda: self._host.ssh("true").rc == 0, "sshd without the record", 10)

    @property
    def count(self) -> int:
        """How many commands there were."""
        return len(self._commands())

    def findings(self, canaries: Canaries) -> list[str]:
        """In the block or after it: "ssh COMMAND: NAME as FORM"."""
        found = []
        for command in self._commands():
            shown = " ".join(canaries.masked(command).split())[:80]
            found += [f"ssh {shown}: {hit}" for hit in canaries.find(command)]
        return sorted(found)

    def _commands(self) -> list[bytes]:
        if self._kept is not None:
            return self._kept
        with _output(Canaries({}), self._host, f"find {self.folder} -type f -exec cat {{}} +") as stream:
            return stream.read().split(b"\0")[:-1]


if __name__ == "__main__":
    _sample()

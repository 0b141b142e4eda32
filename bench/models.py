"""The fetch against `curl --parallel`, from the same hub on this machine, the same files, in the same run; and what one
and three hosts ask the hub for, when they give models to each other.

    python -m bench.models [--rounds 3] [--folder /dev/shm] [--large 4096] [--small 1000] [--away 50] [--shared 1024]
                           [--connections 16]

Large: files of 1 GiB, `--large` MiB in all. Small: files of 4 KiB. Both: all of them in one go. Far: the small ones,
from a hub whose answers take `--away` ms, as a real one's do. Each round runs fetch and curl, in turn, into a new
folder, over as many connections at most (`--connections` gives curl others; 50 are its default); the best of each
counts. The fetch hashes, syncs to the disk, links and writes a manifest meanwhile; curl only writes.

Files that were removed lately make ext4 look for room for new ones many times as long, for minutes, and small files are
those that feel it: a folder of a disk where nothing was removed in the last five minutes, or `--folder /dev/shm`.

The hub is the rehearsals' own, in a process of its own, on the same cores: where they are few and busy, the processor's
seconds tell more than the ratio, and where those of the hub are near the time that passed, it is the hub that is timed.

Shared: `--shared` MiB in 8 files that no host has. Hosts are folders here, who gives what to whom is decided as in a
run, and the programs that give and take are joined by a socket in the place of two SSH connections.
"""

from __future__ import annotations

import argparse
import functools
import os
import resource
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from gpuhost.models import neighbours
from gpuhost.models.neighbours import Blob, Given, HostModels, MissingFile, MissingModel, blob
from gpuhost.run import stream
from hostside import hub_cache
from hostside.models.fetch import AT_ONCE, SMALL_AT_ONCE
from hostside.protocol.model_peer import GivenFile, GiveRequest, TakenFile, TakeReady, TakeRequest
from hostside.protocol.models import ModelFile, ModelsRequest
from hostside.wire import from_host, to_json
from tests.rehearsal.standins.hub import HubStore

REPO = "bench/model"
_SERVE = """
import sys, time
from pathlib import Path
from tests.rehearsal.standins.local import LocalHub
hub = LocalHub(Path(sys.argv[1]))
hub.away_s = float(sys.argv[2])
print(hub.url, flush=True)
for asked in sys.stdin:
    print(hub.sent_bytes, time.process_time(), flush=True)
"""
SECRET = "of-the-bench"  # noqa: S105


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--large", type=int, default=4096, metavar="MIB")
    parser.add_argument("--small", type=int, default=1000, metavar="FILES")
    parser.add_argument("--away", type=int, default=50, metavar="MS")
    parser.add_argument("--shared", type=int, default=1024, metavar="MIB")
    parser.add_argument("--connections", type=int, default=SMALL_AT_ONCE, metavar="N")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gpuhost-bench-", dir=asked.folder) as folder:
        large, small = _large(Path(folder), asked.large), _small(asked.small)
        compare("large", Path(folder), large, AT_ONCE, asked.rounds)
        compare("both", Path(folder), {**large, **small}, asked.connections, asked.rounds)
        compare("small", Path(folder), small, asked.connections, asked.rounds)
        compare("far", Path(folder), small, asked.connections, asked.rounds, asked.away / 1000)
        for hosts in (1, 3):
            share(Path(folder) / f"shared-{hosts}", hosts, asked.shared)


def _large(folder: Path, mib: int) -> dict[str, bytes | Path]:
    """Files of 1 GiB, each with other bytes."""
    piece, found = os.urandom(1 << 20), {}
    for number in range(max(1, mib // 1024)):
        path = folder / f"source-{number}"
        with path.open("wb") as file:
            file.write(number.to_bytes(8))
            for _ in range(min(mib, 1024)):
                file.write(piece)
        found[f"model-{number}.safetensors"] = path
    return dict(found)


def _small(count: int) -> dict[str, bytes | Path]:
    return {f"folder {number % 10}/{number}.bin": os.urandom(4096) for number in range(count)}


@dataclass(frozen=True)
class Taken:
    """What a run took: `hub_s`: of the processor, by the hub."""

    seconds: float
    processor_s: float
    hub_s: float


def compare(
    name: str, folder: Path, files: dict[str, bytes | Path], at_once: int, rounds: int, away_s: float = 0.0
) -> None:
    """Prints the time of each, and the ratio: above 1 the fetch is faster."""
    data = folder / f"hub-{name}"
    commit = HubStore(data).add(REPO, files, gated=False, commit=None)
    in_turn = []
    with _hub(data, away_s) as hub:
        for number in range(rounds):
            ours, curls = folder / name / f"fetch-{number}", folder / name / f"curl-{number}"
            request = _request(ours, data, commit)
            fetch = _timed(hub, functools.partial(_fetch, hub.url, request))
            curl = _timed(hub, functools.partial(_curl, hub.url, request, curls, at_once))
            in_turn.append({"fetch": fetch, "curl": curl})
            # Many files are not removed before the end of all: ext4 makes one slowly for minutes after that.
            large = ["-type", "f", "-size", "+1M", "-delete"]
            subprocess.run(["find", ours, curls, *large], check=True)
    total = sum(file.size for file in request.files)
    best = {each: min((taken[each] for taken in in_turn), key=lambda taken: taken.seconds) for each in in_turn[0]}
    for each, taken in best.items():
        rates = f"{total / taken.seconds / 1e6:8.1f} MB/s  {len(files) / taken.seconds:7.1f} files/s"
        processor = f"{taken.processor_s:6.2f} s of the processor, the hub {taken.hub_s:.2f} s"
        print(f"{name:6} {each:6} {taken.seconds:7.2f} s  {rates} {processor}")
    ratio = best["curl"].seconds / best["fetch"].seconds
    print(f"{name:6} ratio  {ratio:7.2f}  (curl's time / the fetch's; load {os.getloadavg()[0]:.1f})", flush=True)


def share(folder: Path, hosts: int, mib: int) -> None:
    """Prints what so many hosts that lack the same files need, and how much of it the hub sent."""
    piece = os.urandom(mib * 2**20 // 8)
    files: dict[str, bytes | Path] = {f"model-{number}.bin": bytes([number]) + piece[1:] for number in range(8)}
    commit = HubStore(folder / "data").add(REPO, files, gated=False, commit=None)
    with _hub(folder / "data") as hub:
        began = time.monotonic()
        requests = {f"host-{n}": _request(folder / f"host-{n}", folder / "data", commit) for n in range(hosts)}
        need = _fetch_from_each_other(hub.url, requests)
        seconds = time.monotonic() - began
        sent, _ = hub.so_far()
    subprocess.run(["rm", "-rf", folder], check=True)
    many = "1 host " if hosts == 1 else f"{hosts} hosts"
    print(f"shared {many} {need / 1e6:8.1f} MB needed, {sent / 1e6:8.1f} MB from the hub, {seconds:.2f} s", flush=True)


def _fetch_from_each_other(url: str, requests: dict[str, ModelsRequest]) -> int:
    """Each host in its turn; how many bytes all of them needed."""
    lacking = {name: HostModels({}, [_missing(request.files)]) for name, request in requests.items()}
    turns = neighbours.decided(lacking)
    for name, request in sorted(requests.items(), key=lambda each: turns[each[0]]["bench"].wave):
        given = turns[name]["bench"].given
        givers = {each.host for each in given.values()}
        with _joined(requests, request, given) if givers else _alone() as address:
            files = [replace(each, peers=[address] if blob(each) in given else []) for each in request.files]
            _fetch(url, replace(request, files=files, peer_secret=SECRET))
    return sum(file.size for request in requests.values() for file in request.files)


def _missing(files: Sequence[ModelFile]) -> MissingModel:
    at = [hub_cache.snapshot("", each.repo, each.commit, each.file).lstrip("/") for each in files]
    return MissingModel("bench", [MissingFile(blob(each), each.size, at) for each, at in zip(files, at, strict=True)])


@dataclass(frozen=True)
class _Serving:
    """The hub, in a process of its own."""

    url: str
    process: subprocess.Popen[str]

    def so_far(self) -> tuple[int, float]:
        """Bytes that it sent, and its processor's seconds."""
        assert self.process.stdin and self.process.stdout
        print("?", file=self.process.stdin, flush=True)
        sent, processor_s = self.process.stdout.readline().split()
        return int(sent), float(processor_s)


@contextmanager
def _hub(data: Path, away_s: float = 0.0) -> Iterator[_Serving]:
    serving = [sys.executable, "-c", _SERVE, str(data), str(away_s)]
    with subprocess.Popen(serving, cwd=Path(__file__).parents[1], stdin=-1, stdout=-1, text=True) as process:
        assert process.stdin and process.stdout
        yield _Serving(process.stdout.readline().strip(), process)
        process.stdin.close()


@contextmanager
def _alone() -> Iterator[str]:
    yield ""


@contextmanager
def _joined(requests: dict[str, ModelsRequest], taker: ModelsRequest, given: Mapping[Blob, Given]) -> Iterator[str]:
    """Where the one host that gives answers."""
    [giver] = {each.host for each in given.values()}
    files = [each for each in taker.files if blob(each) in given]
    gives = GiveRequest([GivenFile(given[blob(each)].at, each.size) for each in files], requests[giver].cache_dir)
    takes = TakeRequest([TakenFile(f.repo, f.commit, f.file, f.size, blob(f)[1]) for f in files], SECRET)
    giving, taking = _program("give", to_json(gives)), _program("take", to_json(takes))
    port = from_host(TakeReady, stream.line(taking, 200)).port
    pumps = [threading.Thread(target=stream.hand_on, args=ends) for ends in ((giving, taking), (taking, giving))]
    for pump in pumps:
        pump.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        # They close both: a socket that is closed while another thread reads it may become the next one's under its
        # hands. Where a program has ended they have done so.
        with suppress(OSError):
            giving.shutdown(socket.SHUT_RDWR)
        for pump in pumps:
            pump.join()


def _program(action: str, request: str) -> socket.socket:
    ours, its = socket.socketpair()
    with its:
        command = [sys.executable, "-I", "-B", "-m", "hostside.model_peer", action]
        subprocess.Popen(command, stdin=its.fileno(), stdout=its.fileno())
    ours.sendall(f"{request}\n".encode())
    return ours


def _timed(hub: _Serving, run: Callable[[], None]) -> Taken:
    os.sync()
    began, before, hub_before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN), hub.so_far()[1]
    run()
    seconds, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    processor_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Taken(seconds, processor_s, hub.so_far()[1] - hub_before)


def _request(host: Path, data: Path, commit: str) -> ModelsRequest:
    meta = HubStore(data).read(REPO)
    assert meta
    files = [
        ModelFile(
            model="bench",
            repo=REPO,
            commit=commit,
            file=path,
            size=entry["size"],
            sha256=entry["lfs"]["oid"] if "lfs" in entry else None,
            git_sha1=entry["oid"],
            links=[],
            action="fetch",
            gated=False,
        )
        for path, entry in meta["commits"][commit].items()
    ]
    return ModelsRequest(files, [], str(host / "hub"), str(host / "models"), str(host / "manifest.json"), 60.0)


def _fetch(url: str, request: ModelsRequest) -> None:
    environ = {**os.environ, "HF_ENDPOINT": url}
    program = [sys.executable, "-I", "-B", "-m", "hostside.models"]
    subprocess.run(program, env=environ, input=to_json(request), text=True, stdout=subprocess.DEVNULL, check=True)


def _curl(url: str, request: ModelsRequest, folder: Path, at_once: int) -> None:
    lines = []
    for file in request.files:
        path = file.file.replace(" ", "%20")
        lines += [f'url = "{url}/{file.repo}/resolve/{file.commit}/{path}"', f'output = "{folder / file.file}"']
    command = [
        "curl",
        "--silent",
        "--show-error",
        "--fail",
        "--no-progress-meter",
        "--parallel",
        "--parallel-max",
        str(at_once),
    ]
    subprocess.run([*command, "--create-dirs", "--config", "-"], input="\n".join(lines), text=True, check=True)


if __name__ == "__main__":
    main()

"""The fetch against `curl --parallel`, from the same hub on this machine, the same files, in the same run.

    python -m bench.models [--rounds 3] [--folder /dev/shm] [--large 4096] [--small 1000]

Large: files of 1 GiB, `--large` MiB in all. Small: files of 4 KiB. Each round runs both, in turn, into an empty folder;
the best of each counts. The fetch hashes, syncs to the disk, links and writes a manifest meanwhile; curl only writes. The
hub is the rehearsals' own, in a process of its own, on the same cores: where they are few and busy, the processor's
seconds tell more than the ratio.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from hostside.protocol import ModelFile, ModelsRequest
from hostside.wire import to_json
from tests.rehearsal.standins.hub import HubStore

REPO = "bench/model"
AT_ONCE = 8
_SERVE = """
import sys
from pathlib import Path
from tests.rehearsal.standins.local import LocalHub
hub = LocalHub(Path(sys.argv[1]))
print(hub.url, flush=True)
sys.stdin.read()
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--large", type=int, default=4096, metavar="MIB")
    parser.add_argument("--small", type=int, default=1000, metavar="FILES")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gpuhost-bench-", dir=asked.folder) as folder:
        for name, files in (("large", _large(Path(folder), asked.large)), ("small", _small(asked.small))):
            compare(name, Path(folder), files, asked.rounds)


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


def compare(name: str, folder: Path, files: dict[str, bytes | Path], rounds: int) -> None:
    """Prints the time of each, and the ratio: above 1 the fetch is faster."""
    data = folder / f"hub-{name}"
    commit = HubStore(data).add(REPO, files, gated=False, commit=None)
    serving = [sys.executable, "-c", _SERVE, str(data)]
    with subprocess.Popen(serving, cwd=Path(__file__).parents[1], stdin=-1, stdout=-1, text=True) as hub:
        assert hub.stdout is not None and hub.stdin is not None
        url = hub.stdout.readline().strip()
        request = _request(folder / "host", data, commit)
        total = sum(file.size for file in request.files)
        runs: dict[str, Callable[[], None]] = {
            "fetch": lambda: _fetch(url, request),
            "curl": lambda: _curl(url, request, folder / "curl"),
        }
        in_turn = [{each: _timed(run, folder) for each, run in runs.items()} for _ in range(rounds)]
        best = {each: min(seconds[each] for seconds in in_turn) for each in runs}
        hub.stdin.close()
    for each, (seconds, processor_s) in best.items():
        rates = f"{total / seconds / 1e6:8.1f} MB/s  {len(files) / seconds:7.1f} files/s"
        print(f"{name:6} {each:6} {seconds:7.2f} s  {rates}  {processor_s:6.2f} s of the processor")
    ratio = best["curl"][0] / best["fetch"][0]
    print(f"{name:6} ratio  {ratio:7.2f}  (curl's time / the fetch's; load {os.getloadavg()[0]:.1f})", flush=True)


def _timed(run: Callable[[], None], folder: Path) -> tuple[float, float]:
    """Seconds, and those of the processor that the program used."""
    subprocess.run(["rm", "-rf", folder / "host", folder / "curl"], check=True)
    os.sync()
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    run()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.monotonic() - began, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


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


def _curl(url: str, request: ModelsRequest, folder: Path) -> None:
    lines = []
    for file in request.files:
        path = file.file.replace(" ", "%20")
        lines += [f'url = "{url}/{file.repo}/resolve/{file.commit}/{path}"', f'output = "{folder / file.file}"']
    command = ["curl", "--silent", "--show-error", "--fail", "--parallel", "--parallel-max", str(AT_ONCE)]
    subprocess.run([*command, "--create-dirs", "--config", "-"], input="\n".join(lines), text=True, check=True)


if __name__ == "__main__":
    main()

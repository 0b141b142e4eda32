"""Runs the unit tests against changed code, and prints what no test noticed.

    python -m tests.mutation [--sample N] [--seed S] [--every] [--jobs J] [GLOB ...]

The tests of a module: the folder of tests/unit that mirrors its room, and every file that imports it. They run in a
copy of the tree (tracked files and what git does not ignore), one copy a job, each mutant in a process of its own
with a time limit. Exit: 0 at least 95 % killed, 1 fewer, 2 the tests fail without any change, or a listed change is no
more.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import gc
import importlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pytest

from tests.mutation.changes import Change, changes
from tests.mutation.decisions import DECISIONS, EQUIVALENT

PROJECT = Path(__file__).parents[2]
SOURCES = (".", "files/host", "files/orchestrator")  # where packages are imported from
TARGET = 0.95
SAMPLE = 400
# A mutant may be as much slower than the code, on a busy machine, before it counts as an endless loop.
SLOWER, LIMIT_S_MIN = 4, 30.0
POLL_S = 0.02
# By a file's time Python knows of which content its bytecode is.
CODES_TIME_S, MUTANTS_TIME_S = 10**9, 2 * 10**9
# What tests import of others: read once, so that a mutant's process starts with it. Nothing of ours is among them.
PRELOADED = ("docker", "fastapi", "huggingface_hub", "hypothesis", "jinja2", "pyrage", "pydantic", "uvicorn", "yaml")


@dataclass(frozen=True)
class Mutant:
    """`file`: from the project's root; `source`: its bytes when the run began; `source_line`: the one that changes."""

    file: str
    change: Change
    source: bytes
    source_line: str

    def __str__(self) -> str:
        return f"{self.file}:{self.change.line}: {self.change.shown}\n    {self.source_line}"

    @property
    def why_equivalent(self) -> str | None:
        return next((why for *key, why in EQUIVALENT if self.is_the_listed(*key)), None)

    def is_the_listed(self, file: str, piece: str, shown: str) -> bool:
        return file == self.file and piece in self.source_line and shown == self.change.shown


@dataclass(frozen=True)
class Job:
    """One run of tests in one copy of the tree, in a process of its own."""

    copy: Path
    tests: Sequence[str]
    mutant: Mutant | None
    pid: int
    began_s: float
    limit_s: float

    @property
    def output(self) -> Path:
        return self.copy.with_suffix(".log")


def mutants_of(file: str) -> list[Mutant]:
    source = (PROJECT / file).read_bytes()
    lines = source.decode().splitlines()
    return [Mutant(file, change, source, lines[change.line - 1].strip()) for change in changes(source)]


def files_of(globs: Sequence[str]) -> list[str]:
    found = {path for pattern in globs for path in PROJECT.glob(pattern)}
    return sorted(str(path.relative_to(PROJECT)) for path in found if not path.name.startswith("__"))


def tests_of(file: str, imports: dict[str, set[str]]) -> list[str]:
    """The files of tests for a module, those that are named like it first. `imports`: file of tests -> modules."""
    path = Path(file)
    source = max((each for each in SOURCES if path.is_relative_to(each)), key=len)
    parts = path.with_suffix("").relative_to(source).parts
    module = ".".join(parts)
    room = f"tests/unit/{parts[1] if parts[0] == 'gpuhost' else parts[0]}/"
    named = {f"test_{part}" for part in parts[1:]}
    found = [test for test in imports if test.startswith(room) or module in imports[test]]
    return sorted(found, key=lambda test: (Path(test).stem not in named, not test.startswith(room), test))


def imports_of_tests() -> dict[str, set[str]]:
    return {
        str(path.relative_to(PROJECT)): set(_imported(ast.parse(path.read_bytes())))
        for path in sorted((PROJECT / "tests" / "unit").rglob("test_*.py"))
    }


def _imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def copy_tree(to: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=PROJECT,
        check=True,
        capture_output=True,
    ).stdout
    for name in filter(None, listed.decode().split("\0")):
        if (PROJECT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(PROJECT / name, to / name)
            os.utime(to / name, (CODES_TIME_S, CODES_TIME_S))
    # Some tests ask git what it ignores.
    subprocess.run(["git", "init", "-q"], cwd=to, check=True)
    subprocess.run(["git", "add", "-A"], cwd=to, check=True)


def _write(path: Path, content: bytes, time_s: float) -> None:
    path.write_bytes(content)
    os.utime(path, (time_s, time_s))


def start(copy: Path, tests: Sequence[str], mutant: Mutant | None, limit_s: float) -> Job:
    """Forks: the process has the mutant in its copy of the tree and the tests' imports in its memory."""
    if mutant:
        _write(copy / mutant.file, mutant.change.apply(mutant.source), MUTANTS_TIME_S)
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        code = 3
        try:
            code = _in_child(copy, tests, mutant is not None)
        finally:
            os._exit(code)
    return Job(copy, tests, mutant, pid, time.monotonic(), limit_s)


def _in_child(copy: Path, tests: Sequence[str], mutated: bool) -> int:
    os.setsid()
    with copy.with_suffix(".log").open("wb") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    os.chdir(copy)
    paths = [str(copy / source) for source in SOURCES]
    # Before the editable install, which leads to the tree that was copied; in programs that tests start, too.
    sys.path[:0] = paths
    os.environ.update(PYTHONPATH=os.pathsep.join(paths[:2]))
    if mutated:  # its bytecode would be taken for the code's
        os.environ.update(PYTHONDONTWRITEBYTECODE="1")
        sys.dont_write_bytecode = True
    for name in [name for name in sys.modules if name == "tests" or name.startswith("tests.")]:
        del sys.modules[name]
    arguments = [
        "-x",
        "-q",
        "--no-header",
        "--tb=short",
        "-o",
        "addopts=",
        "--strict-markers",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
    ]
    return pytest.main([*arguments, "--hypothesis-seed=0", "-W", "ignore", *tests])


def finish(job: Job) -> int | None:
    """The exit code of its tests, None while they run; a negative one when the limit passed."""
    pid, status = os.waitpid(job.pid, os.WNOHANG)
    late = time.monotonic() - job.began_s > job.limit_s
    if pid == 0 and not late:
        return None
    with contextlib.suppress(ProcessLookupError):  # all have ended
        os.killpg(job.pid, signal.SIGKILL)  # programs that its tests left behind, too
    if pid == 0:
        os.waitpid(job.pid, 0)
    if job.mutant:
        _write(job.copy / job.mutant.file, job.mutant.source, CODES_TIME_S)
    shutil.rmtree(job.copy / ".hypothesis", ignore_errors=True)  # examples that another mutant failed at
    return -1 if pid == 0 else os.waitstatus_to_exitcode(status)


def run_all(
    todo: Sequence[tuple[Sequence[str], Mutant | None, float]], copies: Sequence[Path]
) -> Iterator[tuple[Job, int]]:
    """Each (tests, mutant, limit) in the next free copy; yields as they end."""
    waiting, free, running = list(reversed(todo)), list(copies), list[Job]()
    try:
        while waiting or running:
            while waiting and free:
                running.append(start(free.pop(), *waiting.pop()))
            time.sleep(POLL_S)
            for job in list(running):
                code = finish(job)
                if code is not None:
                    running.remove(job)
                    free.append(job.copy)
                    yield job, code
    finally:
        for job in running:
            os.killpg(job.pid, signal.SIGKILL)


def preload() -> None:
    with mock.patch("gevent.monkey.patch_all"):  # as tests/unit/conftest.py does
        importlib.import_module("pyinfra_cli.util")
    for name in PRELOADED:
        importlib.import_module(name)
    ours = [name for name in sys.modules if name.partition(".")[0] in ("gpuhost", "hostside", "orchestrator")]
    assert not ours, ours
    gc.freeze()  # or each process looks through all of it


def baseline(tests: Sequence[str], copies: Sequence[Path]) -> dict[str, float]:
    """File of tests -> seconds it takes. Exits when one fails without any change."""
    for copy in copies:  # each gets its bytecode
        assert next(run_all([(["--collect-only", *tests], None, 600.0)], [copy]))[1] == 0
    took = {}
    for job, code in run_all([([test], None, 600.0) for test in tests], copies):
        if code != 0:
            print(job.output.read_text(errors="replace")[-4000:])
            sys.exit(f"error: {job.tests[0]} fails without any change\nhint: make unit")
        took[job.tests[0]] = time.monotonic() - job.began_s
    return took


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="tests.mutation", description="How many changes of the code the unit tests notice."
    )
    parser.add_argument("globs", nargs="*", default=DECISIONS, help="modules, from the project's root")
    parser.add_argument("--sample", type=int, default=SAMPLE, help="how many mutants (%(default)s)")
    parser.add_argument("--every", action="store_true", help="all of them; hours")
    parser.add_argument("--seed", type=int, default=1, help="which ones are drawn (%(default)s)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    asked = parser.parse_args()
    every = [mutant for file in files_of(asked.globs) for mutant in mutants_of(file)]
    equivalent = [mutant for mutant in every if mutant.why_equivalent]
    gone = [
        key
        for key in EQUIVALENT
        if key[0] in files_of(asked.globs) and not any(m.is_the_listed(*key[:3]) for m in equivalent)
    ]
    for file, piece, shown, _ in gone:
        print(
            f"error: {file}: no change {shown!r} at {piece!r} any more\nhint: take it out of decisions.py",
            file=sys.stderr,
        )
    if gone:
        return 2
    counted = [mutant for mutant in every if not mutant.why_equivalent]
    if not asked.every and asked.sample < len(counted):
        drawn = set(random.Random(asked.seed).sample(range(len(counted)), asked.sample))
        counted = [mutant for index, mutant in enumerate(counted) if index in drawn]
    imports = imports_of_tests()
    tests = {file: tests_of(file, imports) for file in {mutant.file for mutant in counted}}
    preload()
    with tempfile.TemporaryDirectory(prefix="gpuhost-mutation-") as folder:
        copies = [Path(folder, str(index)) for index in range(asked.jobs)]
        for copy in copies:
            copy_tree(copy)
        took = baseline(sorted({test for files in tests.values() for test in files}), copies)
        limits = {file: max(LIMIT_S_MIN, SLOWER * sum(took[test] for test in tests[file])) for file in tests}
        lived, endless = list[Mutant](), 0
        for job, code in run_all([(tests[m.file], m, limits[m.file]) for m in counted], copies):
            assert job.mutant
            endless += code < 0
            if code == 0:
                lived.append(job.mutant)
                print(job.mutant, flush=True)
    killed = len(counted) - len(lived)
    print(
        f"{len(counted)} mutants of {len(every) - len(equivalent)} in {len(tests)} modules (seed {asked.seed}), "
        f"{killed} killed ({endless} by the time limit), {len(lived)} lived: {killed / max(1, len(counted)):.1%}; "
        f"{len(equivalent)} more that mean nothing are listed in tests/mutation/decisions.py"
    )
    return 0 if killed >= TARGET * len(counted) else 1


if __name__ == "__main__":
    sys.exit(main())

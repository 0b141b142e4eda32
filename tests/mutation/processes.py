"""Runs tests in copies of the tree, each run in a process of its own that may have a mutant in its copy."""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import threading
import time
import venv
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import CodeType, FrameType
from typing import Any
from unittest import mock

import pytest

from tests.mutation.changes import Change

PROJECT = Path(__file__).parents[2]
SOURCES = (".", "files/host", "files/orchestrator")  # where packages are imported from
POLL_S = 0.02
# By a file's time Python knows of which content its bytecode is: the code has this one, each mutant a later one.
CODES_TIME_S = 10**9
# What tests import of others: read once, so that a mutant's process starts with it. Nothing of ours is among them.
PRELOADED = ("docker", "fastapi", "huggingface_hub", "hypothesis", "jinja2", "pyrage", "pydantic", "uvicorn", "yaml")
OPTIONS = (
    *("-x", "-q", "--no-header", "--tb=short", "--strict-markers", "-o", "addopts=", "-W", "ignore"),
    *("-p", "no:cacheprovider", "-p", "no:xdist", "--hypothesis-seed=0"),
)


@dataclass(frozen=True)
class Mutant:
    """`file`: from the project's root; `source`: its bytes when the run began; `source_line`: the one that changes."""

    file: str
    change: Change
    source: bytes
    source_line: str

    def __str__(self) -> str:
        return f"{self.file}:{self.change.line}: {self.change.shown}\n    {self.source_line}"


@dataclass(frozen=True)
class Task:
    """`tests`: files or functions, as pytest names them; without a mutant it is recorded what they reach."""

    tests: Sequence[str]
    mutant: Mutant | None
    limit_s: float


@dataclass(frozen=True)
class Result:
    """`code`: pytest's, negative when the limit passed."""

    task: Task
    code: int
    output: str
    reached: dict[str, Any]

    @property
    def noticed(self) -> bool:
        return self.code != 0


class Reached:
    """A plugin of pytest: for each function of tests its duration and the functions of the tree that it calls, as
    (file, first line)."""

    def __init__(self, tree: Path) -> None:
        self._tree = f"{tree}{os.sep}"
        self._ours: dict[CodeType, tuple[str, int] | None] = {}
        self._now: dict[str, Any] = {"seconds": 0.0, "functions": set()}
        self.by_test: dict[str, dict[str, Any]] = {}

    def follow(self) -> None:
        """From here on, in every thread."""
        sys.settrace(self._called)
        threading.settrace(self._called)

    def _called(self, frame: FrameType, event: str, argument: object) -> None:
        code = frame.f_code
        if code not in self._ours:
            name = code.co_filename
            ours = name.startswith(self._tree)
            self._ours[code] = (name.removeprefix(self._tree), code.co_firstlineno) if ours else None
        if (found := self._ours[code]) is not None:
            self._now["functions"].add(found)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        self._now = self.by_test.setdefault(item.nodeid.partition("[")[0], {"seconds": 0.0, "functions": set()})
        began_s = time.monotonic()
        try:
            return (yield)
        finally:
            self._now["seconds"] += time.monotonic() - began_s


class Running:
    """A process with its task."""

    def __init__(self, copy: Path, task: Task, number: int) -> None:
        """Forks: the new process has what tests import of others in its memory already."""
        self.copy, self.task = copy, task
        self._began_s = time.monotonic()
        if task.mutant:
            changed = task.mutant.change.apply(task.mutant.source)
            write(copy / task.mutant.file, changed, CODES_TIME_S + number)
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            code = 3
            try:
                code = _run(copy, task)
            finally:
                os._exit(code)

    def result(self) -> Result | None:
        """None while it runs. Afterwards its copy is as it was."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid == 0 and time.monotonic() - self._began_s < self.task.limit_s:
            return None
        self.kill()
        if pid == 0:
            os.waitpid(self.pid, 0)
        if mutant := self.task.mutant:
            write(self.copy / mutant.file, mutant.source, CODES_TIME_S)
        shutil.rmtree(self.copy / ".hypothesis", ignore_errors=True)  # examples that another mutant failed at
        code = -1 if pid == 0 else os.waitstatus_to_exitcode(status)
        reached = _reached(self.copy)
        recorded = json.loads(reached.read_text()) if self.task.mutant is None and code == 0 else {}
        return Result(self.task, code, _log(self.copy).read_text(errors="replace"), recorded)

    def kill(self) -> None:
        """It, and programs that its tests left behind."""
        with contextlib.suppress(ProcessLookupError):  # all have ended
            os.killpg(self.pid, signal.SIGKILL)


def _log(copy: Path) -> Path:
    return copy.with_suffix(".log")


def _reached(copy: Path) -> Path:
    return copy.with_suffix(".json")


def _run(copy: Path, task: Task) -> int:
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with _log(copy).open("wb") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    os.chdir(copy)
    paths = [str(copy / source) for source in SOURCES]
    # Before the editable install, which leads to the tree that was copied; in programs that tests start, too.
    sys.path[:0] = paths
    os.environ.update(PYTHONPATH=os.pathsep.join(paths[:2]))
    sys.executable = str(copy / ".venv" / "bin" / "python")
    for name in [name for name in sys.modules if name == "tests" or name.startswith("tests.")]:
        del sys.modules[name]
    if task.mutant:
        return pytest.main([*OPTIONS, *task.tests])
    reached = Reached(copy)
    reached.follow()
    code = pytest.main([*OPTIONS, *task.tests], [reached])
    _reached(copy).write_text(json.dumps(reached.by_test, default=sorted))
    return code


def run_all(waiting: deque[Task], copies: Sequence[Path]) -> Iterator[Result]:
    """Each task in the next free copy; yields as they end. More may be added until all have ended."""
    numbers, free, running = count(1), list(copies), list[Running]()
    try:
        while waiting or running:
            while waiting and free:
                running.append(Running(free.pop(), waiting.popleft(), next(numbers)))
            time.sleep(POLL_S)
            for each in list(running):
                result = each.result()
                if result:
                    running.remove(each)
                    free.append(each.copy)
                    yield result
    finally:
        for each in running:
            each.kill()


def copy_tree(to: Path) -> Path:
    """What git tracks or would."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(listing, cwd=PROJECT, check=True, capture_output=True).stdout.decode()
    for name in filter(None, listed.split("\0")):
        if (PROJECT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(PROJECT / name, to / name)
            os.utime(to / name, (CODES_TIME_S, CODES_TIME_S))
    for command in (["init", "-q"], ["add", "-A"]):  # some tests ask git
        subprocess.run(["git", *command], cwd=to, check=True)
    _make_venv(to)
    return to


def _make_venv(tree: Path) -> None:
    """An interpreter that finds the copy whatever it is told to ignore (`-I`), and everything else where it is."""
    venv.create(tree / ".venv", symlinks=True)
    [packages] = (tree / ".venv").glob("lib/python3*/site-packages")
    there = [*(tree / source for source in SOURCES[:2]), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    # As lines of paths: of the packages' own `.pth` files, which lead to the tree that was copied, none is read.
    (packages / "copy.pth").write_text("".join(f"{path}\n" for path in there))


def write(path: Path, content: bytes, time_s: float) -> None:
    path.write_bytes(content)
    os.utime(path, (time_s, time_s))


def preload() -> None:
    """Before the first fork."""
    with mock.patch("gevent.monkey.patch_all"):  # as tests/unit/conftest.py does
        importlib.import_module("pyinfra_cli.util")
    for name in PRELOADED:
        importlib.import_module(name)
    assert not {"gpuhost", "hostside", "orchestrator"} & sys.modules.keys()
    gc.freeze()  # or each process looks through all of it

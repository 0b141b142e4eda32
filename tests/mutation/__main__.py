"""Runs the unit tests against changed code, and prints what no test noticed.

    python -m tests.mutation [--sample N] [--seed S] [--every] [--jobs J] [GLOB ...]

The tests of a module: the folder of tests/unit that mirrors its room, and every file that imports it. Those that reach
the changed function come first; a mutant lives when none of the others notices it either. They run in a copy of the
tree (what git tracks or would), one copy a job, each mutant in a process of its own with a time limit.

Exit: 0 at least 95 % killed, 1 fewer, 2 the tests fail without any change, or a listed change is no more.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import os
import signal
import sys
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import CodeType

from tests.mutation.changes import Change, changes
from tests.mutation.decisions import DECISIONS, EQUIVALENT, Equivalent
from tests.mutation.processes import PROJECT, SOURCES, Mutant, Task, copy_tree, preload, run_all

TARGET = 0.95
SAMPLE = 400
TOLD_EVERY = 50  # mutants
# A mutant may be as much slower than the code, on a busy machine, before it counts as an endless loop.
SLOWER, LIMIT_S_MIN = 6, 60.0
BASELINE_LIMIT_S = 900.0
# As often the chosen tests run without any change: were they to fail by themselves, they would notice anything.
CONTROL_EVERY = 20
UNCHANGED = Change(0, 0, 0, "", "")


def mutants_of(file: str) -> list[Mutant]:
    source = (PROJECT / file).read_bytes()
    lines = source.decode().splitlines()
    return [Mutant(file, change, source, lines[change.line - 1].strip()) for change in changes(source)]


def files_of(globs: Sequence[str]) -> list[str]:
    found = {path for pattern in globs for path in PROJECT.glob(pattern)}
    return sorted(str(path.relative_to(PROJECT)) for path in found if path.name != "__init__.py")


def listed(mutant: Mutant) -> Equivalent | None:
    """Why it means nothing, where somebody has said so."""
    return next((each for each in EQUIVALENT if is_listed(mutant, each)), None)


def is_listed(mutant: Mutant, each: Equivalent) -> bool:
    shown = mutant.change.shown
    return mutant.file.endswith(each.file) and each.line in mutant.source_line and shown.startswith(each.change)


def sampled(mutants: Sequence[Mutant], count: int, seed: int) -> list[Mutant]:
    """The same ones as long as their lines stay as they are, whatever changes around them."""

    def rank(mutant: Mutant) -> str:
        return hashlib.sha256(f"{seed} {mutant.file} {mutant.source_line} {mutant.change.shown}".encode()).hexdigest()

    chosen = set(map(id, sorted(mutants, key=rank)[:count]))
    return [mutant for mutant in mutants if id(mutant) in chosen]


# --- Which tests ------------------------------------------------------------------------------------------------------


def imports_of_tests() -> dict[str, set[str]]:
    """File of tests -> the modules that it imports."""
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


def tests_of(file: str, imports: dict[str, set[str]]) -> list[str]:
    """The files of tests for a module."""
    path = Path(file)
    source = max((each for each in SOURCES if path.is_relative_to(each)), key=len)
    parts = path.with_suffix("").relative_to(source).parts
    room = f"tests/unit/{parts[1] if parts[0] == 'gpuhost' else parts[0]}/"
    return sorted(test for test in imports if test.startswith(room) or ".".join(parts) in imports[test])


def functions_at(source: bytes, line: int) -> set[int]:
    """The first lines of the functions that a line belongs to; none at a module's or a class's level."""
    found = set()
    todo = [compile(source, "module", "exec")]
    while todo:
        code = todo.pop()
        todo += [each for each in code.co_consts if isinstance(each, CodeType)]
        is_function = code.co_flags & 0x2  # inspect.CO_NEWLOCALS: neither a module nor a class
        if is_function and any(at == line for _, _, at in code.co_lines()):
            found.add(code.co_firstlineno)
    return found


@dataclass
class Baseline:
    """What the tests do without any change. `seconds`: of each file and each function of tests; `reached`: function of
    tests -> the functions that it calls, as (file, first line)."""

    seconds: dict[str, float] = field(default_factory=dict)
    reached: dict[str, set[tuple[str, int]]] = field(default_factory=dict)

    def tests_that_reach(self, mutant: Mutant, files: Sequence[str]) -> list[str]:
        """Of some files of tests those that call the changed function, the fastest first."""
        lines = functions_at(mutant.source, mutant.change.line)
        found = [
            test
            for test, functions in self.reached.items()
            if test.partition("::")[0] in files
            and any(file == mutant.file and (line in lines or not lines) for file, line in functions)
        ]
        return sorted(found, key=lambda test: self.seconds[test])

    def limit_s(self, tests: Sequence[str]) -> float:
        return max(LIMIT_S_MIN, SLOWER * sum(self.seconds[test] for test in tests))


def baseline(files: Sequence[str], copies: Sequence[Path]) -> Baseline:
    """Runs every file of tests once. Exits when one fails."""
    made = Baseline()
    for result in run_all(deque(Task([file], None, BASELINE_LIMIT_S) for file in files), copies):
        [file] = result.task.tests
        if result.noticed:
            print(result.output[-4000:])
            print(f"error: {file} fails without any change\nhint: make unit", file=sys.stderr)
            sys.exit(2)
        for test, seen in result.reached.items():
            made.seconds[test] = seen["seconds"]
            made.reached[test] = {(name, line) for name, line in seen["functions"]}
        made.seconds[file] = sum(seen["seconds"] for seen in result.reached.values())
    return made


# --- The run ----------------------------------------------------------------------------------------------------------


@dataclass
class Tally:
    """`endless`: how many were only ended by the time limit."""

    lived: list[Mutant] = field(default_factory=list)
    done: int = 0
    endless: int = 0


def run(mutants: Sequence[Mutant], copies: Sequence[Path]) -> Tally:
    """Each mutant against its tests; says at once which lived."""
    imports = imports_of_tests()
    files = {file: tests_of(file, imports) for file in {mutant.file for mutant in mutants}}
    known = baseline(sorted({test for tests in files.values() for test in tests}), copies)

    def task(mutant: Mutant, tests: Sequence[str]) -> Task:
        return Task(tests, mutant, known.limit_s(tests))

    waiting = deque[Task]()
    for number, mutant in enumerate(mutants):
        all_of_them = files[mutant.file]
        chosen = known.tests_that_reach(mutant, all_of_them) or all_of_them
        waiting.append(task(mutant, chosen))
        if number % CONTROL_EVERY == 0:
            waiting.append(task(replace(mutant, change=UNCHANGED), chosen))
    tally = Tally()
    for result in run_all(waiting, copies):
        tried = result.task.mutant
        assert tried
        if tried.change == UNCHANGED:
            if result.noticed:
                print(result.output[-4000:])
                print(f"error: {', '.join(result.task.tests)} fail without any change", file=sys.stderr)
                print("hint: they rest on what other tests did before them", file=sys.stderr)
                sys.exit(2)
            continue
        all_of_them = files[tried.file]
        if not result.noticed and result.task.tests != all_of_them:
            waiting.appendleft(task(tried, all_of_them))
            continue
        tally.done += 1
        tally.endless += result.code < 0
        if not result.noticed:
            tally.lived.append(tried)
            print(tried, flush=True)
        if tally.done % TOLD_EVERY == 0:
            print(f"{tally.done} of {len(mutants)}", file=sys.stderr, flush=True)
    return tally


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.mutation", description="Which changes the unit tests do not notice.")
    parser.add_argument("globs", nargs="*", default=DECISIONS, help="modules, from the project's root")
    parser.add_argument("--sample", type=int, default=SAMPLE, help="how many mutants (%(default)s)")
    parser.add_argument("--every", action="store_true", help="all of them; hours")
    parser.add_argument("--seed", type=int, default=1, help="which ones are drawn (%(default)s)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    asked = parser.parse_args()
    every = [mutant for file in files_of(asked.globs) for mutant in mutants_of(file)]
    equivalent = [mutant for mutant in every if listed(mutant)]
    for each in EQUIVALENT:
        gone = any(file.endswith(each.file) for file in files_of(asked.globs))
        if gone and not any(is_listed(mutant, each) for mutant in equivalent):
            print(f"error: {each} is listed, and there is no such change any more", file=sys.stderr)
            print("hint: take it out of tests/mutation/decisions.py", file=sys.stderr)
            return 2
    counted = [mutant for mutant in every if not listed(mutant)]
    drawn = counted if asked.every else sampled(counted, asked.sample, asked.seed)
    preload()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the copies are removed
    with tempfile.TemporaryDirectory(prefix="gpuhost-mutation-") as folder:
        tally = run(drawn, [copy_tree(Path(folder, str(index))) for index in range(asked.jobs)])
    killed = len(drawn) - len(tally.lived)
    print(
        f"{len(drawn)} mutants of {len(counted)} in {len({mutant.file for mutant in drawn})} modules "
        f"(seed {asked.seed}), {killed} killed ({tally.endless} by the time limit), {len(tally.lived)} lived: "
        f"{killed / max(1, len(drawn)):.1%}; {len(equivalent)} more mean nothing (tests/mutation/decisions.py)"
    )
    return 0 if killed >= TARGET * len(drawn) else 1


if __name__ == "__main__":
    sys.exit(main())

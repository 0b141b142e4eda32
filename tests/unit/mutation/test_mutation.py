"""What measures the tests: which changes it makes, and that it says of each whether a test noticed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gpuhost.project import PROJECT
from tests.mutation.changes import changes


@pytest.mark.parametrize(
    ("code", "mutants"),
    [
        ("x = a < b", {"x = a <= b", "x = a >= b"}),
        ("x = a < b == c", {"x = a <= b == c", "x = a >= b == c", "x = a < b != c"}),
        ("x = a and b", {"x = (a or b)", "x = (a)", "x = (b)"}),
        ("x = not (a or b)", {"x = (a or b)", "x = not ((a and b))", "x = not ((a))", "x = not ((b))"}),
        ("x = 1 + y", {"x = 2 + y", "x = (1 - y)"}),
        ("x = -1", {"x = 1", "x = -2"}),
        ("x = ('a', b)", {"x = ('aXX', b)", "x = (b,)", "x = ('a',)"}),
        ("x = [a, b]", {"x = [a]", "x = [b]"}),
        ("x = {'a': b, **c}", {"x = {'aXX': b, **c}", "x = {**c}", "x = {'a': b}"}),
        ("x = f(a, b=c)", {"x = f(a)"}),
        ("x = any(a)", {"x = all(a)"}),
        ("x = [a for a in b if c]", {"x = [a for a in b if True]", "x = [a for a in b if False]"}),
        ("if a:\n    f()", {"if True:\n    f()", "if False:\n    f()", "if a:\n    pass"}),
        ("x = a if b else c", {"x = a if True else c", "x = a if False else c"}),
        ("def f():\n    return a", {"def f():\n    return None"}),
        ("while a:\n    break", {"while False:\n    break", "while a:\n    continue"}),
        ("raise a", {"pass"}),
        ("a.b = c", {"pass"}),
        ("a += b", {"pass"}),
        ("x = True", {"x = False"}),
    ],
)
def test_each_change_of_meaning(code: str, mutants: set[str]) -> None:
    found = changes(f"{code}\n".encode())
    assert {change.apply(f"{code}\n".encode()).decode() for change in found} == {f"{mutant}\n" for mutant in mutants}


@pytest.mark.parametrize(
    "code",
    [
        '"""A module."""',
        "x = 'a sentence for people'",
        "x = f'{a} of b'",
        "def f(a: Literal['x'] | None) -> tuple[int, str]: ...",
        "@cache\ndef f(): ...",
        "from a import b",
        "Kind = Literal['x', 'y']",
        "if TYPE_CHECKING:\n    import a",
        "assert a == b",
        "a, b = c",
    ],
)
def test_what_no_test_should_spell_again_stays(code: str) -> None:
    assert changes(code.encode()) == []


def test_the_place_of_a_change_is_told() -> None:
    source = "ü = 'ü'\nif (\n    a ==\n    b\n):\n    f('ü', key=1)\n".encode()
    shown = [(change.line, change.shown) for change in changes(source)]
    assert (3, "a == b -> a != b") in shown and (6, "without key=1") in shown


RULE = "def large(a: int) -> bool:\n    return a > 3\n"
WEAK = "from gpuhost.room.rules import large\n\n\ndef test_it() -> None:\n    assert large(9)\n"

# Which reads no environment variable.
IN_ANOTHER_PROCESS = """    import subprocess, sys
    code = "from gpuhost.room.rules import large; assert large(4) and not large(3)"
    subprocess.run([sys.executable, "-I", "-B", "-c", code], check=True)
"""


@pytest.mark.parametrize(
    ("added", "code", "lived"),
    [
        ("", 1, {"a > 3 -> a >= 3", "3 -> 4"}),
        ("    assert large(4) and not large(3)\n", 0, set()),
        (IN_ANOTHER_PROCESS, 0, set()),
        ("    assert not large(5)\n", 2, None),
    ],
    ids=["weak", "strong", "strong, in another process", "red"],
)
def test_what_no_test_noticed_is_told(tmp_path: Path, added: str, code: int, lived: set[str] | None) -> None:
    shutil.copytree(PROJECT / "tests" / "mutation", tmp_path / "tests" / "mutation")
    for name, text in {
        "gpuhost/__init__.py": "",
        "gpuhost/room/rules.py": RULE,
        "tests/__init__.py": "",
        "tests/unit/room/test_rules.py": WEAK + added,
        "pyproject.toml": "[tool.pytest.ini_options]\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    program = [sys.executable, "-m", "tests.mutation", "--jobs", "2", "gpuhost/room/*.py"]
    environ = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "COLUMNS")}
    done = subprocess.run(program, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert (tmp_path / "gpuhost" / "room" / "rules.py").read_text() == RULE
    if lived is None:
        assert "tests/unit/room/test_rules.py fails without any change" in done.stderr
        return
    assert set(re.findall(r"^gpuhost/room/rules\.py:2: (.*)$", done.stdout, re.MULTILINE)) == lived
    assert f"4 mutants of 4 in 1 modules (seed 1), {4 - len(lived)} killed" in done.stdout

"""The package as a whole: what both sides share needs the standard library only, and Python 3.10 can read all of it."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from gpuhost.project import PROJECT

PACKAGE = PROJECT / "files/host/hostside"
MODULES = sorted(PACKAGE.rglob("*.py"))
SHARED = {
    "envfile",
    "fingerprint",
    "hub_cache",
    "labels",
    "placeholders",
    "redaction",
    "timestamps",
    "vram",
    "wire",
    *(f"protocol/{path.stem}" for path in PACKAGE.glob("protocol/*.py")),
}
NAMES = {f"hostside.{module}".replace("/", ".").removesuffix(".__init__") for module in SHARED}


def imported(path: Path) -> set[str]:
    """The modules that a file imports; of ours, those inside the package."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level and node.module
            names = {f"hostside.{alias.name}" for alias in node.names}
            found |= names if node.module == "hostside" else {node.module}
    return found


def name(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


@pytest.mark.parametrize("path", [PACKAGE / f"{module}.py" for module in sorted(SHARED)], ids=name)
def test_what_both_sides_share_needs_the_standard_library_only(path: Path) -> None:
    assert imported(path) <= sys.stdlib_module_names | {"collections.abc", "urllib.parse"} | NAMES
    assert "Standard library" in (ast.get_docstring(ast.parse(path.read_text())) or "")


def test_the_control_side_imports_nothing_else_of_it() -> None:
    files = [*(PROJECT / "gpuhost").rglob("*.py"), *(PROJECT / "tasks").rglob("*.py")]
    used = {module for path in files for module in imported(path) if module.partition(".")[0] == "hostside"}
    assert used and used <= NAMES


LATER = {"tomllib", "typing.Self", "typing.assert_never", "datetime.UTC", "enum.StrEnum", "asyncio.timeout"}
LATER |= {"ExceptionGroup", "BaseExceptionGroup"}


def later_than_3_10(code: str) -> set[str]:
    """Which of the names that came with Python 3.11 a text uses. Raises SyntaxError for what 3.10 cannot parse."""
    used: set[str] = set()
    for node in ast.walk(ast.parse(code, feature_version=(3, 10))):
        if isinstance(node, ast.ImportFrom):
            used |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module or ""}
        elif isinstance(node, ast.Import):
            used |= {alias.name for alias in node.names}
        elif isinstance(node, (ast.Attribute, ast.Name)):
            used.add(ast.unparse(node))
    return used & LATER


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_it_is_written_for_python_3_10(path: Path) -> None:
    assert not later_than_3_10(path.read_text())


def test_what_is_later_would_be_seen() -> None:
    texts = ("from typing import Self", "import tomllib", "x = datetime.UTC", "raise ExceptionGroup('', [])")
    assert [len(later_than_3_10(text)) for text in texts] == [1] * len(texts)
    with pytest.raises(SyntaxError):
        later_than_3_10("try: ...\nexcept* ValueError: ...")


def test_it_imports_nothing_of_the_control_side() -> None:
    assert len(MODULES) > 20
    assert not {module for path in MODULES for module in imported(path)} & {"gpuhost", "pyinfra", "pydantic", "tasks"}

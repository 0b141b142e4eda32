"""The package as a whole: what both sides share needs the standard library only, and Python 3.10 can read all of it."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from gpuhost.project import PROJECT

PACKAGE = PROJECT / "files/host/hostside"
MODULES = sorted(PACKAGE.rglob("*.py"))
SHARED = {"envfile", "fingerprint", "hub_cache", "labels", "placeholders", "protocol", "timestamps", "wire"}


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
    assert imported(path) <= sys.stdlib_module_names | {"collections.abc"} | {f"hostside.{name}" for name in SHARED}
    assert "Standard library" in (ast.get_docstring(ast.parse(path.read_text())) or "")


def test_the_control_side_imports_nothing_else_of_it() -> None:
    files = [*(PROJECT / "gpuhost").rglob("*.py"), *(PROJECT / "tasks").rglob("*.py")]
    used = {module for path in files for module in imported(path) if module.partition(".")[0] == "hostside"}
    assert used and used <= {f"hostside.{name}" for name in SHARED}


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_it_is_written_for_python_3_10(path: Path) -> None:
    ast.parse(path.read_text(), feature_version=(3, 10))
    later = {"tomllib", "typing.Self", "datetime.UTC", "enum.StrEnum", "ExceptionGroup"}
    assert not [word for word in later if word.rpartition(".")[2] in path.read_text().split()]


def test_it_imports_nothing_of_the_control_side() -> None:
    assert not {module for path in MODULES for module in imported(path)} & {"gpuhost", "pyinfra", "pydantic", "tasks"}

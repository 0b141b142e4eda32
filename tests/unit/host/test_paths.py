"""Where our programs lie on a host, and how they are started."""

from __future__ import annotations

import importlib.util

import pytest

from gpuhost.host.paths import Layout
from tasks.layout import _program_folders

LAYOUT = Layout("/srv/data", "/opt/tools", "/var/lib/state")


PROGRAMS = [LAYOUT.verify_command, LAYOUT.secret_audit_command, LAYOUT.models_command, LAYOUT.trees_command]


@pytest.mark.parametrize("command", PROGRAMS)
def test_a_program_is_a_module_that_is_there_and_imports_nothing_from_elsewhere(command: str) -> None:
    python, *flags, module = command.split()
    assert (python, flags) == ("/opt/tools/venv/bin/python", ["-I", "-B", "-m"])
    found = importlib.util.find_spec(module)
    assert found is not None
    if found.submodule_search_locations:  # a package: what `-m` starts is its __main__
        assert importlib.util.find_spec(f"{module}.__main__") is not None


def test_every_folder_of_the_programs_is_looked_at_outer_ones_first() -> None:
    folders = _program_folders(LAYOUT)
    assert folders[:2] == ["/opt/tools/programs", "/opt/tools/programs/hostside"]
    assert {"/opt/tools/programs/hostside/verify", "/opt/tools/programs/hostside/models"} <= set(folders)
    assert all(folder.startswith("/opt/tools/programs") for folder in folders)

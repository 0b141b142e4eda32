"""What several unit tests need: pyinfra in this process, without gevent's patches."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
from pyinfra.api.state import State
from pyinfra.context import ctx_state

# The import patches threads and sockets of the whole process; tests of other programs need those as they are.
with mock.patch("gevent.monkey.patch_all"):
    from pyinfra_cli.util import PYTHON_CODES

    from gpuhost.catalog.inventory import imported_names


@pytest.fixture(autouse=True)
def _logs_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test writes a log into the home of whoever runs it."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture(autouse=True)
def _no_text_diffs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Operations that are tried without a run ask nobody what their plan is to show."""
    monkeypatch.setattr("gpuhost.files.operations.text_diffs", lambda: "")


@pytest.fixture
def pyinfra_state() -> Iterator[State]:
    """A state without hosts, as pyinfra's command line has one while it reads files."""
    state = State()
    with ctx_state.use(state):
        yield state
    ctx_state.reset()
    PYTHON_CODES.clear()  # read files, by their path as it was written
    imported_names.cache_clear()

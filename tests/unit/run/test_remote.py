"""How the failure of a program of ours on a host is explained."""

from __future__ import annotations

import pytest

from gpuhost.errors import WORDS, Cause
from gpuhost.run.remote import Completed, unobserved

INSTALLS = "`gpuhost apply` installs the program that looks"


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        ("error: no\nhint: do", Cause("no", "do")),
        ("one\ntwo\n", Cause("two", WORDS)),
        ("sh: 1: /opt/gpuhost/venv/bin/python: not found", Cause("gpuhost's programs are not on this host", INSTALLS)),
        ("sh: /opt/x/python: not found", Cause("gpuhost's programs are not on this host", INSTALLS)),
        ("sh: 1: docker: not found", Cause("sh: 1: docker: not found", INSTALLS)),
        ("No module named 'hostside.logs'", Cause("No module named 'hostside.logs'", INSTALLS)),
    ],
)
def test_why_a_program_that_looks_said_nothing(said: str, cause: Cause) -> None:
    assert unobserved(Completed(False, "", said)) == cause

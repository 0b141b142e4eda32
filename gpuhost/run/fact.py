"""Facts of ours: what a host answers is data, and an answer that cannot be read fails that host alone."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import TypeVar

from pyinfra.api.exceptions import FactProcessError
from pyinfra.api.facts import FactBase
from pyinfra.context import host

from gpuhost.errors import Problem, UserError
from gpuhost.run.session import report_problem

T = TypeVar("T")


class HostFact(FactBase[T]):
    """A fact whose `read` may raise anything: pyinfra would end the run for all hosts, here the one host fails. A
    UserError is reported as it is.

    pyinfra then goes on with `default()` until the operation ends: `carry_out` does nothing on a host that failed.
    """

    abstract = True

    @abstractmethod
    def read(self, output: list[str]) -> T:
        """The value that the lines say."""

    def process(self, output: list[str]) -> T:
        """Called by pyinfra."""
        try:
            return self.read(output)
        except UserError as error:
            problem = error.problems[0]
        except Exception as error:
            # Not the error's text, which may quote a line of the host's.
            what = f"what the host answered cannot be read ({type(self).__name__}: {type(error).__name__})"
            problem = Problem(what, "run it again; when it repeats, report it with the output of -vvv")
        report_problem(replace(problem, host=host.name))
        raise FactProcessError(problem.what)

"""A program that takes long on a host: a systemd unit of its own there (`hostside.job`), whose lines are shown here.

It outlives the connection and this process. The next run's job of the same name attaches to it: the lines come from
the first on, and when it has ended, that run's own program is started, which finds what was done. An operation yields
a `Job` as it would a `Script`:

    yield Job(paths, "models", "the fetch of the models", command, stdin=request, explain=..., shown=...)
"""

from __future__ import annotations

import shlex
from typing import Any

from pyinfra.api.host import Host
from pyinfra.api.state import State
from pyinfra.connectors.util import CommandOutput

from gpuhost.host.paths import Paths
from gpuhost.run import output
from gpuhost.run.remote import Script
from gpuhost.run.session import Explain


class Job(Script):
    """`name`: of the unit, `gpuhost-<name>`; `what`: "the fetch of the models", in sentences; `command`: a simple
    command for sh, run as root without a shell (one that should be less begins with setpriv); `stdin`: what it reads,
    secrets too, which is in no file; `shown`: what a person sees of a line of its stdout."""

    def __init__(
        self,
        paths: Paths,
        name: str,
        what: str,
        command: str,
        stdin: str,
        explain: Explain | None = None,
        shown: output.Shown | None = None,
    ) -> None:
        arguments = shlex.join([name, "--folder", paths.jobs, "--what", what])
        super().__init__(f"cd / && exec {paths.job_command} {arguments} -- {command}", explain, stdin, live=True)
        self._shown = shown

    def execute(self, state: State, host: Host, connector_arguments: Any) -> tuple[bool, CommandOutput]:
        """Start or attach, and show its lines until it ends."""
        if self._shown is None:
            return super().execute(state, host, connector_arguments)
        with output.shown_as(host.print_prefix, self._shown):
            return super().execute(state, host, connector_arguments)

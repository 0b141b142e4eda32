"""A systemd unit of ours: written, and read by systemd. (pyinfra's `daemon_reload` is a change at every run.)"""

from __future__ import annotations

from pyinfra.api.operation import operation
from pyinfra.context import host

from gpuhost.files.facts import FilesState
from gpuhost.files.operations import write_step
from gpuhost.files.rules import FileSpec, reconcile
from gpuhost.plan.change import Change, Resource
from gpuhost.run.remote import Step
from gpuhost.run.session import Commands, carry_out
from gpuhost.systemd.facts import IsStale


@operation()
def unit(stage: str, wanted: FileSpec, backups: str) -> Commands:
    """The unit's file is as it should be, and systemd has loaded that one and not an earlier."""
    text, observed = wanted.content(), host.get_fact(FilesState, paths=[wanted.path])
    changes = reconcile(stage, [wanted], {wanted.path: text}, observed)
    if not changes and host.get_fact(IsStale, unit=wanted.path.rpartition("/")[2]):
        changes = [Change(stage, Resource("file", wanted.path), "write", "systemd has not read it since it changed")]
    steps = [write_step([wanted], {wanted.path: text}, backups), Step("systemctl daemon-reload")]
    yield from carry_out(changes, steps)

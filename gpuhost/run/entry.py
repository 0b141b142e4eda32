"""What happens before pyinfra contacts a host: the data is read and checked, connection failures get a sentence and a
hint."""

from __future__ import annotations

import functools
import logging
import re
import shlex
import sys
from pathlib import Path

import click
from pyinfra import logger
from pyinfra.api import arguments
from pyinfra_cli.util import parse_cli_arg

from gpuhost.catalog.inventory import Request, Site, read
from gpuhost.errors import Cause, Problem, UserError
from gpuhost.plan.report import Report
from gpuhost.run import ahead, stop
from gpuhost.run.connection import refuse_unknown_keys
from gpuhost.run.data import CWD_DATA, INVENTORY, REPORT_DATA
from gpuhost.run.output import show_as_text
from gpuhost.secrets.store import SecretStore, tracked

# pyinfra finds out anew for each fact and operation which arguments all of them have: a tenth of a plan of many hosts.
arguments.all_global_arguments = functools.cache(arguments.all_global_arguments)

_site: Site | None = None


def check_command_line() -> None:
    """Called by config.py: reads and checks the data of every host of the inventory on pyinfra's command line, and that
    git tracks no file of secrets.

    Prints every problem and exits 1 when there is one.
    """
    global _site
    refuse_unknown_keys()
    show_as_text()
    ahead.take_part()
    parameters = click.get_current_context().params
    entries = [entry.partition("=") for entry in parameters["data"]]
    overrides = {key: parse_cli_arg(value) for key, _, value in entries}
    if REPORT_DATA in overrides:  # `gpuhost` runs this
        stop.listen()
    report = Report(overrides.get(REPORT_DATA))
    cwd = Path(overrides.get(CWD_DATA) or Path.cwd())
    logger.addHandler(_ConnectionHints(report, named(parameters["inventory"], cwd)))
    try:
        if loose := [key for key, equals, _ in entries if not equals]:
            raise UserError(Problem(f"--data `{loose[0]}` has no value", "write it as --data NAME=VALUE"))
        request = Request(
            parameters["inventory"],
            cwd=cwd,
            data=overrides,
            limits=parameters["limit"] or (),
            excluded=parameters["exclude"] or (),
            group_data=parameters["group_data"] or (),
        )
        _site = read(request)
        stores = [SecretStore(_site.catalog(name), name, site=_site.folder) for name in _site.chosen]
        if found := tracked(stores):
            raise UserError(*found)
        report.add("hosts", "", names=list(_site.chosen))
        for sentence in _site.unused:
            report.add("unused", "", message=sentence)
    except UserError as error:
        for problem in error.problems:
            report.add("problem", problem.host, what=problem.what, hint=problem.hint)
            print("\n".join(problem.lines()), file=sys.stderr)
        raise SystemExit(1) from None


def site() -> Site:
    """What check_command_line() read, in the same process. Raises UserError when nothing was."""
    if _site is None:
        raise UserError(Problem("config.py was not read", "leave out pyinfra's option --config"))
    return _site


def named(inventory: str, cwd: Path) -> str:
    """What names an inventory on a command line of `gpuhost` where the person stands: ` -i lab`; "" for the one that is
    taken there by itself, and for one that is no file."""
    file = Path(inventory).parent.resolve() / Path(inventory).name
    if not file.is_file() or file == cwd / INVENTORY:
        return ""
    path = file.parent if file.name == INVENTORY else file
    return f" -i {shlex.quote(str(path.relative_to(cwd) if path.is_relative_to(cwd) else path))}"


# pyinfra's own words for a failed connection -> sentence, hint; {host} is the host's name, and what names its inventory
_CONNECTION = (
    (
        r"SSH host key error \(Host key for (\S+) does not match",
        "the SSH host key of {0} is not the one in known_hosts",
        "if the host was rebuilt, `gpuhost trust {host}` shows the old and the new fingerprint, and asks",
    ),
    (
        r"Authentication error \(.*?(?:username=(\S+?))?[,)]",
        "SSH login is refused{1}",
        "check `ssh_user` and `ssh_key` in the inventory; the key's .pub must be in authorized_keys on the host",
    ),
    (r"Could not resolve hostname \((.*)\)", "the host's name cannot be resolved ({0})", "check `ssh_hostname`"),
    (
        r"No host key for (\S+) found",
        "the SSH host key of {0} is not known",
        "`gpuhost trust {host}` shows its fingerprint, and asks",
    ),
    (
        r"(?:Could not connect|SSH error|EOF error) \((?:\[Errno None\] )?(.*)\)",
        "no SSH connection: {0}",
        "check that the host is up, that sshd runs, and `ssh_hostname` and `ssh_port` in the inventory",
    ),
)


def explain_connection(message: str, host: str, inventory: str = "") -> Cause | None:
    """The cause of a failed connection; None when the line is no such failure. `inventory`: of named()."""
    for pattern, what, how in _CONNECTION:
        found = re.search(pattern, message)
        if found:
            groups = [group or "" for group in found.groups()]
            user = f" for user {groups[0].strip(',')}" if groups and groups[0] else ""
            hint = how.replace("{host}", f"{host}{inventory}")
            return Cause(what.format(*(groups or [""]), user), hint)
    return None


class _ConnectionHints(logging.Handler):
    """pyinfra reports a failed connection in its log only: read there, and printed with a hint."""

    def __init__(self, report: Report, inventory: str) -> None:
        super().__init__(logging.ERROR)
        self._report, self._inventory = report, inventory

    def emit(self, record: logging.LogRecord) -> None:
        """Called for every error that pyinfra logs."""
        message = re.sub(r"\x1b\[[0-9;]*m", "", record.getMessage())
        name = re.match(r"\s*\[(.+?)\]", message)  # a line without a host comes again with it
        cause = explain_connection(message, name[1], self._inventory) if name else None
        if name and cause:
            problem = Problem(*cause, host=name[1])
            self._report.add("problem", problem.host, what=problem.what, hint=problem.hint)
            print("\n".join(problem.lines()), file=sys.stderr)

"""What the hosts of a command line should be, read as pyinfra would read it. It takes pyinfra and pydantic, and they
take longer to import than all else that `gpuhost plan` does itself takes."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from gevent.hub import Hub  # type: ignore[import-untyped]
from pyinfra.api.host import Host
from pyinfra.api.state import State
from pyinfra.context import ctx_state
from pyinfra_cli.util import parse_cli_arg

from gpuhost.catalog.inventory import Request, Site, inventory, read
from gpuhost.cli.arguments import inventory_file, limits
from gpuhost.errors import Problem, UserError, suggest
from gpuhost.project import PROJECT

# pyinfra puts gevent under what waits, which prints a KeyboardInterrupt before it raises it again where it belongs.
Hub.NOT_ERROR = (*Hub.NOT_ERROR, KeyboardInterrupt)


def site(options: argparse.Namespace) -> Site:
    """What every host of the command line should be. Contacts none. Raises UserError."""
    with ctx_state.use(State()):  # pyinfra notes there which file it reads
        return read(_request(options))


def inventory_hosts(options: argparse.Namespace) -> Mapping[str, Host]:
    """The hosts of the inventory by name, with pyinfra's data. Contacts none. Raises UserError."""
    with ctx_state.use(State()):
        return {host.name: host for host in inventory(_request(options))}


def service_hosts(found: Site, service: str) -> list[str]:
    """The chosen hosts whose data enables a service, in the inventory's order; at least one. Raises UserError."""
    enabled = {host: catalog.enabled() for host, catalog in found.catalogs.items() if host in found.chosen}
    hosts = [host for host, services in enabled.items() if service in services]
    if hosts:
        return hosts
    known = {name for host in found.chosen for name in found.catalogs[host].services}
    if service in known:
        hint = "add it to `enabled_services` in group_data, then `gpuhost apply`"
        raise UserError(Problem(f"no host of this command line has `{service}` enabled", hint))
    names = {name for services in enabled.values() for name in services}
    raise UserError(Problem(f"there is no service `{service}`", suggest(service, sorted(names), "service")))


def _request(options: argparse.Namespace) -> Request:
    parser = argparse.ArgumentParser(add_help=False)
    for option in ("--limit", "--exclude", "--data", "--group-data"):
        parser.add_argument(option, action="append", default=[])
    known, _ = parser.parse_known_args([*limits(options), *options.pyinfra])
    data = {key: parse_cli_arg(value) for key, _, value in (entry.partition("=") for entry in known.data)}
    return Request(
        str(inventory_file(options.inventory)),
        project=PROJECT,
        data=data,
        limits=[*known.limit, *getattr(options, "hosts", ())],
        excluded=known.exclude,
        group_data=known.group_data,
    )

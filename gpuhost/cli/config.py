"""`gpuhost config`: what is in force for each host, and which file says so. Contacts no host."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import Any

from gpuhost.catalog.inventory import Site
from gpuhost.catalog.layers import leaves, plain
from gpuhost.catalog.types import Catalog
from gpuhost.cli.arguments import Commands, add_examples, host_options
from gpuhost.cli.complete import completed_by, hosts
from gpuhost.cli.console import OK
from gpuhost.cli.literal import literal
from gpuhost.cli.site import site
from gpuhost.plan.document import VERSION
from gpuhost.services import table

WIDTH = 80
DEFAULT = "default"


def add_to(commands: Commands) -> None:
    """Add the command to the command line."""
    about = "what is in force for each host; contacts none"
    command = commands.add_parser("config", help=about, description=about)
    named = command.add_argument("hosts", metavar="HOST", nargs="*", help="only these hosts or groups")
    completed_by(named, hosts)
    host_options(command)
    command.add_argument("--origin", action="store_true", help="which file each value comes from")
    command.add_argument("--table", action="store_true", help="only the services, as a table in Markdown")
    command.add_argument("--json", action="store_true", help="the result as JSON on stdout")
    add_examples(command, "gpuhost config gpu1 --origin", "gpuhost config --table", ok="shown")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print it; the exit code. Raises UserError."""
    found = site(options)
    if options.json:
        hosts = {host: _document(found, host, options.origin) for host in found.chosen}
        print(json.dumps({"version": VERSION, "result": "ok", "hosts": hosts, "errors": []}, indent=2))
        return OK
    alike: dict[tuple[str, ...], list[str]] = {}
    for host in found.chosen:
        lines = _table(found, host) if options.table else _lines(found, host, options.origin)
        alike.setdefault(tuple(lines), []).append(host)
    for text, names in alike.items():
        alone = options.table and len(alike) == 1
        print(*([] if alone else [f"[{', '.join(names)}]"]), *text, sep="\n")
    return OK


def _table(found: Site, host: str) -> list[str]:
    return table.markdown(found.catalogs[host])


def _values(catalog: Catalog) -> dict[str, Any]:
    return catalog.model_dump(mode="json")


def _document(found: Site, host: str, with_origins: bool) -> dict[str, Any]:
    values = _values(found.catalogs[host])
    if not with_origins:
        return {"values": values}
    layered = found.layers[host]
    given = {".".join(path): layered.given(path) for path, _ in leaves(values)}
    return {"values": values, "origins": {field: value.origin if value else DEFAULT for field, value in given.items()}}


def _lines(found: Site, host: str, with_origins: bool) -> Iterator[str]:
    """`services.painter.memory = "20g"  # site/group_data/all.py`; defaults that are empty are left out."""
    catalog, layered = found.catalogs[host], found.layers[host]
    for path, default in leaves(_values(catalog)):
        given = layered.given(path)
        if given or default not in (None, "", [], {}):
            note = f"  # {given.origin if given else DEFAULT}" if with_origins else ""
            # A list as it was written, without the defaults of what it holds.
            value, name = plain(given) if given else default, f"{'.'.join(path)} = "
            lines = literal(value, WIDTH, name, note)
            too_long = note and max(map(len, lines)) > WIDTH
            yield from [note.strip(), *literal(value, WIDTH, name)] if too_long else lines

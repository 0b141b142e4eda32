"""group_data as pyinfra reads it, checked for every host of an inventory before any is contacted."""

from __future__ import annotations

import fnmatch
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pyinfra.api.host import Host
from pyinfra.connectors.ssh_util import _resolve_key_paths
from pyinfra_cli.exceptions import UnexpectedExternalError
from pyinfra_cli.inventory import _get_group_data, make_inventory

from gpuhost.catalog.messages import suggest
from gpuhost.catalog.types import BuildImage, Catalog, load
from gpuhost.errors import Problem, UserError
from gpuhost.project import PROJECT

# Keys that pyinfra's connectors and gpuhost's own command line read from host data.
_FOREIGN = ("ssh_", "_", "gpuhost_", "docker_identifier", "chroot_", "local_", "vagrant_", "terraform_")


def catalog_of(host: Host) -> Catalog:
    """The catalogue of a host. Raises UserError."""
    return _validated(host, Path.cwd() / "group_data")


def catalogs(inventory: str, overrides: Mapping[str, Any], limits: Sequence[str] = ()) -> dict[str, Catalog]:
    """host -> its catalogue, of every chosen host of an inventory; the data of the others is validated, too.

    `limits`: what `--limit` names, each a host, a group or a pattern that must match a host. Raises UserError with
    every problem once.
    """
    folders = [Path.cwd() / "group_data", Path(inventory).resolve().parent / "group_data"]
    hosts = _hosts(inventory, overrides, folders)
    found = [*_unmatched(limits, hosts), *_absent_keys(_chosen(hosts, limits))]
    valid = {}
    for host in hosts:
        try:
            valid[host.name] = _validated(host, *folders)
        except UserError as error:
            found += [problem for problem in error.problems if problem not in found]
    if found:
        raise UserError(*found)
    return {host.name: valid[host.name] for host in _chosen(hosts, limits)}


def _hosts(inventory: str, overrides: Mapping[str, Any], folders: Sequence[Path]) -> list[Host]:
    """The hosts with their data. Inventory and group_data are programs: they may fail as any program does."""
    try:
        hosts = list(make_inventory(inventory, override_data=dict(overrides), cwd=str(Path.cwd())))
    except UnexpectedExternalError as error:
        raise UserError(_broken(error.exception, Path(inventory), folders)) from error
    except Exception as error:
        raise UserError(_broken(error, Path(inventory), folders)) from error
    if not hosts:
        raise UserError(Problem(f"{inventory} names no host", "add one; the head of inventory.py shows how"))
    return hosts


def _broken(error: Exception, inventory: Path, folders: Sequence[Path]) -> Problem:
    """Where and how one of these files failed."""
    places = [(Path(frame.filename), frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    words = str(error)
    if isinstance(error, SyntaxError):
        places.append((Path(error.filename or ""), error.lineno))
        words = error.msg
    own = [(file, line) for file, line in places if file.parent in folders or file == inventory]
    file, line = own[-1] if own else (inventory, None)
    where = f"{_shown(file)}, line {line}" if line else _shown(file)
    return Problem(f"{where}: {type(error).__name__}: {words}", "it is read as Python: mend it there")


def _shown(file: Path) -> str:
    """A file's name as seen from here."""
    return str(file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file)


def _chosen(hosts: Sequence[Host], limits: Sequence[str]) -> list[Host]:
    """The hosts that `--limit` leaves, as pyinfra understands it: a group, else a pattern of host names."""
    if not limits:
        return list(hosts)
    return [
        host for host in hosts if any(limit in host.groups or fnmatch.fnmatch(host.name, limit) for limit in limits)
    ]


def _absent_keys(hosts: Sequence[Host]) -> list[Problem]:
    """A key that is not there would end pyinfra with a traceback."""
    keys = [(host, host.data.get("ssh_key")) for host in hosts]
    return [
        Problem(f"the SSH key `{key}` is not there", "correct `ssh_key` in the inventory", host.name)
        for host, key in keys
        if key and not any(Path(path).is_file() for path in _resolve_key_paths(key, str(Path.cwd())))
    ]


def _unmatched(limits: Sequence[str], hosts: Sequence[Host]) -> list[Problem]:
    """pyinfra exits 0 when a limit matches nothing: for us that is a mistake."""
    names = {host.name for host in hosts}
    known = sorted(names | {group for host in hosts for group in host.groups})
    return [
        Problem(f"--limit `{limit}` names no host and no group of the inventory", suggest(limit, known, "host"))
        for limit in limits
        if not _chosen(hosts, [limit])
    ]


def _validated(host: Host, *folders: Path) -> Catalog:
    data = host.data.dict()
    own = {key: value for key, value in data.items() if not key.startswith(_FOREIGN)}
    file_of = _file_finder(own, folders)
    catalog = load(own, file_of)
    absent = [
        Problem(f"{file_of(field.split('.')[0])}: `{field}` names `{name}`, which is not in {where}/", hint)
        for field, name, where, hint in _absent_files(catalog)
    ]
    if absent:
        raise UserError(*absent)
    return catalog


def _absent_files(catalog: Catalog) -> Iterator[tuple[str, str, str, str]]:
    """(field, name, folder, hint) of every file of the project that is named and not there."""
    contexts = [path.parent.name for path in PROJECT.glob("files/*/Dockerfile")]
    for key, image in catalog.images.items():
        if isinstance(image, BuildImage) and image.build not in contexts:
            yield f"images.{key}.build", image.build, "files", suggest(image.build, contexts, "folder")
    templates = [path.name for path in PROJECT.glob("templates/*.yml.j2")]
    for key, service in catalog.services.items():
        if service.template not in templates:
            hint = suggest(service.template, templates, "template")
            yield f"services.{key}.template", service.template, "templates", hint


def _file_finder(data: Mapping[str, Any], folders: tuple[Path, ...]) -> Callable[[str], str]:
    """Which file of group_data gave a key its value, as seen from here; the inventory when none did."""
    places: dict[str, str] = {}
    for folder in folders:
        for group, values in _get_group_data(str(folder)).items():
            for key, value in values.items():
                if key in data and data[key] == value:
                    places[key] = _shown(folder / f"{group}.py")
    return lambda key: places.get(key, "group_data/all.py" if key not in data else "the inventory")

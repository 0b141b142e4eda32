"""group_data as pyinfra reads it, checked for every host of an inventory before any is contacted."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pyinfra.api.host import Host
from pyinfra_cli.inventory import _get_group_data, make_inventory

from .catalog import BuildImage, Catalog, load, suggest
from .errors import Problem, UserError
from .spec import PROJECT

# Keys that pyinfra's connectors and gpuhost's own command line read from host data.
_FOREIGN = ("ssh_", "_", "gpuhost_", "docker_identifier", "chroot_", "local_", "vagrant_", "terraform_")


def catalog_of(host: Host) -> Catalog:
    """The catalogue of a host. Raises UserError."""
    return _validated(host, Path.cwd() / "group_data")


def check(inventory: str, overrides: Mapping[str, Any], limits: Sequence[str] = ()) -> None:
    """Validate the data of every host of an inventory. Raises UserError with every problem once.

    `limits`: what `--limit` names, each a host, a group or a pattern that must match a host.
    """
    folders = [Path.cwd() / "group_data", Path(inventory).resolve().parent / "group_data"]
    hosts = list(make_inventory(inventory, override_data=dict(overrides), cwd=str(Path.cwd())))
    found = _unmatched(limits, hosts)
    for host in hosts:
        try:
            _validated(host, *folders)
        except UserError as error:
            found += [problem for problem in error.problems if problem not in found]
    if found:
        raise UserError(*found)


def _unmatched(limits: Sequence[str], hosts: Sequence[Host]) -> list[Problem]:
    """pyinfra exits 0 when a limit matches nothing: for us that is a mistake."""
    names = {host.name for host in hosts}
    known = sorted(names | {group for host in hosts for group in host.groups})
    return [
        Problem(f"--limit `{limit}` names no host and no group of the inventory", suggest(limit, known, "host"))
        for limit in limits
        if limit not in known and not fnmatch.filter(names, limit)
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
                    file = folder / f"{group}.py"
                    places[key] = str(file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file)
    return lambda key: places.get(key, "group_data/all.py" if key not in data else "the inventory")

"""What every host of an inventory should be: group_data and inventory read as pyinfra does, merged in layers, checked.

Later layers win: gpuhost's own group_data/all.py, the site's; for each group of the host, in pyinfra's order, gpuhost's
file and the site's; the host's own data in the inventory; `--data`. Data that the inventory gives a group stands
between gpuhost's file of that group and the site's.
"""

from __future__ import annotations

import fnmatch
import functools
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyinfra_cli.inventory
from pyinfra.api.arguments import all_argument_meta
from pyinfra.api.host import Host
from pyinfra.api.inventory import Inventory
from pyinfra.connectors.ssh import connector_data_meta
from pyinfra.connectors.ssh_util import _resolve_key_paths
from pyinfra.context import ctx_inventory
from pyinfra_cli.exceptions import UnexpectedExternalError
from pyinfra_cli.inventory import _get_group_data, _get_groups_from_filename, _get_imported_names, make_inventory

from gpuhost.catalog import lock
from gpuhost.catalog.layers import Layer, Layered
from gpuhost.catalog.lock import NONE, Pins
from gpuhost.catalog.types import BuildImage, Catalog, load
from gpuhost.errors import Problem, UserError, nearest, suggest
from gpuhost.images.dockerfile import exposed_ports
from gpuhost.project import PROJECT, project_file

# pyinfra parses a file of group data anew for each name in it: half a second for ours, three times a run.
imported_names = pyinfra_cli.inventory._get_imported_names = functools.cache(_get_imported_names)

# Keys that pyinfra's connectors and gpuhost's own command line read from host data.
_FOREIGN = ("ssh_", "_", "gpuhost_", "docker_identifier", "chroot_", "local_", "vagrant_", "terraform_")

_SSH = sorted(connector_data_meta)
_PYINFRA = [*_SSH, *all_argument_meta]


@dataclass(frozen=True)
class Request:
    """What a command line names. `inventory`: as pyinfra takes it; `project`: the folder of deploy.py, the working
    directory of the run; `cwd`: where the person stands, from where files are named.

    `data`, `limits`, `excluded`, `group_data`: of pyinfra's options `--data`, `--limit`, `--exclude`, `--group-data`.
    """

    inventory: str
    project: Path = field(default_factory=Path.cwd)
    cwd: Path = field(default_factory=Path.cwd)
    data: Mapping[str, Any] = field(default_factory=dict)
    limits: Sequence[str] = ()
    excluded: Sequence[str] = ()
    group_data: Sequence[str] = ()

    def shown(self, file: Path) -> str:
        """A file's name as seen by the person."""
        return str(file.relative_to(self.cwd) if file.is_relative_to(self.cwd) else file)


@dataclass(frozen=True)
class Site:
    """The hosts of an inventory. `folder`: where the inventory lies, to which `secrets_dir` and `.env` are relative;
    `chosen`: the hosts that `--limit` and `--exclude` leave; `pins`: what is locked; `unused`: a sentence for each file
    of group data that says nothing of any host, and for each model that no service names."""

    folder: Path
    chosen: Sequence[str]
    catalogs: Mapping[str, Catalog]
    layers: Mapping[str, Layered]
    pins: Pins = NONE
    unused: Sequence[str] = ()

    def catalog(self, host: str) -> Catalog:
        """What a host should be. Raises UserError when an inventory that is a program gave it only later."""
        if host not in self.catalogs:
            raise UserError(Problem("the inventory did not name this host when its data was read", "run it again"))
        return self.catalogs[host]


def read(request: Request) -> Site:
    """Read and check an inventory; the data of hosts that are not chosen is checked, too.

    Raises UserError with every problem once.
    """
    inventory, groups = _read(request)
    hosts = list(inventory)
    if not hosts:
        what = f"{request.shown(_located(request.inventory))} names no host"
        raise UserError(Problem(what, "add one; the head of gpuhost's own inventory.py shows how"))
    chosen = _chosen(hosts, request.limits, request.excluded)
    found = [*_unmatched(request, hosts), *_mistyped(hosts, inventory, groups), *_absent_keys(chosen, request.project)]
    layers = {host.name: Layered(_layers(host, inventory, groups)) for host in hosts}
    catalogs = {}
    for name, layered in layers.items():
        try:
            catalogs[name] = _validated(layered)
        except UserError as error:
            found += [problem for problem in error.problems if problem not in found]
    folder, pins = site_folder(request.inventory), NONE
    try:
        pins = lock.read(folder, request.project, request.shown(folder.absolute() / lock.FILE))
    except UserError as error:
        found += error.problems
    if found:
        raise UserError(*found)
    unused = [*_unused(request, hosts, groups), *_unnamed_models(catalogs, layers)]
    return Site(folder, [host.name for host in chosen], catalogs, layers, pins, unused)


def inventory(request: Request) -> Inventory:
    """The inventory as pyinfra has it. Raises UserError."""
    return _read(request)[0]


def site_folder(inventory: str) -> Path:
    """The folder of an inventory file, relative (`.`) when it is the working directory, which it also is when the
    inventory is no file."""
    folder = _located(inventory).parent
    return folder if Path(inventory).exists() and folder != Path.cwd() else Path()


# -- reading: inventory and group_data are programs, and may fail as any program does ----------------------------------


def _read(request: Request) -> tuple[Inventory, dict[str, list[Layer]]]:
    """The inventory, and group -> its layers."""
    own = [folder / "group_data" for folder in (request.project, site_folder(request.inventory).absolute())]
    more = [request.project / each for each in request.group_data]
    folders = list(dict.fromkeys([*own, *more]))
    try:
        inventory = make_inventory(
            request.inventory,
            override_data=dict(request.data),
            cwd=str(request.project),
            group_data_directories=[str(folder) for folder in more],
        )
        with ctx_inventory.use(inventory):
            files = [_files(folder, request) for folder in folders]
        layers: dict[str, list[Layer]] = {}
        for source in [files[0], _groups(request, inventory, files), *files[1:]]:
            for group, layer in source.items():
                layers.setdefault(group, []).append(layer)
        return inventory, layers
    except UnexpectedExternalError as error:
        raise UserError(_broken(error.exception, request, folders)) from error
    except Exception as error:
        raise UserError(_broken(error, request, folders)) from error


def _files(folder: Path, request: Request) -> dict[str, Layer]:
    """group -> what a folder of group_data, or a single file, says of it."""
    return {
        group: Layer(request.shown(folder if folder.is_file() else folder / f"{group}.py"), values)
        for group, values in _get_group_data(str(folder)).items()
    }


def _groups(request: Request, inventory: Inventory, files: Sequence[Mapping[str, Layer]]) -> dict[str, Layer]:
    """group -> the data that the inventory gives it: `lab = (["gpu1"], {"engine_source": "distro"})`."""
    if Path(request.inventory).exists():
        groups = _get_groups_from_filename(request.inventory)
        given = {name: group[1] for name, group in groups.items() if isinstance(group, tuple)}
    else:  # hosts, or a function that makes an inventory: pyinfra may have put what the files say into the same place
        read = {"all": inventory.get_data(), **inventory.group_data}
        given = {
            name: {
                key: value
                for key, value in values.items()
                if not any(
                    key in file[name].values and file[name].values[key] == value for file in files if name in file
                )
            }
            for name, values in read.items()
        }
    return {name: Layer(f"the inventory, group {name}", values) for name, values in given.items()}


def _layers(host: Host, inventory: Inventory, groups: Mapping[str, Sequence[Layer]]) -> list[Layer]:
    """The layers of one host, those that say something of ours."""
    ours = [
        Layer(layer.origin, {key: value for key, value in layer.values.items() if not key.startswith(_FOREIGN)})
        for layer in _all_layers(host, inventory, groups)
    ]
    return [layer for layer in ours if layer.values]


def _all_layers(host: Host, inventory: Inventory, groups: Mapping[str, Sequence[Layer]]) -> list[Layer]:
    """The layers of one host, with what is pyinfra's."""
    listed = [layer for group in ("all", *host.groups) for layer in groups.get(group, ())]
    listed.append(Layer(f"the inventory, host {host.name}", inventory.get_host_data(host.name)))
    return [*listed, Layer("--data", inventory.get_override_data())]


def _broken(error: Exception, request: Request, folders: Sequence[Path]) -> Problem:
    """Where and how one of these files failed."""
    inventory = _located(request.inventory)
    frames = [(_located(frame.filename), frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    words = str(error)
    if isinstance(error, SyntaxError):
        frames.append((_located(str(error.filename)), error.lineno))
        words = error.msg
    own = [(file, line) for file, line in frames if file.parent in folders or file in (inventory, *folders)]
    file, line = own[-1] if own else (inventory, None)
    where = f"{request.shown(file)}, line {line}" if line else request.shown(file)
    return Problem(f"{where}: {type(error).__name__}: {words}", "it is read as Python: mend it there")


def _located(file: str) -> Path:
    """The full path of a file; a link stays one, as for pyinfra, which looks for group_data beside it."""
    return Path(file).parent.resolve() / Path(file).name


# -- the hosts that the command line chooses ---------------------------------------------------------------------------


def _chosen(hosts: Sequence[Host], limits: Sequence[str], excluded: Sequence[str]) -> list[Host]:
    """The hosts that `--limit` and `--exclude` leave."""
    kept = [host for host in hosts if not limits or any(_matches(host, limit) for limit in limits)]
    return [host for host in kept if not any(_matches(host, name) for name in excluded)]


def _matches(host: Host, limit: str) -> bool:
    """As pyinfra understands it: a group, else a pattern of host names."""
    return limit in host.groups or fnmatch.fnmatch(host.name, limit)


def _unmatched(request: Request, hosts: Sequence[Host]) -> list[Problem]:
    """pyinfra exits 0 when it is left without a host: for us that is a mistake."""
    known = sorted({host.name for host in hosts} | {group for host in hosts for group in host.groups})
    named = [*(("limit", name) for name in request.limits), *(("exclude", name) for name in request.excluded)]
    found = [
        Problem(f"--{option} `{name}` names no host and no group of the inventory", suggest(name, known, "host"))
        for option, name in named
        if not any(_matches(host, name) for host in hosts)
    ]
    if not found and not _chosen(hosts, request.limits, request.excluded):
        return [Problem("--exclude leaves no host", "exclude fewer")]
    return found


def _mistyped(hosts: Sequence[Host], inventory: Inventory, groups: Mapping[str, Sequence[Layer]]) -> list[Problem]:
    """Names that pyinfra would leave aside: a host would be reached by another port or user than was meant."""
    found = dict[Problem, None]()
    for host in hosts:
        for layer in _all_layers(host, inventory, groups):
            for key in layer.values:
                if not key.startswith(("ssh_", "_")) or key in _PYINFRA:
                    continue
                near = nearest(key, _PYINFRA)
                if near or key.startswith("ssh_"):
                    hint = f"did you mean `{near}`?" if near else f"pyinfra knows {', '.join(_SSH)}"
                    found[Problem(f"{layer.origin}: `{key}` is nothing that pyinfra knows", hint)] = None
    return list(found)


def _unused(request: Request, hosts: Sequence[Host], groups: Mapping[str, Sequence[Layer]]) -> list[str]:
    """Files of group data whose group no host is in; not those that gpuhost ships, nor what an inventory says."""
    known = {"all", *(group for host in hosts for group in host.groups)}
    own = request.shown(request.project / "group_data")
    here = site_folder(request.inventory).absolute() == request.project
    files = [(group, layer.origin) for group, each in groups.items() if group not in known for layer in each]
    return [
        f"{origin} is not used: no host is in a group `{group}`" + (f"; did you mean `{near}`?" if near else "")
        for group, origin in files
        if origin.endswith(".py") and (here or not origin.startswith(f"{own}/"))
        for near in [nearest(group, sorted(known))]
    ]


def _unnamed_models(catalogs: Mapping[str, Catalog], layers: Mapping[str, Layered]) -> list[str]:
    """Models that no service of a host names, whether it is enabled or not."""
    found: dict[str, None] = {}
    for host, catalog in catalogs.items():
        named = {model for service in catalog.services.values() for model in service.models}
        for model in catalog.models:
            if model not in named:
                origin = layers[host].origin(f"models.{model}")
                found[f"{origin}: no service names the model `{model}`: it is not fetched"] = None
    return list(found)


def _absent_keys(hosts: Sequence[Host], project: Path) -> list[Problem]:
    """A key that is not there would end pyinfra with a traceback."""
    keys = [(host, host.data.get("ssh_key")) for host in hosts]
    return [
        Problem(f"the SSH key `{key}` is not there", "correct `ssh_key` in the inventory", host.name)
        for host, key in keys
        if key and not Path(_resolve_key_paths(key, str(project))[-1]).is_file()
    ]


# -- checking ----------------------------------------------------------------------------------------------------------


def _validated(layered: Layered) -> Catalog:
    try:
        catalog = load(layered.values, layered.origin)
    except UserError as error:
        raise UserError(*(_with_remover(problem, layered) for problem in error.problems)) from None
    absent = [
        Problem(f"{layered.origin(field)}: `{field}` names `{name}`, which is not in {where}/", hint)
        for field, name, where, hint in _absent_files(catalog)
    ]
    if absent:
        raise UserError(*absent)
    if closed := list(_closed_ports(catalog, layered)):
        raise UserError(*closed)
    return catalog


def _closed_ports(catalog: Catalog, layered: Layered) -> Iterator[Problem]:
    """A service of an image of ours whose port is another than those on which the image says that it listens."""
    for key, service in catalog.services.items():
        image, field = catalog.images[service.image], f"services.{key}.container_port"
        if not isinstance(image, BuildImage):
            continue
        ports = sorted(exposed_ports(project_file(f"files/{image.build}/Dockerfile")))
        if ports and service.container_port not in ports:
            shown = ", ".join(map(str, ports))
            what = f"`{field}`: its image `{service.image}` listens on {shown}, not on {service.container_port}"
            hint = f"set it to {ports[0]}; `services.{key}.port` is the host's, and may be any"
            yield Problem(f"{layered.origin(field)}: {what}", hint)


def _with_remover(problem: Problem, layered: Layered) -> Problem:
    """A name that does not exist because a layer took its entry away: the hint says which."""
    for name, origin in layered.taken_away().items():
        if problem.what.endswith(f"`{name}`, which does not exist"):  # as checks.py says it
            return replace(problem, hint=f"{origin} takes `{name}` away: change what names it there, too")
    return problem


def _absent_files(catalog: Catalog) -> Iterator[tuple[str, str, str, str]]:
    """(field, name, folder, hint) of every file of the project that is named and not there."""
    contexts = [path.parent.name for path in PROJECT.glob("files/*/Dockerfile")]
    for key, image in catalog.images.items():
        if isinstance(image, BuildImage) and image.build not in contexts:
            yield f"images.{key}.build", image.build, "files", suggest(image.build, contexts, "folder")
    scripts = [path.name for path in PROJECT.glob("files/*.sh")]
    for key, install in catalog.installs.items():
        if install.script not in scripts:
            yield f"installs.{key}.script", install.script, "files", suggest(install.script, scripts, "script")
    shipped = [str(path.relative_to(PROJECT / "files")) for path in (PROJECT / "files").rglob("*") if path.is_file()]
    templates = [path.name for path in PROJECT.glob("templates/*.j2")]
    for key, service in catalog.services.items():
        named = {"template": service.template}
        named |= {f"config_files.{file}": template for file, template in service.config_files.items()}
        for where, template in named.items():
            if template not in templates:
                yield f"services.{key}.{where}", template, "templates", suggest(template, templates, "template")
        for file, source in service.shipped_files.items():
            if source not in shipped:
                where = f"services.{key}.shipped_files.{file}"
                yield where, source, "files", "name a file by its path below files/"

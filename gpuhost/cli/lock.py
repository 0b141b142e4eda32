"""`gpuhost lock`: what every name in the data stands for today, written down. Contacts no host, but registries, package
indexes and the hub."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from gpuhost.catalog import lock
from gpuhost.catalog.inventory import Site
from gpuhost.catalog.lock import Lock, LockedFile, LockedImage, LockedInstall, LockedModel
from gpuhost.catalog.moved import OTHER_BYTES, moved
from gpuhost.catalog.types import Catalog, PullImage
from gpuhost.cli.arguments import Commands, add_examples, host_options
from gpuhost.cli.complete import completed_by, lockable
from gpuhost.cli.console import CHANGES, OK
from gpuhost.cli.site import site
from gpuhost.errors import Problem, UserError, suggest
from gpuhost.images.registry import Registries, client
from gpuhost.images.rules import is_pinned
from gpuhost.images.rules import sources as image_sources
from gpuhost.installs import requirements
from gpuhost.installs import rules as installs
from gpuhost.models import hub
from gpuhost.models.preflight import TOKEN
from gpuhost.secrets.store import SecretStore
from hostside.wire import printable


def add_to(commands: Commands) -> None:
    """Add the command to the command line."""
    about = "write down what tags, branches and version ranges stand for today (lock.json); contacts no host"
    command = commands.add_parser("lock", help=about, description=about)
    names = command.add_argument("names", metavar="NAME", nargs="*", help="only these images, installs and models")
    completed_by(names, lockable)
    host_options(command)
    command.add_argument("--check", action="store_true", help="write nothing, only say what moved")
    examples = ("gpuhost lock", "gpuhost lock --check", "gpuhost lock comfyui")
    add_examples(command, *examples, ok="written, or nothing moved", changes="something moved (--check)")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Look up, show what moved, write; the exit code. Raises UserError, and then nothing is written."""
    found = site(options)
    wanted = _wanted(found, options.names)
    with client() as http:
        resolved = _resolved(wanted, _Resolver(found, Registries(http)))
    new = _with(found, resolved, keep_all=bool(options.names))
    lines = moved(_compared(found, new), new)
    for line in lines:
        print(printable(line))
    if any(line.startswith(f"  {OTHER_BYTES} ") for line in lines):
        print(f"{OTHER_BYTES}: no update, but other bytes under the same name. Find out why first.", file=sys.stderr)
    if options.check:
        print("It moved: `gpuhost lock` writes it down." if lines else "Nothing moved.", file=sys.stderr)
        return CHANGES if lines else OK
    if new != found.pins.own:
        lock.write(found.folder, new)
        print(f"Written: {found.pins.shown}. Look at the diff, and keep it with the data.", file=sys.stderr)
    else:
        print("Nothing moved.", file=sys.stderr)
    return OK


# -- what is asked for -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Wanted:
    """What is to be looked up: references, installs, and (repository, revision) of models."""

    images: Sequence[str]
    installs: Sequence[str]
    models: Sequence[tuple[str, str]]


def _wanted(found: Site, names: Sequence[str]) -> _Wanted:
    """All that these names mean on the chosen hosts; without names, everything. Raises UserError."""
    catalogs = [found.catalogs[host] for host in found.chosen]
    known = {name for each in catalogs for name in (*each.images, *each.installs, *each.models)}
    if unknown := [name for name in names if name not in known]:
        what = f"no image, install or model is named `{unknown[0]}`"
        raise UserError(Problem(what, suggest(unknown[0], sorted(known), "entry")))
    if names:
        return _named(catalogs, lambda name: name in names)
    # Of models those that a service needs: the hub shows some to nobody who has not accepted their licence.
    needed = {model for each in catalogs for service in each.enabled().values() for model in service.models}
    everything = _named(catalogs)
    return replace(everything, models=_named(catalogs, lambda name: name in needed).models)


def _named(catalogs: Sequence[Catalog], chosen: Callable[[str], bool] = lambda name: True) -> _Wanted:
    """All names of the data that stand for something, but for those that are not `chosen`."""
    images = {
        reference
        for each in catalogs
        for name, image in each.images.items()
        if chosen(name)
        for reference in image_sources(image)
        if not is_pinned(reference)
    }
    packages = {
        name
        for each in catalogs
        for name, install in each.installs.items()
        if chosen(name) and installs.sources(install)
    }
    models = {(model.repo, model.revision) for each in catalogs for name, model in each.models.items() if chosen(name)}
    return _Wanted(sorted(images), sorted(packages), sorted(models))


# -- looking it up, a function a kind ----------------------------------------------------------------------------------


@dataclass
class _Resolver:
    """Looks up what one name stands for; each raises UserError."""

    found: Site
    registries: Registries
    asked: dict[str, str | UserError] = field(default_factory=dict)  # reference -> what came of it

    def image(self, reference: str) -> LockedImage:
        """The digest of a reference."""
        if reference not in self.asked:
            print(f"looking up {reference}", file=sys.stderr)
            try:
                self.asked[reference] = self.registries.digest(reference)
            except UserError as error:
                self.asked[reference] = error
        found = self.asked[reference]
        if isinstance(found, UserError):
            raise found
        return LockedImage(digest=found, download_bytes=self._download_bytes(reference, found))

    def _download_bytes(self, reference: str, digest: str) -> int | None:
        """Of what hosts pull. Asked for once a digest: registries count who reads a manifest as one who pulls."""
        images = [image for each in self.found.catalogs.values() for image in each.images.values()]
        if not any(isinstance(image, PullImage) and image.pull == reference for image in images):
            return None
        known = self.found.pins.own.images.get(reference)
        if known and known.digest == digest and known.download_bytes is not None:
            return known.download_bytes
        try:
            return self.registries.download_bytes(reference, digest)
        except UserError:  # a plan says that nobody knows; the digest is what counts
            return None

    def install(self, name: str) -> LockedInstall:
        """The packages of an install."""
        entries = [each for each in self.found.catalogs.values() if name in each.installs]
        subjects = {installs.lock_subject(each, name) for each in entries}
        if len(subjects) > 1:
            what = f"`installs.{name}` is not the same on all hosts, and lock.json has one of a name"
            raise UserError(Problem(what, "give the other one a name of its own"))
        install = entries[0].installs[name]
        python = self._python(image_sources(entries[0].images[install.image])[-1], install.image)
        print(f"resolving the packages of {name} for Python {python}", file=sys.stderr)
        packages = requirements.resolve(installs.sources(install), python)
        return LockedInstall.model_validate({"for": subjects.pop(), "requirements": packages})

    def model(self, asked: tuple[str, str]) -> LockedModel:
        """The commit of a repository's revision, and the files that any of its entries chooses."""
        print(f"looking up {' at '.join(asked)}", file=sys.stderr)
        files: dict[str, LockedFile] = {}
        commit = ""
        for host, catalog in self.found.catalogs.items():
            for model in catalog.models.values():
                if (model.repo, model.revision) == asked:
                    secrets = SecretStore(catalog, host, site=self.found.folder)
                    token = secrets.optional(TOKEN) if model.gated else None
                    seen = hub.resolve(*asked, model.allow, model.ignore, catalog.hub_endpoint, token)
                    files, commit = files | seen.files, seen.commit
        return LockedModel(commit=commit, files=files)

    def _python(self, base: str, image: str) -> str:
        """The Python version of the image that an install's script runs in."""
        digest = base.rpartition("@")[2] if is_pinned(base) else self.image(base).digest
        version = self.registries.environment(base, digest).get("PYTHON_VERSION", "")
        if not installs.PYTHON.fullmatch(version):
            what = f"the image {base}, on which `images.{image}` stands, does not say its Python (PYTHON_VERSION)"
            raise UserError(Problem(what, "take one of `docker.io/library/python`"))
        return version


def _resolved(wanted: _Wanted, resolver: _Resolver) -> Lock:
    """Everything that is wanted. Raises UserError with all that could not be looked up."""
    problems: list[Problem] = []
    images = _each(wanted.images, resolver.image, problems)
    packages = _each(wanted.installs, resolver.install, problems)
    models: dict[str, dict[str, LockedModel]] = {}
    for (repo, revision), found in _each(wanted.models, resolver.model, problems).items():
        models.setdefault(repo, {})[revision] = found
    if problems:
        raise UserError(*dict.fromkeys(problems))
    return Lock(version=1, models=models, images=images, installs=packages)


_Name = TypeVar("_Name")
_Found = TypeVar("_Found")


def _each(names: Sequence[_Name], look_up: Callable[[_Name], _Found], problems: list[Problem]) -> dict[_Name, _Found]:
    found = {}
    for name in names:
        try:
            found[name] = look_up(name)
        except UserError as error:
            problems += error.problems
    return found


# -- old and new -------------------------------------------------------------------------------------------------------


def _with(found: Site, resolved: Lock, keep_all: bool) -> Lock:
    """The site's lock with what was looked up; what no host names any more is dropped, unless `keep_all`."""
    own, named = found.pins.own, _named(list(found.catalogs.values()))
    images = {key: value for key, value in own.images.items() if keep_all or key in named.images}
    packages = {key: value for key, value in own.installs.items() if keep_all or key in named.installs}
    return Lock(
        version=1,
        models=_models(own.models, resolved.models, None if keep_all else named.models),
        images={**images, **resolved.images},
        installs={**packages, **resolved.installs},
    )


_Models = Mapping[str, Mapping[str, LockedModel]]


def _models(
    own: _Models, resolved: _Models, named: Sequence[tuple[str, str]] | None
) -> dict[str, dict[str, LockedModel]]:
    merged: dict[str, dict[str, LockedModel]] = {}
    for repo in {**own, **resolved}:
        kept = {r: each for r, each in own.get(repo, {}).items() if named is None or (repo, r) in named}
        if revisions := {**kept, **resolved.get(repo, {})}:
            merged[repo] = revisions
    return merged


def _compared(found: Site, new: Lock) -> Lock:
    """What held until now, of what the site has or gets."""
    own, all_ = found.pins.own, found.pins.merged()
    models = {
        repo: {
            r: each for r, each in revisions.items() if r in {**own.models.get(repo, {}), **new.models.get(repo, {})}
        }
        for repo, revisions in all_.models.items()
    }
    images = {key: each for key, each in all_.images.items() if key in {**own.images, **new.images}}
    packages = {key: each for key, each in all_.installs.items() if key in {**own.installs, **new.installs}}
    return Lock(version=1, models=models, images=images, installs=packages)

"""A plan that is kept in a file: what it rests on, and what of that is not so any more when it is to be done. Pure, but
for the file and the digest of the program."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from gpuhost.catalog import lock
from gpuhost.catalog.inventory import Site
from gpuhost.errors import Problem, UserError
from gpuhost.plan import report, spec
from gpuhost.plan.change import Change
from gpuhost.plan.document import VERSION, change_fields
from gpuhost.plan.schema import SavedPlan
from gpuhost.project import PROJECT, folder, project_file

BYTES_MAX = 64 * 2**20
_AGAIN = "make the plan anew: `gpuhost plan --out {file}`"
_PROGRAM = ("gpuhost", "tasks", "templates", "files")
_NAMED = 10  # differences that are told; the rest is counted

Event = dict[str, Any]


def made_of(
    site: Site,
    inventory: Path,
    limits: Sequence[str],
    only: Sequence[str],
    everything: bool,
    events: Sequence[Event],
    changes: Sequence[Event],
) -> SavedPlan:
    """The plan that a run announced. `everything`: it was asked for what is in new files, too."""
    return SavedPlan(
        version=VERSION,
        kind="gpuhost plan",
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
        gpuhost=version("gpuhost"),
        code=code_digest(),
        inventory=str(inventory),
        limits=list(limits),
        only=list(only),
        everything=everything,
        lock=_lock_digest(site),
        data=_data(site),
        revisions=report.revisions(events),
        changes=json.loads(json.dumps(change_fields(changes))),
    )


def write(file: Path, plan: SavedPlan) -> None:
    """0600, and whole or not at all. Raises UserError."""
    new, made = file.with_name(f".{file.name}.{os.getpid()}.new"), False
    try:
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        made = True
        with os.fdopen(descriptor, "w") as stream:
            stream.write(plan.model_dump_json(indent=2) + "\n")
        new.replace(file)
    except OSError as error:
        if made:
            new.unlink(missing_ok=True)
        raise UserError(Problem(f"{file} cannot be written: {error.strerror}", "name another file by --out")) from None


def read(file: Path) -> SavedPlan:
    """Raises UserError for what is none, and for one that others could have written: it names an inventory, and that is
    a program."""
    try:
        with file.open("rb") as stream:
            there = os.fstat(stream.fileno())
            if there.st_uid not in (os.geteuid(), 0) or there.st_mode & 0o022:
                hint = f"look whether it says what you want, then `chown $(id -un) {file}; chmod go-w {file}`"
                raise UserError(Problem(f"others can write to the plan {file}", hint))
            text = stream.read(BYTES_MAX)
    except OSError as error:
        hint = "`gpuhost plan --out plan.json` makes one; without a file `gpuhost apply` plans by itself"
        raise UserError(Problem(f"the plan {file} cannot be read: {error.strerror}", hint)) from None
    try:
        found = json.loads(text)
        if isinstance(found, dict) and found.get("kind") == "gpuhost plan" and found.get("version") != VERSION:
            what = f"{file} is a plan of version {found.get('version')}, this gpuhost does those of version {VERSION}"
            raise UserError(Problem(what, _AGAIN.format(file=file)))
        return SavedPlan.model_validate(found)
    except (ValueError, RecursionError):
        what = f"{file} is no plan of gpuhost's, or somebody changed it"
        raise UserError(Problem(what, _AGAIN.format(file=file))) from None


def changed_here(plan: SavedPlan, site: Site, file: Path) -> list[Problem]:
    """What is not as it was when the plan was made, on this side: the program, what is locked, the data."""
    hint, problems = _AGAIN.format(file=file), []
    if plan.code != code_digest():
        what = f"gpuhost is not the one that made the plan (version {plan.gpuhost}, now {version('gpuhost')})"
        problems.append(Problem(what if plan.gpuhost != version("gpuhost") else f"{what}: its files changed", hint))
    if plan.lock != _lock_digest(site):
        problems.append(Problem("lock.json changed since the plan was made", hint))
    now = _data(site)
    for host in dict.fromkeys([*plan.data, *now]):
        if host not in now or host not in plan.data:
            gone = f"{host} was in the inventory when the plan was made, and is not now"
            new = f"{host} is in the inventory now, and was not when the plan was made"
            problems.append(Problem(new if host in now else gone, hint, host))
            continue
        if found := spec.differences(plan.data[host], now[host]):
            told = _bounded([each.line() for each in found])
            problems.append(Problem("its data changed since the plan was made", hint, host, tuple(told)))
    return problems


def changed_on_hosts(plan: SavedPlan, events: Sequence[Event], changes: Sequence[Event], file: Path) -> Problem | None:
    """What another plan, made now, says otherwise. `events`, `changes`: of that."""
    then = {_key(each): each for each in (change.model_dump() for change in plan.changes)}
    now = {_key(each): each for each in json.loads(json.dumps(change_fields(changes)))}
    lines = [f"not to be done any more: {_line(then[key])}" for key in then if key not in now]
    lines += [f"to be done now, and not planned: {_line(now[key])}" for key in now if key not in then]
    lines += [
        f"found otherwise: {_line(now[key])}"
        for key in now
        if key in then and (_differs(then[key], now[key], "diff") or _differs(then[key], now[key], "text_diff"))
    ]
    if plan.revisions != json.loads(json.dumps(report.revisions(events))):
        lines.append("the hub says otherwise what revisions of models are")
    if not lines:
        return None
    return Problem(
        "the hosts are not as they were when the plan was made", _AGAIN.format(file=file), "", tuple(_bounded(lines))
    )


def code_digest() -> str:
    """Of what decides: the program, its stages, its templates, what it ships."""
    digest = hashlib.sha256()
    for name in _PROGRAM:
        for path, file in folder(PROJECT / name).items():
            content = hashlib.sha256(file.text.encode("utf-8", "surrogateescape")).hexdigest()
            digest.update(f"{name}/{path} {file.mode} {content}\n".encode())
    for path in ("deploy.py", "config.py"):
        digest.update(f"{path} {hashlib.sha256(project_file(path).encode()).hexdigest()}\n".encode())
    return digest.hexdigest()


def _lock_digest(site: Site) -> str:
    file = site.folder / lock.FILE
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""


def _data(site: Site) -> dict[str, dict[str, Any]]:
    return {host: site.catalogs[host].model_dump(mode="json") for host in site.chosen}


def _key(change: Mapping[str, Any]) -> tuple[str, ...]:
    return (change["host"], *(change["stage"], *change["resource"].values(), change["action"]))


def _line(change: Mapping[str, Any]) -> str:
    made = Change.of({**change, "scope": ""})
    return f"[{change['host']}] {'; '.join([made.line(), *(each.line() for each in made.untold)])}"


def _differs(then: Mapping[str, Any], now: Mapping[str, Any], part: str) -> bool:
    """A text diff that one of the two was not asked for says nothing."""
    told = part == "diff" or (then[part] and now[part])
    return bool(told and then[part] != now[part])


def _bounded(lines: Iterable[str]) -> list[str]:
    listed = list(lines)
    more = len(listed) - _NAMED
    return listed if more <= 0 else [*listed[:_NAMED], f"and {more} more"]

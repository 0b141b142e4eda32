"""`gpuhost secrets`: where every secret lives, and how it is renewed, shown, carried to another machine.

Exit codes: 0 done, all in sync; 1 error, or an audit that found a location out of sync.
"""

from __future__ import annotations

import argparse
import getpass
import shlex
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from gpuhost.catalog.checks import LABEL_KEY
from gpuhost.catalog.types import Catalog
from gpuhost.cli import complete
from gpuhost.cli.apply import Applied, apply, plan, print_applied
from gpuhost.cli.arguments import Commands, add_examples, host_options, run_options, target
from gpuhost.cli.console import (
    ERROR,
    OK,
    confirmed,
    counted,
    exit_code,
    print_document,
    print_notes,
    print_problems,
    problems_of,
)
from gpuhost.cli.progress import looked
from gpuhost.cli.site import site
from gpuhost.errors import Problem, UserError
from gpuhost.plan import report
from gpuhost.run import pyinfra
from gpuhost.run.pyinfra import Outcome
from gpuhost.secrets import archive, envfile
from gpuhost.secrets.locations import SHOWN
from gpuhost.secrets.store import ENVIRONMENT, NotYet, SecretStore
from gpuhost.verify.questions import answers_name, retired_name
from hostside.wire import printable

SYNC = ("secrets", "stacks", "verify")
PASSPHRASE_MIN = 12
_EXAMPLES = {
    "audit": "gpuhost secrets audit --json",
    "sync": "gpuhost secrets sync --limit gpu1",
    "rotate": "gpuhost secrets rotate ORCHESTRATOR_TOKEN",
    "show": "gpuhost secrets show COMFYUI_PASSWORD",
    "export": "gpuhost secrets export rescue.age",
    "import": "gpuhost secrets import rescue.age",
}
_OK = {"audit": "all in sync", "sync": "done and proved", "rotate": "proved", "show": "printed"}
Store = tuple[SecretStore, Catalog]


def add_to(commands: Commands) -> None:
    """Add the command and its own commands to the command line."""
    text = "where every secret lives; renew, show, carry over"
    group = commands.add_parser("secrets", help=text, description=text)
    add_examples(group, *_EXAMPLES.values())
    secrets = group.add_subparsers(metavar="COMMAND", required=True)
    actions = {"audit": _audit, "sync": _sync, "rotate": _rotate, "show": _show, "export": _export, "import": _import}
    about = {
        "audit": "every location of every secret: in sync, stale or missing",
        "sync": "make every location right, restart services that hold a stale value: the deploy, limited to that",
        "rotate": "a new value for a generated secret: sync, then prove that the old one is refused",
        "show": "print a value, on a terminal",
        "export": "write every secret of the inventory's hosts into one file, encrypted by a passphrase (age)",
        "import": "put the secrets of such a file where they belong; nothing that is there is replaced",
    }
    for name, text in about.items():
        command = secrets.add_parser(name, help=text, description=text)
        if name in ("rotate", "show"):
            name_of = command.add_argument("name", metavar="NAME", help="the secret, such as ORCHESTRATOR_TOKEN")
            complete.completed_by(name_of, complete.secrets if name == "show" else complete.renewable)
        if name in ("export", "import"):
            command.add_argument("file", metavar="FILE", type=Path, help="the encrypted file")
            command.add_argument(
                "--passphrase-file", type=Path, metavar="FILE", help="read the passphrase from its first line"
            )
        if name == "show":
            command.add_argument("--force", action="store_true", help="also when stdout is no terminal")
        if name in ("sync", "rotate"):
            command.add_argument("-y", "--yes", action="store_true", help="do not ask")
        if name in ("audit", "sync", "rotate"):
            command.add_argument("--json", action="store_true", help="the result as JSON on stdout")
            run_options(command)
        else:
            host_options(command)
        add_examples(command, _EXAMPLES[name], ok=_OK.get(name, "done"), error="not, or an error")
        command.set_defaults(run=actions[name])


# -- hosts -------------------------------------------------------------------------------------------------------------


def _audit(options: argparse.Namespace) -> int:
    hosts = target(options)
    outcome = looked("audit", lambda watch: pyinfra.look(hosts, "audit", watch=watch), options.json)
    locations = list(report.select(outcome.events, "secret_location"))
    wrong = [location for location in locations if location["state"] != "in sync"]
    problems = problems_of(outcome)
    code = ERROR if problems or wrong else OK
    if options.json:
        fields = ("host", "secret", "kind", "where", "state", "fingerprint")
        result = "error" if problems else "out of sync" if wrong else "ok"
        shown = [{key: location[key] for key in fields} for location in locations]
        print_document(result, {"locations": shown}, problems)
        return code
    for line in _table(locations):
        print(printable(line))  # names of containers are the host's
    print_notes(outcome)
    print_problems(*problems)
    if wrong:
        what = f"{len(wrong)} of {counted(len(locations), 'location')} not in sync"
        strays = sorted({location["where"] for location in wrong if location["kind"] == "stray container"})
        hint = "`gpuhost secrets sync` makes them right"
        if strays:
            hint += f"; no service of this host is any more, so remove it there: docker rm -f {shlex.join(strays)}"
        print_problems(Problem(what, hint))
    elif code == OK:
        print(f"{counted(len(locations), 'location')} in sync.")
    return code


def _table(locations: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    heading = ""
    for location in sorted(locations, key=lambda location: (location["host"], location["secret"])):
        if heading != (heading := f"[{location['host']}] {location['secret']}"):
            yield heading
        held = (location["fingerprint"] or "-")[:SHOWN]
        yield f"  {location['state']:8} {location['kind']:12} {held:{SHOWN}} {location['where']}"


def _sync(options: argparse.Namespace) -> int:
    applied = apply(target(options), options.yes, options.json, SYNC, _only_secrets)
    return print_applied(applied, options)


def _only_secrets(outcome: Outcome) -> Problem | None:
    """The problem of a plan that would do something else, too."""
    for change in outcome.changes("plan"):
        if not change["scope"]:
            what = f"not only secrets differ: `{change['stage']}: {change['action']} {change['resource']['name']}`"
            hint = "`gpuhost apply` makes all right, the secrets too"
            return Problem(f"{what}, because {change['reason']}", hint, change["host"])
    return None


def _rotate(options: argparse.Namespace) -> int:
    stores, hosts = _stores(options), target(options)
    renewed = {store.host: store.renewable(options.name) for store, _ in stores}
    # Asked before there is a new value: a host that cannot be reached or differs in more keeps the one that it has.
    before = plan(hosts, options.json, SYNC, _only_secrets)
    if exit_code(before.outcome) == ERROR or before.problems:
        return print_applied(before, options)
    for store, catalog in stores:
        print(_announcement(store, catalog, renewed[store.host]), file=sys.stderr)
    if not options.yes and not confirmed(f"Rotate on {counted(len(stores), 'host')}?"):
        return ERROR
    for store, _ in stores:
        store.rotate(options.name)
    retired = {store.host: store.retired() for store, _ in stores}
    applied = apply(hosts, True, options.json, SYNC, _only_secrets)
    assert applied is not None
    proved = _proved(stores, applied)
    proofs = [
        proof for store, catalog in proved for proof in _proofs(applied.outcome, store, catalog, retired[store.host])
    ]
    for store, _ in proved:
        store.forget(retired[store.host])
    code = print_applied(applied, options, {"proved": proofs})
    if not options.json:
        for proof in proofs:
            old, new = proof["old_status"], proof["new_status"]
            told = f"[{proof['host']}] {proof['service']}: the old {proof['secret']} gets {old}, the new one {new}"
            print(printable(told))
    for host in sorted({store.host for store, _ in stores} - {store.host for store, _ in proved}):
        what = "the rotation is not finished: some service may still take the old value"
        print_problems(Problem(what, "run it again: it goes on with the same new value", host))
    return code


def _announcement(store: SecretStore, catalog: Catalog, names: Sequence[str]) -> str:
    """What a rotation of `names` will do on a host."""
    users = _users(catalog, names)
    also = f" (and {', '.join(names[1:])})" if names[1:] else ""
    new = "goes on with the new value of an earlier rotation" if store.is_rotating(names) else "a new value"
    what = f"restarts {', '.join(users)}" if users else "no service uses it"
    return f"[{store.host}] {names[0]}{also}: {new}; {what}"


def _proved(stores: Sequence[Store], applied: Applied) -> list[Store]:
    """Those of the hosts where every service refused the old value and took the new one."""
    if exit_code(applied.outcome) == OK and not applied.problems:
        return list(stores)
    verdicts = report.select(applied.outcome.events, "verdict")
    failed = {problem["host"] for problem in applied.outcome.problems()}
    verified = {event["host"] for event in verdicts if event["ok"]} - failed
    return [(store, catalog) for store, catalog in stores if store.host in verified]


def _users(catalog: Catalog, names: Sequence[str]) -> list[str]:
    """The services that hold one of these secrets, or whose stamp is keyed by it."""
    return [
        name
        for name, entry in catalog.enabled().items()
        if (held := set(entry.container_secrets())) & set(names) or (held and LABEL_KEY in names)
    ]


def _proofs(
    outcome: Outcome, store: SecretStore, catalog: Catalog, retired: Mapping[str, Iterable[str]]
) -> Iterator[dict[str, Any]]:
    """What each service of a host answered to the old and to the new value of each secret that was retired."""
    for seen in report.select(outcome.events, "observed"):
        if seen["host"] != store.host:
            continue
        status = {probe["name"]: probe["status"] for probe in seen["probes"]}
        auth = catalog.services[seen["service"]].auth
        if auth is None or auth.token not in retired or retired_name(auth.token) not in status:
            continue
        yield {
            "host": store.host,
            "service": seen["service"],
            "secret": auth.token,
            "old_status": status[retired_name(auth.token)],
            "new_status": status[answers_name(auth.locked_paths[0])],
        }


# -- the control side --------------------------------------------------------------------------------------------------


def _stores(options: argparse.Namespace) -> list[Store]:
    """The store and the catalogue of every host that the command line names. Raises UserError."""
    found = site(options)
    return [(SecretStore(found.catalogs[host], host, site=found.folder), found.catalogs[host]) for host in found.chosen]


def _show(options: argparse.Namespace) -> int:
    if not sys.stdout.isatty() and not options.force:
        what = "a secret is printed to a terminal only, and stdout is none"
        return print_problems(Problem(what, "add --force when it must go somewhere else"))
    values = {}
    for store, catalog in _stores(options):
        if options.name not in catalog.secrets:
            store.renewable(options.name)  # raises: there is no such secret
        try:
            values[store.host] = store.value(options.name)
        except NotYet:
            return print_problems(
                Problem(f"`{options.name}` is not generated yet", "`gpuhost apply` does that", store.host)
            )
    if len(set(values.values())) > 1:
        what = f"`{options.name}` differs between {', '.join(values)}"
        return print_problems(Problem(what, f"name one host: --limit {next(iter(values))}"))
    print(next(iter(values.values())))
    return OK


def _export(options: argparse.Namespace) -> int:
    stores = _stores(options)
    folder = _folder(stores)
    if options.file.exists():
        return print_problems(Problem(f"{options.file} exists", "name another file: nothing is overwritten"))
    files = {_entry(path, folder): path for store, _ in stores for path in store.files()}
    if not files:
        return print_problems(Problem("there are no secrets yet", "`gpuhost apply` generates them"))
    content = {name: _content(path) for name, path in files.items()}
    packed = archive.pack(content, _passphrase(options, twice=True))
    try:
        envfile.replace(options.file, packed)
    except OSError as error:
        hint = "name a file in a folder that you may write to"
        return print_problems(Problem(f"{options.file} cannot be written: {error.strerror}", hint))
    for store, catalog in stores:
        outside = [name for name in catalog.secrets if store.source(name) == ENVIRONMENT]
        if outside:
            print(f"[{store.host}] not in it, for the environment gives them: {', '.join(outside)}", file=sys.stderr)
    print(f"{options.file}: {', '.join(files)}")
    return OK


def _import(options: argparse.Namespace) -> int:
    stores = _stores(options)
    folder, shared = _folder(stores), stores[0][0].shared
    try:
        data = options.file.read_bytes()
    except OSError as error:
        return print_problems(
            Problem(f"{options.file} cannot be read: {error.strerror}", "name the file that export wrote")
        )
    files = archive.unpack(data, _passphrase(options, twice=False))
    destinations = {_destination(name, folder, shared): content for name, content in files.items()}
    with envfile.locked(folder):
        new = {path: content for path, content in destinations.items() if not path.exists()}
        differing = [path for path in destinations if path not in new and not _holds(path, destinations[path])]
        if differing:
            return print_problems(
                *(
                    Problem(f"{path} is there and differs", f"move it away first: mv {path} {path}.old")
                    for path in differing
                )
            )
        for path, content in new.items():
            envfile.replace(path, content)
    for path in destinations:
        print(f"{path}: {'written' if path in new else 'there already'}")
    return OK


def _holds(path: Path, content: bytes) -> bool:
    return path.is_file() and path.read_bytes() == content


def _folder(stores: Sequence[Store]) -> Path:
    folders = sorted({str(store.folder) for store, _ in stores})
    if len(folders) > 1:
        what = f"the hosts keep their secrets in several folders: {', '.join(folders)}"
        raise UserError(Problem(what, f"take one host at a time: --limit {stores[0][0].host}"))
    return Path(folders[0])


def _entry(path: Path, folder: Path) -> str:
    """A file's name in the archive, wherever this machine keeps its secrets."""
    return f"secrets/{path.name}" if path.parent == folder else path.name


def _content(path: Path) -> bytes:
    """A file of secrets; what sops encrypted may be read by everybody. Raises UserError."""
    return path.read_bytes() if path.name.endswith(".sops.env") else (envfile.read_private(path) or "").encode()


def _destination(name: str, folder: Path, shared: Path) -> Path:
    """Where a file of an archive belongs. Raises UserError for what export does not write."""
    parts = PurePosixPath(name).parts
    if name == shared.name:
        return shared
    if len(parts) == 2 and parts[0] == "secrets" and name.endswith((".env", ".retired.json")):
        return folder / parts[1]
    raise UserError(Problem(f"`{name}` in the archive is no file of secrets", "name the file that export wrote"))


def _passphrase(options: argparse.Namespace, twice: bool) -> str:
    """From the file that was named, else from the terminal. Raises UserError."""
    if options.passphrase_file:
        text = envfile.read_private(options.passphrase_file)
        if text is None:
            raise UserError(
                Problem(f"there is no {options.passphrase_file}", "write the passphrase into it (chmod 600)")
            )
        given = text.partition("\n")[0].removesuffix("\r")
    else:
        given = _asked("passphrase: ")
        if twice and _asked("again: ") != given:
            raise UserError(Problem("the two passphrases differ", "run it again"))
    if len(given) < PASSPHRASE_MIN:
        raise UserError(Problem(f"the passphrase is shorter than {PASSPHRASE_MIN} characters", "take several words"))
    return given


def _asked(prompt: str) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("error", getpass.GetPassWarning)
        try:
            return getpass.getpass(prompt)
        except getpass.GetPassWarning:
            what = "nobody can be asked for the passphrase: there is no terminal"
            raise UserError(Problem(what, "--passphrase-file FILE")) from None
        except EOFError:
            raise UserError(Problem("no passphrase was given", "run it again")) from None

"""`gpuhost models`: what each host has of its models; hash again, free what is unused, take what lies elsewhere.

Exit codes: 0 done, all there and verified; 1 error, or a model that is not complete.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any

from gpuhost.cli.apply import apply, plan, print_applied, watched
from gpuhost.cli.arguments import Commands, add_examples, run_options, target
from gpuhost.cli.console import ERROR, OK, exit_code, print_document, print_notes, print_problems, problems_of
from gpuhost.cli.progress import looked
from gpuhost.errors import Problem, UserError
from gpuhost.plan import report
from gpuhost.plan.sizes import size
from gpuhost.run import pyinfra
from gpuhost.run.data import IMPORT_DATA
from hostside.wire import printable

_ABOUT = {
    "status": "every model that the hosts need or have: size, on disk, verified when, used by",
    "verify": "read and hash every file again; one with other bytes is set aside, and the next apply fetches it",
    "prune": "free the disk of what no service of a host uses any more; shows what, and asks",
    "import": "take files that lie in a folder of the host already (an old ComfyUI tree, another cache), by their hash",
}
_OK = {"status": "all complete", "verify": "all right", "prune": "done", "import": "done"}
_EXAMPLES = {
    "status": "gpuhost models status --json",
    "verify": "gpuhost models verify --limit gpu1",
    "prune": "gpuhost models prune",
    "import": "gpuhost models import /home/me/ComfyUI/models",
}


def add_to(commands: Commands) -> None:
    """Add the command and its own commands to the command line."""
    text = "what each host has of its models; hash again, free, import"
    group = commands.add_parser("models", help=text, description=text)
    add_examples(group, *_EXAMPLES.values())
    models = group.add_subparsers(metavar="COMMAND", required=True)
    actions = {"status": _status, "verify": _verify, "prune": _prune, "import": _import}
    for name, text in _ABOUT.items():
        command = models.add_parser(name, help=text, description=text)
        if name == "import":
            command.add_argument("folder", metavar="FOLDER", help="a folder on the host")
        if name in ("prune", "import"):
            command.add_argument("-y", "--yes", action="store_true", help="do not ask")
        command.add_argument("--json", action="store_true", help="the result as JSON on stdout")
        run_options(command)
        error = "error, or the answer was no" if name in ("prune", "import") else "not, or an error"
        add_examples(command, _EXAMPLES[name], ok=_OK[name], error=error)
        command.set_defaults(run=actions[name])


# -- status ------------------------------------------------------------------------------------------------------------


def _status(options: argparse.Namespace) -> int:
    hosts = target(options)
    outcome = looked("models", lambda watch: pyinfra.look(hosts, "model_status", watch=watch), options.json)
    models = list(report.select(outcome.events, "model"))
    problems = problems_of(outcome)
    wrong = [model for model in models if model["state"] in ("partial", "absent")]
    code = ERROR if problems or wrong else OK
    if options.json:
        shown = [{key: value for key, value in model.items() if key != "event"} for model in models]
        result = "error" if problems else "incomplete" if wrong else "ok"
        print_document(result, {"models": shown}, problems)
        return code
    for line in status_lines(models):
        print(line)
    print_notes(outcome)
    print_problems(*problems)
    if wrong:
        what = f"not complete: {', '.join(sorted({model['name'] for model in wrong}))}"
        print_problems(Problem(what, "`gpuhost apply` fetches what is missing"))
    return code


def status_lines(models: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Three lines a model, by host, within 80 columns as far as names allow; then what could be freed."""
    for name in dict.fromkeys(model["host"] for model in models):
        mine = [model for model in models if model["host"] == name]
        yield printable(f"[{name}]")
        for model in mine:
            yield from _model_lines(model)
        free = sum(model["disk_bytes"] for model in mine if model["state"] == "unused")
        total = sum(model["disk_bytes"] for model in mine)
        yield f"  {size(total)} on disk" + (f"; {size(free)} unused: `gpuhost models prune`" if free else "")


def _model_lines(model: Mapping[str, Any]) -> Iterator[str]:
    on_disk, whole = size(model["disk_bytes"]), size(model["bytes"])
    amount = on_disk if on_disk == whole else f"{on_disk} of {whole}"
    yield printable(f"  {model['name']:24} {model['state']:8}  {amount}")
    revision, commit = model["revision"], model["commit"][:12]
    at = revision[:12] if not commit or revision.startswith(commit) else f"{revision} = {commit}"
    yield printable(f"      {model['repo']} at {at}")
    users = ", ".join(model["used_by"]) or "no service"
    yield printable(f"      {_proved(model)}; used by {users}")


def _proved(model: Mapping[str, Any]) -> str:
    """`verified` is said of what was compared with a known hash, and of nothing else."""
    if not model["verified_ns"]:
        return "not verified"
    when = datetime.fromtimestamp(model["verified_ns"] / 1e9, UTC).strftime("%Y-%m-%d %H:%M")
    if model["checked_against"] == "none":
        return f"read {when}, compared with no known hash"
    return f"verified {when} UTC against the {model['checked_against']}"


# -- verify, prune, import ---------------------------------------------------------------------------------------------


def _verify(options: argparse.Namespace) -> int:
    hosts = target(options)
    outcome = watched("models", lambda watch: pyinfra.look(hosts, "model_verify", watch=watch), options.json)
    problems = problems_of(outcome)
    hashed = list(report.select(outcome.events, "models_verified"))
    code = ERROR if problems else OK
    if options.json:
        shown = [{"host": each["host"], "files": each["files"], "bytes": each["bytes"]} for each in hashed]
        result = "error" if problems else "ok"
        print_document(result, {"verified": shown}, problems)
        return code
    print_notes(outcome)
    print_problems(*problems)
    for each in hashed if code == OK else ():
        print(printable(f"[{each['host']}] {each['files']} files, {size(each['bytes'])}: every hash is the known one"))
    if code != OK and outcome.log:
        print_problems(Problem("not every file could be verified", f"all that was printed: {outcome.log}"))
    return code


def _prune(options: argparse.Namespace) -> int:
    return _asked(options, "model_prune", {}, "Nothing to prune: every model on disk is used by a service.")


def _import(options: argparse.Namespace) -> int:
    folder = PurePosixPath(options.folder)
    if not folder.is_absolute() or ".." in folder.parts:
        raise UserError(Problem(f"`{folder}` is no full path", "name a folder of the host, such as /home/me/models"))
    nothing = f"Nothing to import: no missing file of a model has the size of one in {folder}."
    return _asked(options, "model_import", {IMPORT_DATA: str(folder)}, nothing)


def _asked(options: argparse.Namespace, stage: str, data: Mapping[str, str], nothing: str) -> int:
    """Plan, ask, do exactly that."""
    hosts = target(options, data)
    planned = plan(hosts, options.json, [stage])
    if exit_code(planned.outcome) == ERROR:
        return print_applied(planned, options)
    if not any(change["resource"]["kind"] == "model" for change in planned.outcome.changes("plan")):
        if options.json:
            return print_applied(planned, options)
        print_notes(planned.outcome, planned=True)
        print(nothing)
        return OK
    return print_applied(apply(hosts, options.yes, options.json, [stage], planned=planned), options)

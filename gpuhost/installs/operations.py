"""An install: its script run once, in a container that outlives a dropped connection; then the record of its files."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from pyinfra.api.operation import operation
from pyinfra.context import host

from gpuhost.catalog.types import Account
from gpuhost.host.measures import BEGIN, noted
from gpuhost.installs import rules
from gpuhost.installs.facts import InstallReading, InstallState
from gpuhost.plan.spec import Spec, digest
from gpuhost.run.remote import Script
from gpuhost.run.session import Commands, carry_out
from hostside.protocol.trees import TreeRequest
from hostside.wire import to_json

# A rerun attaches to the container that still works. The manifest says `unfinished` from before the script's start
# until all that it made was read: what a killed run leaves is finished and read by the next one.
_ONE_SHOT = r"""
set -u; name=@NAME@; began=; request="$(cat)"; tree() { printf '%s' "$request" | @TREES@ "$1"; }
@SET_ASIDE@
tree begin || exit 1
if [ "$(docker inspect -f '{{.State.Running}}' "$name" 2>/dev/null)" != true ]; then
  docker rm -f "$name" >/dev/null 2>&1; @BEGIN@
  docker run -d --name "$name" --label gpuhost.job=install --network bridge @OPTIONS@ >/dev/null || exit 1
fi
docker logs -f "$name" 2>&1; code="$(docker wait "$name")"; docker rm "$name" >/dev/null
[ "$code" = 0 ] || exit "$code"
tree record || exit
[ -n "$began" ] || exit 0  # of one that an earlier run began nobody here knows how long it took
@NOTE@"""
_LOCK = "/requirements.lock"  # in the container
_SET_ASIDE = 'docker rm -f "$name" >/dev/null 2>&1; tree set-aside || exit 1'


def look(path: str, manifest: str) -> InstallReading:
    """What is installed at a path and beside it."""
    return host.get_fact(InstallState, path=path, manifest=manifest)


@operation()
def installed(
    path: str,
    manifest: str,
    spec: Spec,
    image: str,
    environment: Mapping[str, str],
    script: str,
    account: Account,
    limits: Sequence[str],
    trees_command: str,
    measures: str,
    lock: str | None = None,
) -> Commands:
    """The install at `path` (a folder of the account) is complete, made from `spec`, and holds what its `manifest`
    says. `script`: its path there; `lock`: that of the file with its packages, None when none are locked; `limits`: of
    its container, options of `docker run`; `measures`: the file that notes how long it took."""
    finding = rules.judge(path, spec, look(path, manifest))
    if finding is None:
        return
    request = to_json(TreeRequest(path, manifest))
    if finding.action == "record":
        step = Script(f"{trees_command} record", stdin=request)
    else:
        options = ["--pull=never", "--read-only", "--tmpfs=/tmp:size=256m", "--cap-drop=ALL"]
        options += [*limits, "--security-opt=no-new-privileges"]
        options += [f"--user={account.uid}:{account.gid}"]
        options += [f"--env={key}={value}" for key, value in environment.items()]
        options += [f"--volume={path}:/app", f"--volume={script}:/install.sh:ro"]
        if lock:
            options += [f"--volume={lock}:{_LOCK}:ro", f"--env=REQUIREMENTS_LOCK={_LOCK}"]
        options += [image, "bash", "/install.sh"]
        marks = {
            "@NAME@": f"gpuhost-install-{digest([path, spec])[:12]}",
            "@TREES@": trees_command,
            "@BEGIN@": BEGIN,
            "@NOTE@": noted(measures, "install", path, f"du -s --block-size=1 {shlex.quote(path)} | cut -f1"),
            "@SET_ASIDE@": _SET_ASIDE if finding.action == "reinstall" else "",
            "@OPTIONS@": shlex.join(options),
        }
        command = _ONE_SHOT
        for mark, text in marks.items():
            command = command.replace(mark, text)
        step = Script(command, stdin=request, live=True)
    yield from carry_out([finding.change(path)], [step])

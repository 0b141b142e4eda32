"""ComfyUI: the one-shot install, and the key file that each service with a login keeps for itself."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from pyinfra.api.operation import operation
from pyinfra.context import host

from gpuhost.catalog.types import Account
from gpuhost.files.facts import FilesState, Texts
from gpuhost.installs import rules
from gpuhost.plan.change import Change, Resource
from gpuhost.run.remote import Step
from gpuhost.run.session import Commands, carry_out

# The container outlives a dropped connection; a rerun attaches to the one that still works.
_ONE_SHOT = r"""
set -u; name=@NAME@
if [ "$(docker inspect -f '{{.State.Running}}' "$name" 2>/dev/null)" != true ]; then
  docker rm -f "$name" >/dev/null 2>&1
  docker run -d --name "$name" --label gpuhost.job=comfyui-install --network bridge @OPTIONS@ >/dev/null || exit 1
fi
docker logs -f "$name" 2>&1; code="$(docker wait "$name")"; docker rm "$name" >/dev/null; exit "$code"
"""


@operation()
def installed(
    path: str, spec: str, image: str, variables: Mapping[str, str], installer: str, account: Account
) -> Commands:
    """The install at `path` (a folder of the account) is complete and made from `spec`. `installer`: the script."""
    stamp = f"{path}/{rules.STAMP}"
    changes = rules.reconcile(path, spec, host.get_fact(Texts, paths=[stamp]).get(stamp))
    options = ["--pull=never", "--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--security-opt=no-new-privileges"]
    options += [f"--user={account.uid}:{account.gid}"]
    options += [f"--env={key}={value}" for key, value in variables.items()]
    options += [f"--volume={path}:/app", f"--volume={installer}:/install_comfyui.sh:ro"]
    options += [image, "bash", "/install_comfyui.sh"]
    name = f"gpuhost-comfyui-install-{spec[:12]}"
    script = _ONE_SHOT.replace("@NAME@", name).replace("@OPTIONS@", shlex.join(options))
    yield from carry_out(changes, [Step(script, live=True)])


# A service's container writes its data folder: root follows no link that it may have put there, the account does it.
_AS_ACCOUNT = "setpriv --reuid={uid} --regid={gid} --clear-groups -- sh -c {script}"

# The node renews the key itself (every 30 days) and needs one to begin with: an empty file would leave the door open.
_SEED = r"""
set -eu; umask 077
for path in @PATHS@; do
  [ -s "$path" ] || { rm -f "$path.new"; printf '%s,%s' "$(head -c 32 /dev/urandom | base64 -w0 | tr '+/' '-_')" \
    "$(date +%Y-%m-%dT%H:%M:%S.%6N)" > "$path.new"; mv -f "$path.new" "$path"; }
done
"""


def _as_account(account: Account, script: str) -> Step:
    return Step(_AS_ACCOUNT.format(uid=account.uid, gid=account.gid, script=shlex.quote(script)))


@operation()
def own_nodes(folders: Sequence[str], account: Account) -> Commands:
    """Each service has a folder for nodes of its own: without it ComfyUI does not start."""
    observed = host.get_fact(FilesState, paths=list(folders))
    absent = [path for path in folders if path not in observed]
    changes = [
        Change("comfyui", Resource("folder", path), "create", "ComfyUI does not start without it") for path in absent
    ]
    yield from carry_out(changes, [_as_account(account, f"umask 022; mkdir {shlex.join(absent)}")])


@operation()
def session_keys(paths: Sequence[str], account: Account) -> Commands:
    """Each service with a login has a key of its own for its cookies; an existing one is left alone."""
    observed = host.get_fact(FilesState, paths=list(paths))
    absent = [path for path in paths if path not in observed or observed[path].kind == "regular empty file"]
    changes = [Change("comfyui", Resource("file", path), "create", "the service has no session key") for path in absent]
    yield from carry_out(changes, [_as_account(account, _SEED.replace("@PATHS@", shlex.join(absent)))])

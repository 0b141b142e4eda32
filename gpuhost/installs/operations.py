"""An install: its script run once, in a container that outlives a dropped connection."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from pyinfra.api.operation import operation
from pyinfra.context import host

from gpuhost.catalog.types import Account
from gpuhost.installs import rules
from gpuhost.installs.facts import Stamps
from gpuhost.plan.spec import Spec, digest
from gpuhost.run.remote import Step
from gpuhost.run.session import Commands, carry_out

# A rerun attaches to the container that still works.
_ONE_SHOT = r"""
set -u; name=@NAME@
if [ "$(docker inspect -f '{{.State.Running}}' "$name" 2>/dev/null)" != true ]; then
  docker rm -f "$name" >/dev/null 2>&1
  docker run -d --name "$name" --label gpuhost.job=install --network bridge @OPTIONS@ >/dev/null || exit 1
fi
docker logs -f "$name" 2>&1; code="$(docker wait "$name")"; docker rm "$name" >/dev/null; exit "$code"
"""


@operation()
def installed(
    path: str, spec: Spec, image: str, environment: Mapping[str, str], script: str, account: Account
) -> Commands:
    """The install at `path` (a folder of the account) is complete and made from `spec`. `script`: its path there."""
    stamps: dict[str, str] = host.get_fact(Stamps, root=path.rpartition("/")[0])
    changes = rules.reconcile(path, spec, stamps)
    options = ["--pull=never", "--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--security-opt=no-new-privileges"]
    options += [f"--user={account.uid}:{account.gid}"]
    options += [f"--env={key}={value}" for key, value in environment.items()]
    options += [f"--volume={path}:/app", f"--volume={script}:/install.sh:ro"]
    options += [image, "bash", "/install.sh"]
    name = f"gpuhost-install-{digest([path, spec])[:12]}"
    command = _ONE_SHOT.replace("@NAME@", name).replace("@OPTIONS@", shlex.join(options))
    yield from carry_out(changes, [Step(command, live=True)])

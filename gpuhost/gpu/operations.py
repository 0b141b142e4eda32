"""The CDI specification through which Docker gives a GPU to a container."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence

from pyinfra.api.operation import operation
from pyinfra.context import host

from gpuhost.files.facts import Texts
from gpuhost.gpu import rules
from gpuhost.run.remote import Script
from gpuhost.run.session import Commands, carry_out

# The toolkit's own unit where there is one (it also runs at boot and after driver updates), else by hand.
_REFRESH = r"""
set -eu; umask 022
systemctl restart nvidia-cdi-refresh.service 2>/dev/null || nvidia-ctk cdi generate --output=@FILE@
for gpu in @GPUS@; do grep -qF -- "$gpu" @FILE@ || {
  echo "error: the CDI specification does not name $gpu" >&2
  echo "hint: nvidia-ctk cdi generate; nvidia-smi -L; a reboot if the driver was updated" >&2; exit 1; }; done
mkdir -p "$(dirname @STAMP@)"; cat > @STAMP@.new; sync @STAMP@.new; mv -f @STAMP@.new @STAMP@
"""


@operation()
def cdi(uuids: Sequence[str], driver: str, toolkit: str, stamp: str) -> Commands:
    """/var/run/cdi/nvidia.yaml names every GPU (by UUID) and is made by this toolkit for this driver."""
    texts = host.get_fact(Texts, paths=[rules.CDI_FILE, stamp])
    wanted: dict[str, object] = {"gpus": sorted(uuids), "driver": driver, "toolkit": toolkit}
    devices = rules.devices(texts.get(rules.CDI_FILE, ""))
    changes = rules.reconcile(wanted, rules.stamped(texts.get(stamp)), devices)
    script = _REFRESH.replace("@FILE@", rules.CDI_FILE).replace("@STAMP@", stamp).replace("@GPUS@", shlex.join(uuids))
    yield from carry_out(changes, [Script(script, stdin=json.dumps(wanted))])

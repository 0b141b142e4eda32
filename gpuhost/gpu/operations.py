"""The CDI specification through which Docker gives a GPU to a container."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence

from pyinfra.api.operation import operation
from pyinfra.context import host

from gpuhost.files.facts import Texts
from gpuhost.gpu import rules
from gpuhost.run.remote import Step
from gpuhost.run.session import Commands, carry_out
from gpuhost.systemd.facts import AtBoot

# The toolkit's own unit where there is one (it also runs at boot and after driver updates), else by hand.
_REFRESH = r"""
set -eu; umask 022
systemctl restart nvidia-cdi-refresh.service 2>/dev/null || true
# Where its condition is not met systemd starts it and does nothing.
for gpu in @GPUS@; do grep -qF -- "$gpu" @FILE@ 2>/dev/null || missing=yes; done
[ -z "${missing-}" ] || nvidia-ctk cdi generate --output=@FILE@
for gpu in @GPUS@; do grep -qF -- "$gpu" @FILE@ || {
  echo "error: the CDI specification does not name $gpu" >&2
  echo "hint: nvidia-ctk cdi generate; nvidia-smi -L; a reboot if the driver was updated" >&2; exit 1; }; done
mkdir -p "$(dirname @STAMP@)"; cat > @STAMP@.new; sync @STAMP@.new; mv -f @STAMP@.new @STAMP@
"""


@operation()
def cdi(uuids: Sequence[str], driver: str, toolkit: str, stamp: str) -> Commands:
    """The CDI specification names every GPU (by UUID) and is made by this toolkit for this driver; made again at every
    boot by the toolkit's own units, where it has them."""
    texts = host.get_fact(Texts, paths=[rules.CDI_FILE, stamp])
    wanted: dict[str, object] = {"gpus": sorted(uuids), "driver": driver, "toolkit": toolkit}
    states: dict[str, str] = host.get_fact(AtBoot, units=rules.REFRESH_UNITS)
    units = rules.units(states)
    refresh = rules.reconcile(wanted, rules.stamped(texts.get(stamp)), rules.devices(texts.get(rules.CDI_FILE, "")))

    def act() -> Commands:
        if units:
            names = shlex.join(change.resource.name for change in units)
            yield Step(f"systemctl unmask {names} && systemctl enable --now {names}")
        if refresh:
            script = (
                _REFRESH.replace("@FILE@", rules.CDI_FILE)
                .replace("@STAMP@", stamp)
                .replace("@GPUS@", shlex.join(uuids))
            )
            yield Step(script, stdin=json.dumps(wanted))

    yield from carry_out([*units, *refresh], act())

"""How Docker gives GPUs to containers, and the proof that it does."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from typing import Any

from pyinfra.api.command import PyinfraCommand
from pyinfra.api.operation import operation
from pyinfra.context import host, state

from gpuhost.catalog.types import GpuCheck
from gpuhost.engine.facts import DockerState, parts
from gpuhost.files.facts import Texts
from gpuhost.gpu import proof, rules
from gpuhost.gpu.driver import Missing, loading
from gpuhost.plan.spec import canonical, parse, text_digest
from gpuhost.project import project_file
from gpuhost.run.host_run import HostRun
from gpuhost.run.reboot import reboots
from gpuhost.run.remote import Script, unobserved
from gpuhost.run.remote import run as run_now
from gpuhost.run.session import Commands, carry_out, failing, note
from gpuhost.systemd.facts import AtBoot
from hostside.protocol.gpu_proof import GpuChainRequest, GpuChainSeen
from hostside.wire import WireError, from_host, printable, to_json

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


def look_at_cdi(stamp: str) -> tuple[dict[str, str], dict[str, str]]:
    """The texts of the specification and of our stamp of it, and which units of the toolkit's are there."""
    texts = host.get_fact(Texts, paths=[rules.CDI_FILE, stamp])
    return texts, host.get_fact(AtBoot, units=rules.REFRESH_UNITS)


@operation()
def cdi(uuids: Sequence[str], driver: str, toolkit: str, stamp: str) -> Commands:
    """The CDI specification names every GPU (by UUID) and is made by this toolkit for this driver; made again at every
    boot by the toolkit's own units, where it has them."""
    texts, states = look_at_cdi(stamp)
    wanted: dict[str, object] = {"gpus": sorted(uuids), "driver": driver, "toolkit": toolkit}
    units = rules.units(states)
    refresh = rules.reconcile(wanted, rules.stamped(texts.get(stamp)), rules.devices(texts.get(rules.CDI_FILE, "")))

    def act() -> Commands:
        if units:
            names = shlex.join(change.resource.name for change in units)
            yield Script(f"systemctl unmask {names} && systemctl enable --now {names}")
        if refresh:
            script = (
                _REFRESH.replace("@FILE@", rules.CDI_FILE)
                .replace("@STAMP@", stamp)
                .replace("@GPUS@", shlex.join(uuids))
            )
            yield Script(script, stdin=json.dumps(wanted))

    yield from carry_out([*units, *refresh], act())


_LOAD = r"""
said="$(modprobe nvidia 2>&1 && nvidia-smi -L 2>&1)" || {
  echo "error: the NVIDIA driver is installed and cannot be loaded: $(printf %s "$said" | tail -n1)" >&2
  echo "hint: reboot the host, then \`gpuhost apply\` again; \`dkms status\` says whether its module was built" >&2
  exit 1; }
"""


@operation()
def driver_loaded(missing: Missing, allow_reboot: bool) -> Commands:
    """The driver that was just installed is in the kernel; where that takes a reboot it is made, or asked for."""
    change = loading(missing, allow_reboot)

    def act() -> Commands:
        if change.action == "load":
            yield Script(_LOAD)
        elif change.action == "reboot":
            yield from reboots()
        else:
            what = f"the NVIDIA driver {missing.branch} is installed: reboot needed"
            yield failing(what, "reboot the host, then `gpuhost apply` again (`allow_reboot = True`: gpuhost does)")

    yield from carry_out([change], act())


def look_at_proof(path: str) -> tuple[str, str | None]:
    """The version of Docker, and what was recorded when the GPUs were last reached."""
    version = host.get_fact(DockerState, parts=parts()).version
    return version, host.get_fact(Texts, paths=[path]).get(path)


@operation()
def proved(run: HostRun, check: GpuCheck) -> Commands:
    """Containers reach the GPUs, and what they compute is right: gone through when what it rests on has changed. The
    old record goes first, so that none vouches for what was not looked at to its end."""
    path = run.paths.gpu_proof
    engine, record = look_at_proof(path)
    wanted = _rests_on(run, check, engine)
    changes = proof.reconcile(wanted, parse(record))

    def act() -> Commands:
        yield Script(f"rm -f {shlex.quote(path)}")
        found = chain(run, check)
        if isinstance(found, proof.Broken):
            yield _failing(found)
            return
        record = f"umask 022; cat > {path}.new; sync {path}.new; mv -f {path}.new {path}"
        yield Script(record, stdin=canonical(wanted))

    yield from carry_out(changes, act())


@operation()
def reached(run: HostRun, check: GpuCheck) -> Commands:
    """The same proof, whenever asked for; writes nothing."""
    yield from ()
    if not state.is_executing:
        return
    found = chain(run, check)
    if isinstance(found, proof.Broken):
        yield _failing(found)


def _failing(found: proof.Broken) -> PyinfraCommand:
    return failing(f"GPUs, link `{found.link}`: {printable(found.what)}", found.hint)


def _rests_on(run: HostRun, check: GpuCheck, engine: str) -> dict[str, Any]:
    gpus = rules.whole(run.reading.gpus)
    return {
        "gpus": sorted(each.uuid for each in gpus),
        "driver": gpus[0].driver,
        "toolkit": run.catalog.nvidia_toolkit_version,
        "engine": run.catalog.engine_version or engine,
        "access": run.gpu_access,
        "image": run.image(check.image),
        "source": text_digest(project_file(f"files/{check.source}")),
    }


def chain(run: HostRun, check: GpuCheck) -> proof.Broken | None:
    """Look at every link now; the first that does not hold. What holds is said."""
    uuids = sorted(each.uuid for each in rules.whole(run.reading.gpus))
    asked = proof.Asked(
        uuids, run.gpu_devices(uuids), run.gpu_access, run.catalog.nvidia_toolkit_version, run.reading.wsl
    )
    source = project_file(f"files/{check.source}")
    request = GpuChainRequest(list(asked.devices), asked.access, run.image(check.image), source, check.timeout_s)
    completed = run_now(run.paths.gpu_proof_command, stdin=to_json(request))
    try:
        if not completed.ok:
            return proof.Broken("driver", *unobserved(completed))
        seen = from_host(GpuChainSeen, completed.stdout.strip())
    except WireError as error:
        return proof.Broken("driver", f"what the host says cannot be read: {error}", "`gpuhost apply`, then run again")
    found = proof.broken(asked, seen)
    if found is None:
        full = proof.uncomputed(seen)
        for uuid in uuids:
            done = "is reached; its memory is full, so nothing was computed" if uuid in full else "computes rightly"
            note("gpu", f"{uuid} {done}, from a container by {asked.access}")
    return found

"""Networks and the packet filter's rules."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace

from pyinfra.api.operation import operation
from pyinfra.context import host

from gpuhost.catalog.types import Network
from gpuhost.engine.facts import DockerState, parts
from gpuhost.files.operations import with_text_diffs, write_step
from gpuhost.files.rules import FileSpec
from gpuhost.network import rules
from gpuhost.network.facts import FirewallReading, FirewallState
from gpuhost.run.remote import Script
from gpuhost.run.session import Commands, carry_out
from gpuhost.systemd.operations import reads_again

# `nft -f` takes all of a file or nothing: while new rules are loaded the old ones hold.
_LOAD = r"""
command -v nft >/dev/null 2>&1 || {
  echo "error: there is no program nft, which loads the rules of the packet filter" >&2
  echo "hint: add \`nftables\` to base_packages in group_data" >&2; exit 1; }
systemctl restart @UNIT@ || {
  journalctl -u @UNIT@ -n 20 --no-pager -o cat >&2
  echo "error: the kernel refuses the rules of the packet filter (@RULES@)" >&2
  echo "hint: nft -c -f @RULES@ says why; what it printed says more" >&2; exit 1; }
"""


def look(files: Sequence[FileSpec]) -> FirewallReading:
    """The rules that are there. `files`: those of rules.files()."""
    return host.get_fact(FirewallState, files=[spec.path for spec in files], unit=rules.UNIT)


@operation()
def networks(wanted: Mapping[str, Network], rules_file: str, backups: str) -> Commands:
    """Every wanted network exists, and the rules that keep them apart are loaded, now and before Docker starts."""
    files = rules.files(wanted, rules_file)
    firewall = look(files)
    if reads_again("layout", files[-1].path):
        firewall = replace(firewall, stale_unit=True)
    docker = host.get_fact(DockerState, parts=parts("networks"))
    changes = rules.reconcile(files, wanted, firewall, docker.networks)
    changes = with_text_diffs(changes, files, firewall.files)
    subjects = {(change.resource.kind, change.resource.name) for change in changes}

    def act() -> Commands:
        chosen = [spec for spec in files if ("file", spec.path) in subjects]
        if chosen:
            yield write_step(chosen, {spec.path: spec.content() for spec in chosen}, backups)
            yield Script("systemctl daemon-reload")
        if ("unit", rules.UNIT) in subjects:
            yield Script(f"systemctl enable --quiet {rules.UNIT}")
        if ("firewall", rules.TABLE) in subjects:
            yield Script(_LOAD.replace("@UNIT@", rules.UNIT).replace("@RULES@", rules_file))
        for name, network in wanted.items():
            if ("network", name) in subjects:
                yield Script(_create(name, network))

    yield from carry_out(changes, act())


def _create(name: str, network: Network) -> str:
    made = rules.bridge(name, network)
    flags = [f"--label=gpuhost.network={name}", f"--subnet={made.subnet}", f"--gateway={made.gateway}"]
    flags += [f"--opt={key}={value}" for key, value in rules.options(name).items()]
    return f"docker network create {shlex.join([*flags, name])} >/dev/null"

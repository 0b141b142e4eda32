"""Docker Engine: its configuration, and that it runs with it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pyinfra.api.operation import operation
from pyinfra.context import host

from gpuhost.engine import rules as engine
from gpuhost.engine.facts import DockerState
from gpuhost.files.operations import write_step
from gpuhost.files.rules import plain
from gpuhost.run.remote import Script
from gpuhost.run.session import Commands, carry_out, failing

# dockerd answers some time after systemd calls it started.
_RESTART = r"""
set -eu; systemctl reset-failed docker 2>/dev/null || true
systemctl restart docker || {
  journalctl -u docker -n 20 --no-pager -o cat >&2
  echo "error: dockerd does not start" >&2
  echo "hint: its last words are above; the old daemon.json is in the newest folder below @BACKUPS@" >&2; exit 1; }
i=0
until docker info >/dev/null 2>&1; do
  i=$((i+1))
  [ $i -lt 120 ] || {
    echo "error: dockerd does not answer after 60 s" >&2; echo "hint: journalctl -u docker" >&2; exit 1; }
  sleep 0.5
done
# It starts the containers that dockerd could not; what is read next must not find them stopped.
if systemctl is-enabled --quiet gpuhost-services.service 2>/dev/null; then
  systemctl start gpuhost-services.service || true
fi
"""


# Checked by dockerd itself before it takes the old one's place; in memory, so that a killed run leaves nothing.
_VALIDATE = r"""
umask 077; new="$(mktemp -p /run gpuhost-daemon.XXXXXX)"; trap 'rm -f "$new"' EXIT; cat > "$new"
why="$(dockerd --validate --config-file="$new" 2>&1)" || {
  echo "error: dockerd refuses the new daemon.json: $why" >&2
  echo "hint: check engine_config in group_data" >&2; exit 1; }
"""


@operation()
def configured(wanted: Mapping[str, Any], backups: str) -> Commands:
    """dockerd runs, starts at boot, and has loaded a daemon.json that holds our keys; other keys stay."""
    reading = host.get_fact(DockerState)
    changes = engine.reconcile(reading, wanted)
    actions = {change.action for change in changes}

    def act() -> Commands:
        if "write" in actions:
            text = json.dumps(engine.merge(reading.config, wanted), indent=2) + "\n"
            yield Script(_VALIDATE, stdin=text)
            # Somebody may have made it 0600 on purpose: whose it is and who may read it stays.
            spec = plain(engine.CONFIG, text, *(reading.config_owner or ("644", "root", "root")))
            yield write_step([spec], {spec.path: text}, backups)
        if "enable" in actions:  # before the restart: systemd starts no unit that is masked
            yield Script("systemctl unmask docker.service && systemctl enable docker.service")
        if "restart" in actions:
            yield Script(_RESTART.replace("@BACKUPS@", backups))

    yield from carry_out(changes, act())


@operation()
def new_enough() -> Commands:
    """Fails the host when the engine that runs is too old for CDI; changes nothing."""
    version = host.get_fact(DockerState).version
    if engine.too_old(version):
        yield failing(
            f"Docker {version} is too old (26.1 or later is needed)",
            'set `engine_source = "docker"`, or update the distribution',
        )

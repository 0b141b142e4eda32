"""Docker Engine: its configuration, and that it runs with it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pyinfra.api.operation import operation
from pyinfra.context import host

from gpuhost.engine import rules as engine
from gpuhost.engine.facts import RAN, DockerState
from gpuhost.files.operations import write_step
from gpuhost.files.rules import plain
from gpuhost.run.remote import Step
from gpuhost.run.session import Commands, carry_out, failing

# What runs is written down first, in the order in which it was started, so that a run that dies here is made good by
# the next one. Then live-restore is switched on by a reload, where it is wanted: containers outlive the restart.
# What still stopped is started again; what Docker removed at its end (`--rm`) cannot be.
_RESTART = r"""
set -eu; mkdir -p -m 755 "$(dirname @RAN@)"; umask 077
live() { [ "$(docker info --format '{{.LiveRestoreEnabled}}' 2>/dev/null)" = true ]; }
wait_for() { i=0; until "$@" >/dev/null 2>&1; do i=$((i+1)); [ $i -lt 120 ] || return 1; sleep 0.5; done; }
if systemctl is-active --quiet docker && docker info >/dev/null 2>&1; then
  docker ps -q --no-trunc | xargs -r docker inspect --format '{{.State.StartedAt}} {{.Id}} {{.State.Paused}}' |
    sort | cut -d' ' -f2- > @RAN@.new
  touch @RAN@  # that of an earlier run that died
  awk '!seen[$1]++' @RAN@ @RAN@.new > @RAN@.all; sync @RAN@.all; mv -f @RAN@.all @RAN@; rm -f @RAN@.new
  if [ @LIVE@ = yes ] && [ -s @RAN@ ] && ! live; then
    systemctl reload docker || true
    wait_for live || {
      echo "error: dockerd does not switch live-restore on without a restart, which would stop containers" >&2
      echo "hint: journalctl -u docker; or \`systemctl restart docker\` yourself when they may stop" >&2
      rm -f @RAN@; exit 1; }
  fi
fi
systemctl reset-failed docker 2>/dev/null || true
systemctl restart docker || {
  journalctl -u docker -n 20 --no-pager -o cat >&2
  echo "error: dockerd does not start" >&2
  echo "hint: its last words are above; the old daemon.json is in the newest folder below @BACKUPS@" >&2; exit 1; }
wait_for docker info || {
  echo "error: dockerd does not answer after 60 s" >&2; echo "hint: journalctl -u docker" >&2; exit 1; }
# It starts the containers that dockerd could not; what is read next must not find them stopped.
if systemctl is-enabled --quiet gpuhost-services.service 2>/dev/null; then
  systemctl start gpuhost-services.service || true
fi
failed=; touch @RAN@
while read -r id paused; do
  state="$(docker inspect --format '{{.State.Status}} {{.Name}}' "$id" 2>/dev/null)" || continue
  case "$state" in running*|restarting*|paused*) continue;; esac
  timeout 120 docker start "$id" >/dev/null 2>&1 || { failed="$failed ${state#* /}"; continue; }
  [ "$paused" != true ] || docker pause "$id" >/dev/null
done < @RAN@
rm -f @RAN@
[ -z "$failed" ] || {
  echo "error: these ran before Docker's restart and do not start again:$failed" >&2
  echo "hint: \`docker start\` each of them says why" >&2; exit 1; }
"""


# Checked by dockerd itself before it takes the old one's place; in memory, so that a killed run leaves nothing.
_VALIDATE = r"""
dockerd --help 2>/dev/null | grep -q -- --validate || exit 0  # since Docker 23.0
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
            text = json.dumps(engine.merge(reading.config, wanted), indent=2, ensure_ascii=False) + "\n"
            yield Step(_VALIDATE, stdin=text)
            # Somebody may have made it 0600 on purpose: whose it is and who may read it stays.
            spec = plain(engine.CONFIG, text, *(reading.config_owner or ("644", "root", "root")))
            yield write_step([spec], {spec.path: text}, backups)
        if "enable" in actions:  # before the restart: systemd starts no unit that is masked
            yield Step("systemctl unmask docker.service && systemctl enable docker.service")
        if "restart" in actions:
            yield Step(_restart(backups, live=engine.lives_on(reading.config, wanted)))

    yield from carry_out(changes, act())


def _restart(backups: str, live: bool) -> str:
    script = _RESTART.replace("@BACKUPS@", backups).replace("@RAN@", RAN)
    return script.replace("@LIVE@", "yes" if live else "no")


@operation()
def new_enough(cdi: bool) -> Commands:
    """Fails the host when the engine that runs is too old; changes nothing. `cdi`: containers get GPUs by CDI."""
    version = host.get_fact(DockerState).version
    least = engine.CDI_VERSION if cdi else engine.LEAST_VERSION
    if engine.too_old(version, least):
        yield failing(
            f"Docker {version} is too old ({'.'.join(map(str, least))} or later is needed)",
            'set `engine_source = "docker"`, or update the distribution',
        )

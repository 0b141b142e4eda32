"""Docker Engine: its configuration, and that it runs with it."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from typing import Any

from pyinfra.api.operation import operation
from pyinfra.context import host

from gpuhost.engine import rules as engine
from gpuhost.engine.facts import OWN, RAN, DockerState, parts
from gpuhost.files.operations import write_step
from gpuhost.files.rules import plain
from gpuhost.host.measures import noted, timed
from gpuhost.plan.spec import canonical
from gpuhost.run.remote import Script
from gpuhost.run.session import Commands, carry_out, failing
from hostside import labels

# What runs is written down first, in the order in which it was started, so that a run that dies here is made good by
# the next one. Then containers outlive the restart, where they can: dockerd takes live-restore by a reload, from a copy
# of daemon.json that has it (@OWN@ is the file itself meanwhile), and loses it again by another one: kept, it would let
# the host's shutdown wait for programs that nobody asked to end. A file that asks for it itself is no copy; one that
# asks for it no more is, for a new dockerd without it ends what an old one left running. What stopped is started again;
# what Docker removed at its end (`--rm`) cannot be.
_RESTART = r"""
set -eu; mkdir -p -m 755 "$(dirname @RAN@)"; umask 077; json=@JSON@; lent=no; healthy=
IFS= read -r with_live; IFS= read -r without_live
live() { [ "$(docker info --format '{{.LiveRestoreEnabled}}' 2>/dev/null)" = "$1" ]; }
# An option of its command line, which must not stand in the file, too.
flagged() {
  tr '\0' '\n' < "/proc/$(systemctl show -p MainPID --value docker)/cmdline" |
    grep -qx -e --live-restore -e --live-restore=true; }
wait_for() { i=0; until "$@" >/dev/null 2>&1; do i=$((i+1)); [ $i -lt 120 ] || return 1; sleep 0.5; done; }
checked() { [ "$(docker inspect --format '{{.State.Health.Status}}' "$1" 2>/dev/null)" != starting ]; }
lend() {
  printf %s "$1" | base64 -d > $json.gpuhost-new
  chmod --reference=$json $json.gpuhost-new; chown --reference=$json $json.gpuhost-new; mv -f $json.gpuhost-new $json
  systemctl reload docker || true
}
if [ -e @OWN@ ] || [ -L @OWN@ ]; then if [ @WRITTEN@ = yes ]; then rm -f @OWN@; else mv -f @OWN@ $json; fi; fi
if systemctl is-active --quiet docker && docker info >/dev/null 2>&1; then
  docker ps -q --no-trunc | xargs -r docker inspect --format '{{.State.StartedAt}} {{.Id}} {{.State.Paused}}' |
    sort | cut -d' ' -f2- > @RAN@.new
  touch @RAN@  # that of an earlier run that died
  awk '!seen[$1]++' @RAN@ @RAN@.new > @RAN@.all; sync @RAN@.all; mv -f @RAN@.all @RAN@; rm -f @RAN@.new
  if [ @LIVE@ = yes ] && [ -s @RAN@ ] && ! flagged; then
    if [ @KEPT@ = yes ]; then live true || systemctl reload docker || true
    else
      [ -e $json ] || echo '{}' > $json
      ln $json @OWN@; lent=yes; lend "$with_live"
    fi
    wait_for live true || {
      [ $lent = no ] || mv -f @OWN@ $json
      rm -f @RAN@
      echo "error: dockerd does not take live-restore without a restart, which would stop containers" >&2
      echo "hint: journalctl -u docker; or \`systemctl restart docker\` yourself when they may stop" >&2; exit 1; }
  fi
  healthy="$(docker ps -q --filter health=healthy)"
fi
systemctl reset-failed docker 2>/dev/null || true
systemctl restart docker || {
  journalctl -u docker -n 20 --no-pager -o cat >&2
  echo "error: dockerd does not start" >&2
  echo "hint: what it printed says more; the old daemon.json is in the newest folder below @BACKUPS@" >&2; exit 1; }
wait_for docker info || {
  echo "error: dockerd does not answer after 60 s" >&2; echo "hint: journalctl -u docker" >&2; exit 1; }
if [ $lent = yes ]; then
  lend "$without_live"; wait_for live false || echo "dockerd keeps live-restore until it starts anew" >&2
  mv -f @OWN@ $json
fi
# It starts the containers that dockerd could not; what is read next must not find them stopped.
if systemctl is-enabled --quiet gpuhost-services.service 2>/dev/null; then
  systemctl start gpuhost-services.service || true
fi
failed=; touch @RAN@
ours() { [ -n "$(docker inspect --format '{{index .Config.Labels "@LABEL@"}}' "$1" 2>/dev/null)" ]; }
while read -r id paused; do
  state="$(docker inspect --format '{{.State.Status}} {{.Name}}' "$id" 2>/dev/null)" || continue
  case "$state" in running*|restarting*|paused*) continue;; esac
  timeout 120 docker start "$id" >/dev/null 2>&1 || {
    # A service of ours may want files that a later step repairs, and is started by one then.
    if ours "$id"; then echo "${state#* /} does not start yet" >&2; else failed="$failed ${state#* /}"; fi; continue; }
  [ "$paused" != true ] || docker pause "$id" >/dev/null
done < @RAN@
rm -f @RAN@
# A new dockerd asks a container that lived on for its health after a whole interval, not before.
for id in $healthy; do wait_for checked "$id" || true; done
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
def configured(
    wanted: Mapping[str, Any], written: Mapping[str, Any], stamp: str, backups: str, measures: str, lives_on: bool
) -> Commands:
    """dockerd runs, starts at boot, and has loaded a daemon.json that holds our keys, and of those that gpuhost wrote
    (`written`, as the file `stamp` says) no other; other keys stay. `measures`: where it is noted how long its restart
    took; `lives_on`: containers outlive that."""
    reading = host.get_fact(DockerState, parts=parts())
    changes = engine.reconcile(reading, wanted, written, stamp)
    actions = {change.action for change in changes}
    to = engine.merging(reading.config, wanted, written)
    writes = bool(to.keys or to.taken)

    def act() -> Commands:
        if writes:
            text = _text(to.config)
            yield Script(_VALIDATE, stdin=text)
            # Told before it is so, and until it is so no more: no key of ours is forgotten when a run dies here.
            told = engine.merge(written, to.written)
            if told != written:
                yield _told(stamp, told, backups)
            # Somebody may have made it 0600 on purpose: whose it is and who may read it stays.
            spec = plain(engine.CONFIG, text, *(reading.config_owner or ("644", "root", "root")))
            yield write_step([spec], {spec.path: text}, backups)
        if to.taken or to.changed or to.gone:
            yield _told(stamp, to.written, backups)
        if "enable" in actions:  # before the restart: systemd starts no unit that is masked
            yield Script("systemctl unmask docker.service && systemctl enable docker.service")
        if "restart" in actions:
            yield _restart(to.config, backups, measures, lives_on, writes)

    yield from carry_out(changes, act())


def _told(stamp: str, written: Mapping[str, Any], backups: str) -> Script:
    """What is gpuhost's work in daemon.json. Nobody else reads it: an address may have a password in it."""
    text = f"{canonical(written)}\n"
    return write_step([plain(stamp, text, "600")], {stamp: text}, backups)


def _text(config: Mapping[str, Any]) -> str:
    return json.dumps(config, indent=2, ensure_ascii=False) + "\n"


def _restart(merged: Mapping[str, Any], backups: str, measures: str, lives_on: bool, written: bool) -> Script:
    marks = {"BACKUPS": backups, "RAN": RAN, "OWN": OWN, "JSON": engine.CONFIG}
    marks |= {"LABEL": labels.SERVICE, "LIVE": "yes" if lives_on else "no", "WRITTEN": "yes" if written else "no"}
    marks["KEPT"] = "yes" if merged.get(engine.LIVE_RESTORE) is True else "no"
    lent = [_text({**merged, engine.LIVE_RESTORE: value}) for value in (True, False)]
    script = re.sub("@([A-Z]+)@", lambda found: marks[found[1]], _RESTART)
    script = timed(script, noted(measures, "engine", "dockerd"))
    return Script(script, stdin="".join(f"{base64.b64encode(text.encode()).decode()}\n" for text in lent))


@operation()
def new_enough(cdi: bool) -> Commands:
    """Fails the host when the engine that runs is too old; changes nothing. `cdi`: containers get GPUs by CDI."""
    version = host.get_fact(DockerState, parts=parts()).version
    least = engine.CDI_VERSION if cdi else engine.LEAST_VERSION
    if engine.too_old(version, least):
        yield failing(
            f"Docker {version} is too old ({'.'.join(map(str, least))} or later is needed)",
            'set `engine_source = "docker"`, or update the distribution',
        )

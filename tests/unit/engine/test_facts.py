"""What the scripts that read Docker ask, and what they make of a dockerd that sleeps, hangs or dies: run by sh, with a
`docker` and a `systemctl` that play their parts."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from gpuhost.engine.facts import DockerReading, DockerState, Part
from gpuhost.errors import UserError
from gpuhost.host.facts import HostReading, HostState
from tests.unit.engine.test_containers import IMAGE, inspected

PARTS: list[Part] = ["images", "networks", "containers"]

SYSTEMCTL = """
case "$1" in
  is-active) [ -e "$HOST/running" ];;
  is-enabled) [ -e "$HOST/enabled" ] && echo enabled || { echo disabled; exit 1; };;
  *) exit 64;;
esac
"""

# It answers as many questions as `answers` says; an object that `vanished` names was removed after it was listed.
DOCKER = """
printf '%s\\n' "$*" >> "$HOST/asked"
[ ! -e "$HOST/hangs" ] || exec sleep 1000
if [ -e "$HOST/answers" ] && [ "$(wc -l < "$HOST/asked")" -gt "$(cat "$HOST/answers")" ]; then
  echo 'Cannot connect to the Docker daemon. Is the docker daemon running?' >&2; exit 1
fi
inspect() {
  code=0
  for id; do
    if [ "$id" = "$(cat "$HOST/vanished" 2>/dev/null)" ]; then echo "No such object: $id" >&2; code=1
    elif [ -e "$HOST/$id" ]; then cat "$HOST/$id"; fi
  done
  exit $code
}
case "$*" in
  version*) echo 29.0.1;;
  info*) printf 'true\\tinactive\\t/docker\\n';;
  "image ls --filter"*) echo image-1; echo image-1;;
  "image ls --digests"*) echo 'gpuhost/api:1 gpuhost/api@sha256:aa';;
  "network ls"*) echo network-1;;
  "ps "*) echo container-2; echo container-1;;
  *inspect*) inspect "$@";;
  *) exit 64;;
esac
"""

# Of what is run with a limit, docker, and a shell in a container's cgroup that opens a card's file there. What hangs
# does so for longer than a test.
TIMEOUT = """
[ "$1" = -s ] || { shift; [ ! -e "$HOST/hangs" ] || exit 124; exec "$@"; }
shift 3; "$@"
[ ! -e "$HOST/denied" ] || echo "sh: 1: cannot open $6: Operation not permitted" >&2
"""

CONTAINER = inspected(name="/api")
# Of this host, as the two scripts ask Docker to write it.
OBJECTS = {
    "image-1": {"tags": ["gpuhost/api:1"], "spec": "s"},
    "network-1": {"name": "inner", "subnets": ["172.20.0.0/16"]},
    "container-1": CONTAINER,
    "container-2": {**CONTAINER, "name": "/painter", "id": "def"},
    "sha256:aa": IMAGE,
}
CONTAINERS = ("container-1", "container-2")
LINES = {
    "network-1": "docker_network\tinner\t172.20.0.0/16 \t{}",
    "container-1": 'container\t/api\trunning\tno\t"api"\tnull\t9001 \t\t"api:1"\tnull\tfalse',
    "container-2": 'container\t/painter\texited\tno\t"painter"\tnull\t9002 \t\t"painter:1"\tnull\tfalse',
}


@dataclass(frozen=True)
class Host:
    """A host whose dockerd runs (`running`), starts at boot (`enabled`), answers `answers` questions (None: all), lost
    `vanished` while it was asked, or takes questions and never answers (`hangs`)."""

    folder: Path
    running: bool = True
    enabled: bool = True
    answers: int | None = None
    vanished: str = ""
    hangs: bool = False

    def sh(self, script: str) -> list[str]:
        """The lines that a script prints there."""
        programs = self.folder / "bin"
        programs.mkdir(exist_ok=True)
        for name, text in (("systemctl", SYSTEMCTL), ("docker", DOCKER), ("timeout", TIMEOUT)):
            (programs / name).write_text(f"#!/bin/sh\n{text}")
            (programs / name).chmod(0o755)
        state = {"running": self.running, "enabled": self.enabled, "vanished": self.vanished}
        state |= {"answers": self.answers is not None, "asked": True, "hangs": self.hangs}
        for name, there in state.items():
            (self.folder / name).unlink(missing_ok=True)
            if there:
                (self.folder / name).write_text({"answers": str(self.answers), "vanished": self.vanished}.get(name, ""))
        (self.folder / "daemons" / "containers").mkdir(parents=True, exist_ok=True)
        (self.folder / "daemons" / "containers" / "one").touch()
        # This machine may have a Docker of its own.
        moved = re.sub("/(etc|run|var/lib)/(docker|gpuhost)", rf"{self.folder}/daemons", script)
        elsewhere = {"/dev/nvidiactl": "/dev/null", "/sys/fs/cgroup": "$HOST/fs", "/proc/$pid/": "$HOST/"}
        for path, here in elsewhere.items():
            moved = moved.replace(path, here)
        done = subprocess.run(
            ["sh"],
            input=moved,
            env={"HOST": str(self.folder), "PATH": f"{programs}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        return done.stdout.splitlines()

    def engine(self) -> DockerReading:
        """All that the stages read of Docker."""
        for name, value in OBJECTS.items():
            text = f"{json.dumps(value)}\n"
            if name in CONTAINERS:  # as the script's template has it
                gpus = "gpus\tdef\t42\n" if name == "container-2" else ""
                text = f"container\t{text}{gpus}made_of\tsha256:aa\n"
            (self.folder / name).write_text(text)
        return DockerState().read(self.sh(DockerState().command(PARTS)))

    def states(self) -> DockerReading:
        """What `gpuhost status` reads of Docker."""
        for name in CONTAINERS:
            (self.folder / name).write_text(f"container\t{json.dumps(OBJECTS[name])}\n\n")
        return DockerState().read(self.sh(DockerState().command(["states"])))

    def preflight(self, brief: bool = False) -> HostReading:
        """What preflight reads, of which here the part about Docker counts; `brief`: for `gpuhost status`."""
        for name, line in LINES.items():
            (self.folder / name).write_text(line + "\n")
        script = HostState().command(["/"], [], [("svc", 10001, 10001)], "/absent", "/absent", brief)
        return HostState().read(self.sh(script))

    @property
    def asked(self) -> list[str]:
        """Every call of `docker`, in order."""
        return (self.folder / "asked").read_text().splitlines()


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_what_runs_is_read(host: Host) -> None:
    found = host.engine()
    assert (found.installed, found.active, found.at_boot, found.version) == (True, True, "enabled", "29.0.1")
    assert found.images == {"gpuhost/api:1": "s"} and found.tags == {"gpuhost/api:1", "gpuhost/api@sha256:aa"}
    assert found.networks == {"inner": ["172.20.0.0/16"]}
    assert [each.name for each in found.containers] == ["api", "painter"]  # in the order of their ids
    assert abs(found.now_s - time.time()) < 600
    seen = host.preflight()
    assert (seen.docker_version, seen.docker_silent, seen.networks) == ("29.0.1", False, {"inner": ["172.20.0.0/16"]})
    assert {each.name: each.state for each in seen.containers} == {"api": "running", "painter": "exited"}


def test_only_what_is_asked_for_is_read(host: Host) -> None:
    found = DockerState().read(host.sh(DockerState().command()))
    assert found.version == "29.0.1" and [call.split()[0] for call in host.asked] == ["version"]


def test_status_reads_the_same_containers_with_fewer_questions(host: Host) -> None:
    """Each question starts a program; what a container has of its image and of the host is none of its business."""
    whole = host.engine()
    assert whole.containers[0].image_settings
    found = host.states()
    assert [call.split()[0] for call in host.asked] == ["version", "ps", "inspect"]
    assert found.containers == [replace(each, image_settings={}) for each in whole.containers]
    assert (found.installed, found.version) == (True, "29.0.1") and abs(found.now_s - whole.now_s) < 60
    seen = host.preflight()
    brief = host.preflight(brief=True)
    asked = {line.split()[0] for line in host.asked}
    assert "ps" in asked and not {"version", "info", "network"} & asked
    assert seen.memory_kib and seen.containers
    assert (brief.memory_kib, brief.gpus, brief.containers) == (seen.memory_kib, seen.gpus, seen.containers)


def test_a_dockerd_that_sleeps_or_dies_while_status_asks(host: Host) -> None:
    sleeping = replace(host, running=False)
    found = sleeping.states()
    assert sleeping.asked == [] and (found.installed, found.version, found.containers) == (True, "", [])
    assert sleeping.preflight(brief=True).containers == [] and sleeping.asked == []
    assert replace(host, answers=0).states().version == ""
    for answers in (1, 2):
        with pytest.raises(UserError, match="stopped answering"):
            replace(host, answers=answers).states()


@pytest.mark.parametrize("brief", [True, False])
def test_a_dockerd_that_takes_questions_and_never_answers_is_not_waited_for(host: Host, brief: bool) -> None:
    hanging = replace(host, hangs=True)
    seen = hanging.preflight(brief)
    assert seen.docker_silent and seen.containers == [] and seen.memory_kib
    assert (hanging.states().installed, hanging.states().version) == (True, "")


@pytest.mark.parametrize("enabled", [True, False])
def test_a_dockerd_that_sleeps_is_not_woken(host: Host, enabled: bool) -> None:
    """docker.socket starts it at the first question; a plan changes nothing."""
    sleeping = replace(host, running=False, enabled=enabled)
    found = sleeping.engine()
    assert sleeping.asked == []
    at_boot = "enabled" if enabled else "disabled"
    assert (found.installed, found.active, found.at_boot, found.version) == (True, False, at_boot, "")
    seen = sleeping.preflight()
    assert sleeping.asked == [] and (seen.docker_version, seen.docker_silent) == ("", True)


def test_a_dockerd_that_does_not_answer_is_asked_once(host: Host) -> None:
    silent = replace(host, answers=0)
    found = silent.engine()
    assert (found.active, found.version, found.containers) == (True, "", []) and len(silent.asked) == 1
    seen = silent.preflight()
    assert (seen.docker_version, seen.docker_silent) == ("", True) and len(silent.asked) == 1


def test_a_dockerd_that_dies_between_two_questions_is_no_empty_host(host: Host) -> None:
    """Or the plan would make again all that seems to be missing."""
    host.engine()
    last = len(host.asked)
    assert last >= 8
    for answers in range(1, last):
        with pytest.raises(UserError, match="stopped answering"):
            replace(host, answers=answers).engine()
    assert replace(host, answers=last).engine().containers
    host.preflight()
    last = len(host.asked)
    assert last >= 5
    silent = [replace(host, answers=answers).preflight().docker_silent for answers in range(1, last)]
    assert silent == [True] * len(silent)


@pytest.mark.parametrize("vanished", OBJECTS)
def test_what_vanishes_while_it_is_read_is_left_out(host: Host, vanished: str) -> None:
    poorer = replace(host, vanished=vanished)
    found = poorer.engine()
    held = {"image-1": found.images, "network-1": found.networks}
    names = {each.name for each in found.containers}
    there = {name for name, what in held.items() if what} | {f"container-{1 if name == 'api' else 2}" for name in names}
    there |= {"sha256:aa" for each in found.containers if each.image_settings}
    assert there == OBJECTS.keys() - {vanished}
    if vanished in LINES:
        assert not poorer.preflight().docker_silent


@pytest.mark.parametrize(("written_s", "stale"), [(-10, False), (10, True), (None, False)])
def test_a_configuration_that_dockerd_has_not_read(host: Host, written_s: int | None, stale: bool) -> None:
    """`written_s`: after dockerd started."""
    config, pid = host.folder / "daemons" / "daemon.json", host.folder / "daemons.pid"
    config.parent.mkdir()
    pid.touch()
    if written_s is not None:
        config.write_text('{"debug": true}')
        config.chmod(0o640)
        os.utime(config, (pid.stat().st_mtime + written_s,) * 2)
    found = host.engine()
    assert found.stale is stale and found.config == (None if written_s is None else {"debug": True})
    assert (found.config_owner is None) == (written_s is None)
    if found.config_owner:
        assert found.config_owner[0] == "640"


CGROUPS = {
    "version 1": ("9:devices:/docker/def\n1:name=systemd:/docker/def\n0::/docker/def", "devices/docker/def"),
    "version 2": ("0::/system.slice/docker-def.scope", "system.slice/docker-def.scope"),
}


@pytest.mark.parametrize("denied", [True, False])
@pytest.mark.parametrize(("cgroup", "group"), CGROUPS.values(), ids=CGROUPS)
def test_whether_a_container_may_still_reach_its_gpus(host: Host, cgroup: str, group: str, denied: bool) -> None:
    """A process in its cgroup is asked, whichever version of cgroups the host has."""
    (host.folder / "cgroup").write_text(cgroup)  # as /proc/42/cgroup
    joined = host.folder / "fs" / group / "cgroup.procs"
    joined.parent.mkdir(parents=True)
    if denied:
        (host.folder / "denied").touch()
    found = host.engine()
    assert {each.name: each.gpus_denied for each in found.containers} == {"api": False, "painter": denied}
    assert joined.read_text().strip().isdigit()


@pytest.mark.parametrize("lent", ["bin/docker", "daemons.sock", ""])
def test_docker_desktop_lends_its_engine_by_links(host: Host, lent: str) -> None:
    """To a distribution of WSL2: the program, the socket, or both."""
    own = host.folder / "mnt" / "wsl" / "docker-desktop"
    own.mkdir(parents=True)
    (host.folder / "bin").mkdir()
    if lent:
        (host.folder / lent).symlink_to(own / "lent")
    assert host.preflight().docker_desktop is bool(lent)


@pytest.mark.parametrize("left", ["ran-before-restart", "daemon.json.gpuhost-own", None])
def test_a_restart_of_ours_that_did_not_come_to_its_end(host: Host, left: str | None) -> None:
    """What ran is noted until it runs again, and the file itself lies aside while dockerd reads a copy of it."""
    daemons = host.folder / "daemons"
    daemons.mkdir()
    (daemons / "daemon.json").write_text('{"lent": true}')
    if left:
        (daemons / left).write_text('{"own": true}')
    found = host.engine()
    assert found.cut_off is (left is not None)
    assert found.config == ({"own": True} if left == "daemon.json.gpuhost-own" else {"lent": True})
    assert found.active and len(found.containers) == 2


def test_no_docker_at_all(host: Host) -> None:
    programs = host.folder / "bin"
    host.engine()
    (programs / "docker").unlink()
    script = DockerState().command(PARTS)
    done = subprocess.run(
        ["/bin/sh"], input=script, env={"PATH": str(programs)}, capture_output=True, text=True, check=True
    )
    assert DockerState().read(done.stdout.splitlines()) == DockerReading(installed=False)

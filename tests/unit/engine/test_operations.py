"""What is done to the engine, in order; its restart, run by sh with a `docker` and `systemctl` playing their parts."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from gpuhost.engine import operations as engine
from gpuhost.engine.facts import OWN, RAN, DockerReading
from gpuhost.engine.rules import CONFIG
from gpuhost.files.rules import FileSpec
from gpuhost.host.measures import parsed
from gpuhost.run.remote import Script
from tests.unit.apt.test_operations import Seen

STAMP = "/state/engine-config.json"
NONE_YET: dict[str, Any] = {"written": {}, "stamp": STAMP, "lives_on": True}
NONE_YET |= {"backups": "/backups", "measures": "/measures"}


def test_a_masked_engine_is_unmasked_before_it_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """systemd starts no unit that is masked."""
    seen = Seen(monkeypatch, engine, DockerReading(installed=True, at_boot="masked", config={"debug": True}), True)
    assert seen.of(engine.configured, wanted={"debug": True}, **NONE_YET) == ["dockerd", "docker.service"]
    enable, restart = seen.scripts
    assert enable == "systemctl unmask docker.service && systemctl enable docker.service"
    assert "systemctl restart docker" in restart


@pytest.mark.parametrize(
    ("owner", "own"),
    [(("600", "root", "docker"), "600 root docker"), (None, "644 root root")],
    ids=["somebody's", "new"],
)
def test_who_may_read_daemon_json_is_the_operators_affair(
    monkeypatch: pytest.MonkeyPatch, owner: tuple[str, str, str] | None, own: str
) -> None:
    reading = DockerReading(installed=True, active=True, at_boot="enabled", config={}, config_owner=owner)
    seen = Seen(monkeypatch, engine, reading, True)
    assert "/etc/docker/daemon.json" in seen.of(engine.configured, wanted={"debug": True}, **NONE_YET)
    [put] = [script for script in seen.scripts if "put /etc/docker/daemon.json" in script]
    assert put.endswith(f"put /etc/docker/daemon.json {own}")


def test_dockerd_itself_reads_the_new_file_first(monkeypatch: pytest.MonkeyPatch) -> None:
    reading = DockerReading(installed=True, active=True, at_boot="enabled", config={"theirs": 1})
    seen = Seen(monkeypatch, engine, reading, True)
    seen.of(engine.configured, wanted={"debug": True}, **NONE_YET)
    validate, told, put, restart = seen.scripts
    assert validate == engine._VALIDATE and "put /etc/docker/daemon.json" in put and "restart docker" in restart
    assert told.endswith(f"put {STAMP} 600 root root")


@pytest.mark.parametrize(
    ("here", "wanted", "written", "files"),
    [
        # What is ours is told before it is there, and until it is not there any more.
        ({}, {"debug": True}, {}, [(STAMP, {"debug": True}), (CONFIG, {"debug": True})]),
        ({"debug": True, "a": 1}, {}, {"debug": True}, [(CONFIG, {"a": 1}), (STAMP, {})]),
        (
            {"debug": True},
            {"bip": "x"},
            {"debug": True},
            [(STAMP, {"debug": True, "bip": "x"}), (CONFIG, {"bip": "x"}), (STAMP, {"bip": "x"})],
        ),
        # Somebody's hand, mended: the stamp is right.
        ({"debug": False}, {"debug": True}, {"debug": True}, [(CONFIG, {"debug": True})]),
        # Another value from the data.
        ({"bip": "x"}, {"bip": "y"}, {"bip": "x"}, [(STAMP, {"bip": "y"}), (CONFIG, {"bip": "y"})]),
        # Nothing of ours is there: it is let go.
        ({"debug": False}, {}, {"debug": True}, [(STAMP, {})]),
        ({}, {}, {"debug": True}, [(STAMP, {})]),
        ({"debug": True}, {}, {}, []),
    ],
    ids=["ours", "no longer", "both", "mended", "another value", "changed", "gone", "theirs"],
)
def test_the_files_that_are_written_in_order(
    monkeypatch: pytest.MonkeyPatch,
    here: dict[str, Any],
    wanted: dict[str, Any],
    written: dict[str, Any],
    files: list[tuple[str, dict[str, Any]]],
) -> None:
    """A run may die between any two of them: what is ours is never taken for somebody else's."""
    steps: list[tuple[str, dict[str, Any]]] = []

    def write(specs: list[FileSpec], contents: dict[str, str], backups: str) -> Script:
        [spec] = specs
        assert backups == "/backups" and contents[spec.path].endswith("}\n")
        steps.append((spec.path, json.loads(contents[spec.path])))
        return Script("true")

    monkeypatch.setattr(engine, "write_step", write)
    reading = DockerReading(installed=True, active=True, at_boot="enabled", config=here)
    seen = Seen(monkeypatch, engine, reading, True)
    subjects = seen.of(engine.configured, wanted=wanted, **{**NONE_YET, "written": written})
    assert steps == files
    assert ("dockerd" in subjects) == (CONFIG in subjects) == (CONFIG in dict(files))
    assert (subjects == []) == (files == [])


VALIDATES = """#!/bin/sh
case "$*" in
  --help) [ -e "$HOST/old" ] || echo '  --validate  Validate daemon configuration and exit';;
  "--validate --config-file="*)
    file="${2#--config-file=}"; stat -c %a "$file" > "$HOST/mode"; cat "$file" > "$HOST/seen"
    [ ! -e "$HOST/dies" ] || kill -9 $PPID
    [ ! -e "$HOST/refuses" ] || { echo "unknown key: nonsense" >&2; exit 1; };;
esac
"""


@pytest.mark.parametrize(
    ("trouble", "code"), [("", 0), ("refuses", 1), ("dies", -9), ("old", 0)], ids=["right", "wrong", "killed", "old"]
)
def test_dockerd_looks_at_a_new_configuration_before_it_is_there(tmp_path: Path, trouble: str, code: int) -> None:
    """In memory, where even a killed run leaves nothing that a host keeps."""
    programs, memory = tmp_path / "bin", tmp_path / "run"
    programs.mkdir()
    memory.mkdir()
    (programs / "dockerd").write_text(VALIDATES)
    (programs / "dockerd").chmod(0o755)
    if trouble:
        (tmp_path / trouble).touch()
    assert engine._VALIDATE.count("/run ") == 1 and "/etc/docker" not in engine._VALIDATE
    script = engine._VALIDATE.replace("/run ", f"{memory} ")
    environment = {"HOST": str(tmp_path), "PATH": f"{programs}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["sh", "-c", script],
        input='{"nonsense": 1}',
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    assert done.returncode == code
    assert len(list(memory.iterdir())) == (1 if trouble == "dies" else 0)
    if trouble == "refuses":
        assert done.stderr.splitlines() == [
            "error: dockerd refuses the new daemon.json: unknown key: nonsense",
            "hint: check engine_config in group_data",
        ]
    if trouble != "old":
        assert (tmp_path / "seen").read_text() == '{"nonsense": 1}' and (tmp_path / "mode").read_text() == "600\n"


# Containers are files in `containers`: id -> state; `started` says when each was started. dockerd has live-restore
# while `live` is there; a reload reads that from daemon.json, unless `deaf` is there. A restart stops them without.
OURS = '{"debug": true}'
DOCKER = """
state() { cat "$HOST/containers/$1"; }
case "$*" in
  "info --format"*) if [ -e "$HOST/live" ]; then echo true; else echo false; fi;;
  info) [ -e "$HOST/runs" ];;
  "ps -q --filter health=healthy") ;;
  "ps -q --no-trunc") cd "$HOST/containers"; grep -lE 'running|paused' * || true;;
  "inspect --format {{.State.StartedAt}}"*)
    shift 3; for id; do
      if [ "$(state $id)" = paused ]; then p=true; else p=false; fi; echo "$(cat "$HOST/started/$id") $id $p"; done;;
  "inspect --format {{.State.Status}}"*) [ -e "$HOST/containers/$4" ] || exit 1; echo "$(state $4) /name-$4";;
  "inspect --format {{index .Config.Labels"*) case "$4" in service*) echo painter;; *) echo;; esac;;
  "start "*) echo "$*" >> "$HOST/did"; case "$2" in *bad) exit 1;; esac; echo running > "$HOST/containers/$2";;
  "pause "*) echo "$*" >> "$HOST/did"; echo paused > "$HOST/containers/$2";;
  *) exit 64;;
esac
"""
SYSTEMCTL = """
case "$*" in
  *is-active*) [ -e "$HOST/runs" ];;
  *is-enabled*) exit 1;;
  "show -p MainPID --value docker") cat "$HOST/pid" 2>/dev/null || echo 0;;
  "reload docker")
    echo reload >> "$HOST/did"; [ ! -e "$HOST/deaf" ] || exit 0
    case "$(cat "$HOST/daemon.json")" in
      *'"live-restore": true'*) touch "$HOST/live";; *'"live-restore": false'*) rm -f "$HOST/live";;
    esac;;
  "restart docker")
    cp "$HOST/daemon.json" "$HOST/read"; echo restart >> "$HOST/did"; touch "$HOST/runs"
    [ -e "$HOST/live" ] || for one in "$HOST"/containers/*; do
      [ -e "$one" ] || continue
      case "$one" in *-rm) rm "$one";; *) echo exited > "$one";; esac; done;;
esac
"""


class Docker:
    """A dockerd and what it runs: id -> state, in the order in which they were started."""

    def __init__(self, folder: Path, runs: bool = True, **containers: str) -> None:
        self.folder = folder
        for name in ("bin", "containers", "started"):
            (folder / name).mkdir()
        for name, text in (("docker", DOCKER), ("systemctl", SYSTEMCTL), ("sleep", ""), ("timeout", 'shift; "$@"')):
            (folder / "bin" / name).write_text(f"#!/bin/sh\n{text}")
            (folder / "bin" / name).chmod(0o755)
        (folder / "daemon.json").write_text(OURS)
        if runs:
            (folder / "runs").touch()
        for number, (name, state) in enumerate(containers.items()):
            identifier = name.replace("_", "-")
            (folder / "containers" / identifier).write_text(f"{state}\n")
            (folder / "started" / identifier).write_text(f"2026-11-21T11:41:1{number}Z")

    def restart(self, live: bool, written: bool = False, kept: bool = False) -> subprocess.CompletedProcess[str]:
        """Our step. `kept`: the file that should be there asks for live-restore."""
        config = {"debug": True, **({"live-restore": True} if kept else {})}
        step = engine._restart(config, "/backups", f"{self.folder}/measures", live, written)
        script = step.get_raw_value()
        for path, name in ((RAN, "ran"), (OWN, "own"), (CONFIG, "daemon.json")):
            script = script.replace(path, f"{self.folder}/{name}")
        lent = [{"debug": True, "live-restore": value} for value in (True, False)]
        stdin = "".join(f"{base64.b64encode(json.dumps(each).encode()).decode()}\n" for each in lent)
        return subprocess.run(
            ["sh", "-c", script],
            input=stdin,
            env={"HOST": str(self.folder), "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    @property
    def states(self) -> dict[str, str]:
        return {each.name: each.read_text().strip() for each in (self.folder / "containers").iterdir()}

    @property
    def did(self) -> list[str]:
        return (self.folder / "did").read_text().splitlines()


def test_live_restore_is_lent_for_the_time_of_the_restart(tmp_path: Path) -> None:
    docker = Docker(tmp_path, one="running")
    done = docker.restart(live=True)
    assert done.returncode == 0, done.stderr
    assert docker.did == ["reload", "restart", "reload"]
    assert json.loads((tmp_path / "read").read_text())["live-restore"] is True  # dockerd ends what it finds without it
    assert not (tmp_path / "live").exists() and not (tmp_path / "ran").exists() and not (tmp_path / "own").exists()
    assert (tmp_path / "daemon.json").read_text() == OURS
    [measure] = parsed((tmp_path / "measures").read_text().splitlines())
    assert (measure.kind, measure.name, measure.disk_bytes) == ("engine", "dockerd", None) and 0 <= measure.seconds < 30


ASKS = '{"debug": true, "live-restore": true}'


@pytest.mark.parametrize(("has", "did"), [(True, ["restart"]), (False, ["reload", "restart"])])
def test_a_file_that_asks_for_it_is_not_taken_back(tmp_path: Path, has: bool, did: list[str]) -> None:
    """dockerd has it before the restart, and keeps it."""
    docker = Docker(tmp_path, one="running")
    (tmp_path / "daemon.json").write_text(ASKS)
    if has:
        (tmp_path / "live").touch()
    assert docker.restart(live=True, written=True, kept=True).returncode == 0 and docker.did == did
    assert (tmp_path / "live").exists() and docker.states == {"one": "running"}
    assert (tmp_path / "daemon.json").read_text() == ASKS and not (tmp_path / "own").exists()


def test_a_file_that_asks_for_it_no_more_ends_no_container(tmp_path: Path) -> None:
    """A dockerd that had it leaves them to the new one, which would end them without it."""
    docker = Docker(tmp_path, one="running")
    (tmp_path / "live").touch()
    assert docker.restart(live=True, written=True).returncode == 0 and docker.did == ["reload", "restart", "reload"]
    assert json.loads((tmp_path / "read").read_text())["live-restore"] is True
    assert not (tmp_path / "live").exists() and (tmp_path / "daemon.json").read_text() == OURS


@pytest.mark.parametrize("flag", ["--live-restore", "--live-restore=true"])
def test_a_dockerd_whose_command_line_asks_for_it_has_it_already(tmp_path: Path, flag: str) -> None:
    """In its file, too, dockerd refuses it."""
    docker = Docker(tmp_path, one="running")
    (tmp_path / "live").touch()
    with subprocess.Popen(["sh", "-c", "read _", flag], stdin=subprocess.PIPE) as dockerd:
        (tmp_path / "pid").write_text(str(dockerd.pid))
        assert docker.restart(live=True).returncode == 0 and docker.did == ["restart"]
    assert (tmp_path / "live").exists()


def test_a_dockerd_that_does_not_take_it_is_not_restarted_under_containers(tmp_path: Path) -> None:
    docker = Docker(tmp_path, one="running")
    (tmp_path / "deaf").touch()
    done = docker.restart(live=True)
    assert done.returncode == 1 and "does not take live-restore" in done.stderr and "hint:" in done.stderr
    assert docker.did == ["reload"] and not (tmp_path / "ran").exists()
    assert (tmp_path / "daemon.json").read_text() == OURS


@pytest.mark.parametrize("written", [False, True])
def test_a_file_that_an_earlier_run_lent_is_taken_back(tmp_path: Path, written: bool) -> None:
    """Unless this run has written the right one in its place."""
    docker = Docker(tmp_path, one="running")
    (tmp_path / "own").write_text("the file itself")
    assert docker.restart(live=False, written=written).returncode == 0
    assert (tmp_path / "daemon.json").read_text() == (OURS if written else "the file itself")
    assert not (tmp_path / "own").exists()


def test_without_containers_nobody_needs_it(tmp_path: Path) -> None:
    docker = Docker(tmp_path, old="exited")
    assert docker.restart(live=True).returncode == 0 and docker.did == ["restart"]


def test_what_stopped_is_started_again_in_its_order(tmp_path: Path) -> None:
    """But for what was removed, and what was not running."""
    docker = Docker(tmp_path, z="running", gone_rm="running", old="exited", frozen="paused", a="running")
    assert docker.restart(live=False).returncode == 0
    assert docker.did == ["restart", "start z", "start frozen", "pause frozen", "start a"]


def test_one_that_does_not_start_is_named_and_keeps_nobody_back(tmp_path: Path) -> None:
    docker = Docker(tmp_path, bad="running", good="running")
    done = docker.restart(live=False)
    assert done.returncode == 1 and "do not start again: name-bad" in done.stderr
    assert docker.did == ["restart", "start bad", "start good"]


def test_a_service_of_ours_that_does_not_start_is_left_to_its_own_step(tmp_path: Path) -> None:
    """It may want files that are repaired only then."""
    docker = Docker(tmp_path, service_bad="running", good="running")
    done = docker.restart(live=False)
    assert done.returncode == 0 and done.stderr == "name-service-bad does not start yet\n"
    assert docker.did == ["restart", "start service-bad", "start good"] and not (tmp_path / "ran").exists()


def test_what_an_earlier_run_stopped_and_did_not_start_comes_first(tmp_path: Path) -> None:
    docker = Docker(tmp_path, stopped="exited", one="running")
    (tmp_path / "ran").write_text("stopped false\nremoved false\none false\n")
    assert docker.restart(live=False).returncode == 0
    assert docker.did == ["restart", "start stopped", "start one"]
    assert not (tmp_path / "ran").exists()


def test_a_dockerd_that_does_not_run_is_started(tmp_path: Path) -> None:
    docker = Docker(tmp_path, runs=False, old="exited")
    assert docker.restart(live=True).returncode == 0 and docker.did == ["restart"]

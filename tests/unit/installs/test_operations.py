"""What the operation hands to the host: run here under a plain sh, with a docker that keeps a log."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gpuhost.catalog.types import Account
from gpuhost.host.measures import parsed
from gpuhost.installs import operations, rules
from gpuhost.installs.facts import InstallReading, InstallState
from gpuhost.plan.change import Change
from gpuhost.plan.spec import canonical
from gpuhost.run.remote import Script
from tests.unit import sample

SPEC = {"version": "v1", "image": "x"}
# `docker run` makes the install, as the script in it would, and leaves a stamped folder alone.
DOCKER = """#!/bin/sh
echo "docker $*" >> "$LOG"
case $1 in
inspect) echo false ;;
wait) echo "${CODE:-0}" ;;
run) [ "${CODE:-0}" = 0 ] || exit 0; cd "$APP" && [ -e .gpuhost/installed.json ] || {
  mkdir -p .gpuhost code && echo 'serve()' > code/server.py && printf '%s' "$STAMP" > .gpuhost/installed.json; } ;;
esac
"""


@dataclass
class Host:
    """A folder, its manifest, and the operation on it."""

    path: Path
    manifest: Path
    carried: list[tuple[list[Change], list[Script]]]
    environ: dict[str, str]

    @property
    def measures(self) -> Path:
        return self.path.parent.parent / "measures"

    def observe(self) -> InstallReading:
        command = InstallState().command(path=str(self.path), manifest=str(self.manifest))
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True, env=self.environ)
        assert done.stderr == ""
        return InstallState().read(done.stdout.splitlines())

    def plan(self, **over: Any) -> tuple[str, str] | None:
        """(action, reason) of what would be done; carried[-1] holds it."""
        self.carried.clear()
        list(
            operations.installed._inner(
                path=str(self.path),
                manifest=str(self.manifest),
                spec=SPEC,
                image="x",
                environment={},
                script="/install.sh",
                account=Account(name="a", uid=10001, gid=10001),
                trees_command=f"{sys.executable} -I -B -m hostside.trees",
                measures=str(self.measures),
                **{"limits": [], **over},
            )
        )
        return (self.carried[0][0][0].action, self.carried[0][0][0].reason) if self.carried else None

    def apply(self, **environ: str) -> subprocess.CompletedProcess[str]:
        [step] = self.carried[0][1]
        script, stdin = str(step), str(step.connector_arguments["_stdin"])
        command = ["sh", "-c", script]
        return subprocess.run(
            command, input=stdin, capture_output=True, text=True, check=False, env={**self.environ, **environ}
        )

    @property
    def aside(self) -> list[Path]:
        return list(self.path.parent.glob("v1-a.replaced-*"))


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/docker").write_text(DOCKER)
    (tmp_path / "bin/docker").chmod(0o755)
    path = tmp_path / "installs/tree/v1-a"
    path.mkdir(parents=True)
    stamp = f'{{"spec": {canonical(SPEC)}, "finished_at": "now"}}'
    environ = {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "LOG": f"{tmp_path}/log", "APP": str(path)}
    made = Host(path, tmp_path / "state/v1-a.json", [], {**environ, "STAMP": stamp})

    def get_fact(fact: type, path: str, manifest: str) -> InstallReading:
        assert (path, manifest) == (str(made.path), str(made.manifest))
        return made.observe()

    def carry_out(changes: list[Change], commands: Any) -> list[Script]:
        made.carried.append((changes, list(commands)))
        return []

    monkeypatch.setattr(operations, "host", SimpleNamespace(get_fact=get_fact))
    monkeypatch.setattr(operations, "carry_out", carry_out)
    return made


def installed(host: Host) -> None:
    assert host.plan() == ("install", "not installed")
    done = host.apply()
    assert done.returncode == 0, done.stderr
    assert host.plan() is None


def test_installed_once_and_recorded(host: Host) -> None:
    installed(host)
    entries = json.loads(host.manifest.read_text())["entries"]
    assert {"code/server.py", ".gpuhost/installed.json"} <= entries.keys()
    assert not host.aside
    [measure] = parsed(host.measures.read_text().splitlines())
    assert (measure.kind, measure.name) == ("install", "tree") and measure.disk_bytes and measure.disk_bytes > 0


def test_the_script_finds_the_locked_packages_when_there_are_some(host: Host) -> None:
    """A file of the host, which the script cannot write."""
    host.plan()
    assert host.apply().returncode == 0
    assert "REQUIREMENTS_LOCK" not in Path(host.environ["LOG"]).read_text()
    host.plan(lock="/opt/tools/installs/tree.lock")
    (host.path / ".gpuhost/installed.json").unlink()
    host.plan(lock="/opt/tools/installs/tree.lock")
    assert host.apply().returncode == 0
    ran = [line for line in Path(host.environ["LOG"]).read_text().splitlines() if line.startswith("docker run")][-1]
    assert "--volume=/opt/tools/installs/tree.lock:/requirements.lock:ro" in ran
    assert "--env=REQUIREMENTS_LOCK=/requirements.lock" in ran


def test_the_script_runs_shut_in(host: Host) -> None:
    """What it installs is somebody else's code: the network, one folder, limits, and nothing more."""
    entry = sample.catalog().installs["tree"]
    host.plan(limits=rules.limits(entry, host_cpus=4))
    assert host.apply().returncode == 0
    [ran] = [line for line in Path(host.environ["LOG"]).read_text().splitlines() if line.startswith("docker run")]
    options = [word for word in ran.split() if word.startswith("--")]
    assert {*options} == {
        *("--name", "--label", "--network", "--pull=never", "--read-only", "--tmpfs=/tmp:size=256m", "--cap-drop=ALL"),
        *(f"--memory={entry.memory}", f"--memory-swap={entry.memory}", "--cpus=4", f"--pids-limit={entry.pids}"),
        *("--ulimit=core=0", "--security-opt=no-new-privileges", "--user=10001:10001"),
        *(f"--volume={host.path}:/app", "--volume=/install.sh:/install.sh:ro"),
    }


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda host: (host.path / "code/server.py").write_text(""), "code/server.py has 0 bytes, not 8;"),
        (lambda host: (host.path / ".gpuhost/installed.json").unlink(), ".gpuhost/installed.json is gone;"),
        (lambda host: host.manifest.unlink(), "there is no record of what was installed"),
    ],
)
def test_what_is_damaged_is_set_aside_and_installed_anew(
    host: Host, damage: Callable[[Host], object], reason: str
) -> None:
    installed(host)
    damage(host)
    before = sorted(host.path.rglob("*"))
    plan = host.plan()
    assert plan and plan[0] == "reinstall" and plan[1].startswith(reason)
    assert sorted(host.path.rglob("*")) == before and not host.aside  # a plan writes nothing
    done = host.apply()
    assert done.returncode == 0, done.stderr
    [aside] = host.aside
    assert f"is kept as {aside}" in done.stdout
    assert (host.path / "code/server.py").read_text() == "serve()\n"
    assert host.plan() is None


def test_a_touched_file_costs_no_install(host: Host) -> None:
    installed(host)
    (host.path / "code/server.py").touch()
    plan = host.plan()
    assert plan and plan[0] == "record"
    runs = Path(host.environ["LOG"]).read_text()
    assert host.apply().returncode == 0
    assert Path(host.environ["LOG"]).read_text() == runs
    assert host.plan() is None


def test_an_install_that_failed_is_not_recorded_and_goes_on_in_its_folder(host: Host) -> None:
    host.plan()
    assert host.apply(CODE="3").returncode == 3 and not host.measures.exists()
    (host.path / "half").touch()
    assert host.plan() == ("install", "it was not finished")
    assert host.apply().returncode == 0
    assert host.plan() is None and (host.path / "half").exists() and not host.aside


def test_one_that_was_killed_before_its_record_is_recorded_by_the_next_run(host: Host) -> None:
    host.plan()
    [step] = host.carried[0][1]
    step.bits = tuple(bit.replace("tree record", "kill -9 $$") for bit in step.bits)
    assert host.apply().returncode == -9
    assert host.plan() == ("install", "it was not finished")
    assert host.apply().returncode == 0
    assert host.plan() is None and not host.aside


def test_one_that_was_killed_after_it_was_set_aside_is_installed(host: Host) -> None:
    installed(host)
    (host.path / "code/server.py").write_text("")
    host.plan()
    [step] = host.carried[0][1]
    step.bits = tuple(bit.replace("tree begin", "kill -9 $$") for bit in step.bits)
    assert host.apply().returncode == -9
    assert host.plan() == ("install", "not installed")
    assert host.apply().returncode == 0
    assert host.plan() is None and len(host.aside) == 1

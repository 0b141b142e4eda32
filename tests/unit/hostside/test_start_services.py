"""The boot unit's script: what dockerd could not start is started, what others could turn elsewhere is stopped."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from gpuhost.project import PROJECT

# `docker` as far as the script asks: a file a container, with its state, its error and what it is given of the host.
DOCKER = r"""#!/bin/sh
cd @FOLDER@
echo "$*" >> calls
case "$1" in
  ps) for name in $(ls states); do case "$*" in *"status=$(cat states/$name)"*) echo $name;; esac; done;;
  inspect) eval "name=\${$#}"; name="${name#/}"
    case "$*" in
      *Mounts*) cat binds/$name; echo;;
      *) cat errors/$name; echo;;
    esac;;
esac
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("states", "errors", "binds", "bin"):
        (tmp_path / name).mkdir()
    for name, text in {
        "docker": DOCKER.replace("@FOLDER@", str(tmp_path)),
        "check": '#!/bin/sh\ncase "$*" in *bad*) echo "error: $* is bad" >&2; exit 1;; esac\n',
    }.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    return tmp_path


def started(folder: Path, services: str = "", **containers: tuple[str, str, str]) -> tuple[int, list[str], str]:
    """Run it for these services, or one a container: (exit status, what was started and stopped, stderr).

    `containers`: name -> (state, `failed` or nothing, binds).
    """
    for name, (state, error, binds) in containers.items():
        (folder / "states" / name).write_text(state)
        (folder / "errors" / name).write_text(error)
        (folder / "binds" / name).write_text(binds)
    done = subprocess.run(
        ["sh", PROJECT / "files/host/start_services.sh", services or " ".join(containers), f"{folder}/bin/check", "-x"],
        env={"PATH": f"{folder}/bin:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    calls = (folder / "calls").read_text().splitlines()
    return done.returncode, [call for call in calls if call.split()[0] in ("start", "stop")], done.stderr


def test_what_dockerd_could_not_start_is_started_and_nothing_else(folder: Path) -> None:
    assert started(
        folder,
        runs=("running", "", "/srv/a\n/srv/b"),
        stopped=("exited", "", "/srv/a"),
        failed=("created", "failed", "/srv/a"),
        without=("running", "", ""),
    ) == (0, ["start failed"], "")


def test_they_start_in_the_order_of_the_services(folder: Path) -> None:
    failed = dict.fromkeys(("a", "b", "c", "d"), ("created", "failed", ""))
    assert started(folder, "c a.b d b a", **failed)[1] == ["start c", "start d", "start b", "start a"]


def test_one_that_is_no_service_is_somebodys_own(folder: Path) -> None:
    """A container that somebody runs from an image of ours has our labels, and a name of his own."""
    there = dict.fromkeys(("api", "copy", "pi"), ("exited", "failed", ""))
    assert started(folder, "api painter", **there)[:2] == (0, ["start api"])


def test_a_running_one_that_others_can_turn_elsewhere_is_stopped_and_the_unit_fails(folder: Path) -> None:
    code, done, said = started(folder, runs=("running", "", "/srv/a\n/srv/bad"), loops=("restarting", "", "/srv/bad"))
    assert (code, sorted(done)) == (1, ["stop loops", "stop runs"])
    assert "error: -x /srv/a /srv/bad is bad" in said and "runs is stopped" in said


def test_one_that_failed_is_then_not_started_either(folder: Path) -> None:
    code, done, said = started(folder, failed=("exited", "failed", "/srv/bad"), fine=("exited", "failed", "/srv/a"))
    assert (code, done) == (1, ["start fine"])
    assert "failed is not started" in said

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
      *State.Health*) [ -e started/$name ] || { echo "$(cat states/$name) healthy"; exit; }
        echo "running $(head -n 1 started/$name)"; sed -i '1{$!d}' started/$name;;
      *RestartPolicy*) echo "$(cat about/$name)";;
      *) cat states/$name;;
    esac;;
  start) [ ! -e health/$2 ] || cp health/$2 started/$2; echo running > states/$2;;
esac
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("states", "about", "binds", "bin", "health", "started", "places"):
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
    written(folder, **containers)
    code, calls, said = run(folder, services)
    return code, [call for call in calls if call.split()[0] in ("start", "stop")], said


def written(folder: Path, **containers: tuple[str, str, str]) -> None:
    for name, (state, error, binds) in containers.items():
        (folder / "states" / name).write_text(state)
        (folder / "about" / name).write_text(f"unless-stopped {error or '-'} ")
        (folder / "places" / name).write_text("10")
        (folder / "binds" / name).write_text(binds)


def sharing(folder: Path, name: str, order: int, gpus: str, state: str = "exited", health: str = "healthy") -> None:
    """A service that shares GPUs; `health`: what each question after its start gets, a line each, the last for ever."""
    (folder / "states" / name).write_text(f"{state}\n")
    (folder / "about" / name).write_text(f"on-failure - {gpus}")
    (folder / "places" / name).write_text(str(order))
    (folder / "binds" / name).write_text("/srv/a")
    (folder / "health" / name).write_text(f"{health}\n")


def run(folder: Path, services: str = "") -> tuple[int, list[str], str]:
    """(exit status, every call of docker, stderr)."""
    places = {path.name: int(path.read_text()) for path in (folder / "places").iterdir()}
    order = services or " ".join(sorted(places, key=lambda name: (places[name], name)))
    done = subprocess.run(
        ["sh", PROJECT / "files/host/start_services.sh", order, f"{folder}/bin/check", "-x"],
        env={"PATH": f"{folder}/bin:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    return done.returncode, (folder / "calls").read_text().splitlines(), done.stderr


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


def steps(folder: Path) -> list[str]:
    """What was started, and whose health was asked for."""
    code, calls, _ = run(folder)
    assert code == 0
    asked = [call.split() for call in calls if call.startswith("start") or "State.Health" in call]
    return [f"{'start' if words[0] == 'start' else 'look'} {words[-1]}" for words in asked]


def test_those_that_share_a_gpu_start_in_order_each_when_the_one_before_is_healthy(folder: Path) -> None:
    sharing(folder, "last", 72, "gpu=A,gpu=B,")
    sharing(folder, "first", 70, "gpu=A,", health="starting\nstarting\nhealthy")
    sharing(folder, "second", 71, "gpu=B,", health="starting\nunhealthy")  # it will not be: the next one has its turn
    assert steps(folder) == [
        *("start first", "start second"),  # on cards of their own, so neither waits
        *("look first", "look first", "look first", "look second", "look second"),
        "start last",
    ]


def test_one_that_runs_already_is_waited_for_and_not_started(folder: Path) -> None:
    """dockerd restarted one that crashed, or the unit itself runs again."""
    sharing(folder, "first", 70, "gpu=A,", state="running", health="")
    (folder / "started" / "first").write_text("starting\nhealthy\n")
    sharing(folder, "second", 71, "gpu=A,")
    assert steps(folder) == ["look first", "look first", "start second"]


def test_cards_whose_names_begin_alike_are_two(folder: Path) -> None:
    sharing(folder, "first", 70, "gpu=A,", health="starting")
    sharing(folder, "second", 71, "gpu=AA,")
    assert steps(folder) == ["start first", "start second"]


def test_one_that_shares_a_gpu_and_may_not_start_keeps_nobody_waiting(folder: Path) -> None:
    sharing(folder, "first", 70, "gpu=A,", health="starting")
    (folder / "binds" / "first").write_text("/srv/bad")
    sharing(folder, "second", 71, "gpu=A,")
    code, calls, said = run(folder)
    assert (code, [call for call in calls if call.startswith("start")]) == (1, ["start second"])
    assert "first is not started" in said

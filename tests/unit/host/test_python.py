"""The host programs' environment: made here by its own script, looked at by its own script, and damaged."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from gpuhost.host import python as operations
from gpuhost.host.python import Stamp, VenvReading, VenvState, make_script, reason
from gpuhost.project import PROJECT
from tests.unit.apt.test_operations import Seen

LOCK = "not a requirement\n"
DIGEST = hashlib.sha256(LOCK.encode()).hexdigest()
PROGRAMS = str(PROJECT / "files/host")
PACKAGES = ("docker", "httpx", "huggingface_hub")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment made by the script; pip is a stand-in that makes packages of one file."""
    root = tmp_path_factory.mktemp("made")
    pip = root / "pip"
    pip.mkdir()
    (pip / "__main__.py").write_text(
        "import pathlib, sysconfig\n"
        "site = pathlib.Path(sysconfig.get_path('purelib'))\n"
        f"for name in {PACKAGES!r}:\n"
        "    (site / f'{name}.py').write_text('x = 1')\n"
        "    info = site / f'{name}-1.0.dist-info'; info.mkdir()\n"
        "    script = pathlib.Path(sysconfig.get_path('scripts'), f'run, {name}'); script.write_text('#!')\n"
        "    record = f'{name}.py,sha256=x,5\\n\"../../../bin/run, {name}\",sha256=x,2\\n'\n"
        "    record += f'__pycache__/{name}.cpython-311.pyc,,\\n{name}-1.0.dist-info/RECORD,,\\n'\n"
        "    ends = '\\r\\n' if name == 'httpx' else '\\n'  # pip's own csv has CRLF\n"
        "    (info / 'RECORD').write_bytes(record.replace('\\n', ends).encode())\n"
    )
    # `python3 -m venv` without the real pip (seconds, and the network), and the stand-in on the path.
    script = (
        make_script(str(root / "the venv"), DIGEST, PROGRAMS)
        .replace(" -m venv ", " -m venv --without-pip ")
        .replace("/run/gpuhost", str(root))
    )
    script = script.replace("-m pip install", f"{pip} install")
    subprocess.run(["sh", "-c", script], input=LOCK, text=True, check=True, env=environ())
    return root / "the venv"


@pytest.fixture
def venv(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    shutil.copytree(made, tmp_path / "venv", symlinks=True)
    return tmp_path / "venv"


def environ() -> dict[str, str]:
    return {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "LC_ALL": "C"}


def look(venv: Path) -> VenvReading:
    done = subprocess.run(
        ["sh"], input=VenvState().command(str(venv)), env=environ(), capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    return VenvState().process(done.stdout.splitlines())


def why(venv: Path, lock: str = DIGEST, programs: str = PROGRAMS) -> str | None:
    return reason(lock, programs, look(venv))


def site(venv: Path) -> Path:
    [found] = venv.glob("lib/python3*/site-packages")
    return found


def test_what_was_made_is_right(made: Path, venv: Path) -> None:
    python = "{}.{}".format(*sys.version_info)
    packages = {f"{name}-1.0": 0 for name in PACKAGES}
    stamp = Stamp(DIGEST, python, PROGRAMS, list(packages))
    assert look(made) == VenvReading(python, True, stamp, True, PROGRAMS, packages, None)
    assert why(venv) is None


def test_its_python_runs_our_programs_and_nothing_of_the_working_folder(made: Path, tmp_path: Path) -> None:
    (tmp_path / "hostside").mkdir()
    (tmp_path / "hostside/__init__.py").write_text("raise SystemExit('of the working folder')")
    (tmp_path / "json.py").write_text("raise SystemExit('of the working folder')")
    ask = [str(made / "bin/python"), "-I", "-B", "-c", "import hostside.wire as w; print(w.__file__)"]
    done = subprocess.run(ask, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == (f"{PROGRAMS}/hostside/wire.py\n", "")


def _cut(venv: Path) -> None:
    (site(venv) / "httpx.py").write_text("x")


def _compiled(venv: Path) -> None:
    (site(venv) / "__pycache__").mkdir(exist_ok=True)
    (site(venv) / "__pycache__/httpx.cpython-311.pyc").write_text("compiled")


def _added(venv: Path) -> None:
    (site(venv) / "evil-2.0.dist-info").mkdir()
    (site(venv) / "evil-2.0.dist-info/RECORD").touch()
    (site(venv) / "evil-2.0.dist-info/RECORD").write_text("evil-2.0.dist-info/RECORD,,\n")


def _linked_interpreter(venv: Path) -> None:
    (venv / "bin/python").unlink()
    (venv / "bin/python").symlink_to("/usr/bin/python-of-an-older-release")


DAMAGE: dict[str, tuple[Callable[[Path], object], str | None]] = {
    "gone": (shutil.rmtree, "it does not exist"),
    "not finished": (lambda venv: (venv / ".gpuhost").unlink(), "it was not finished"),
    "an earlier version's": (lambda venv: (venv / ".gpuhost").write_text("0" * 64), "it was not finished"),
    "a module is gone": (lambda venv: (site(venv) / "httpx.py").unlink(), "package httpx is not whole"),
    "a module was cut": (_cut, "package httpx is not whole"),
    "a script is gone": (lambda venv: (venv / "bin/run, docker").unlink(), "package docker is not whole"),
    "a package is gone": (lambda venv: shutil.rmtree(site(venv) / "httpx-1.0.dist-info"), "package httpx is gone"),
    "a package was added": (_added, "package evil was added by somebody"),
    "compiled modules": (_compiled, None),
    "no interpreter": (_linked_interpreter, "its interpreter is gone"),
    "no programs": (lambda venv: (site(venv) / "gpuhost.pth").unlink(), f"it does not find the programs in {PROGRAMS}"),
    "others' programs": (
        lambda venv: (site(venv) / "gpuhost.pth").write_text("/tmp\n"),
        f"it does not find the programs in {PROGRAMS}",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_each_damage_is_named(venv: Path, damage: str) -> None:
    act, wanted = DAMAGE[damage]
    act(venv)
    assert why(venv) == wanted


@pytest.mark.parametrize("path", [".", "bin", "lib"])
@pytest.mark.parametrize("mode", [0o777, 0o775])
def test_a_folder_that_others_may_write_is_named(venv: Path, path: str, mode: int) -> None:
    (venv / path).chmod(mode)
    assert f"others may write to {venv / path} (owner " in str(why(venv)) and f"mode {mode:o})" in str(why(venv))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a file away")
def test_a_file_of_somebody_else_is_named(venv: Path) -> None:
    os.chown(site(venv) / "httpx.py", 12345, 0)
    assert f"others may write to {site(venv) / 'httpx.py'} (owner 12345" in str(why(venv))


def test_another_lock_file_or_another_folder_of_programs(venv: Path) -> None:
    assert why(venv, lock="1" * 64) == "the lock file changed"
    assert why(venv, programs="/opt/elsewhere") == "it does not find the programs in /opt/elsewhere"


def test_a_new_python_of_the_host_is_named(made: Path) -> None:
    there = look(made)
    assert there.stamp is not None
    older = replace(there.stamp, python="3.9")
    assert reason(DIGEST, PROGRAMS, replace(there, stamp=older)) == (
        f"it was made by Python 3.9, the host has {there.host_python}"
    )
    assert reason(DIGEST, PROGRAMS, replace(there, host_python="")).endswith("the host has none")  # type: ignore[union-attr]


def test_a_host_without_python_has_no_environment(tmp_path: Path) -> None:
    assert VenvState().process(["end"]) == VenvReading("", False, None, False, "", {}, None)
    assert reason(DIGEST, PROGRAMS, VenvReading()) == "it does not exist"


def test_a_line_that_cannot_be_read_fails_its_own_host() -> None:
    with pytest.raises(ValueError):
        VenvState().read(["package\thttpx-1.0\tmany"])


@pytest.mark.parametrize(
    ("lock", "stamp", "python", "fields"),
    [
        (LOCK, {}, "3.13", None),
        (LOCK, {"lock": "0" * 64}, "3.13", [("lock", "0" * 12, DIGEST[:12])]),
        (LOCK, {"python": "3.11"}, "3.13", [("python", "3.11", "3.13")]),
        (LOCK, {}, "", [("python", "3.13", None)]),
        (LOCK, None, "3.13", []),
        ("other\n", {}, "3.13", [("lock", DIGEST[:12], hashlib.sha256(b"other\n").hexdigest()[:12])]),
    ],
)
def test_the_change_says_what_differs(
    monkeypatch: pytest.MonkeyPatch,
    lock: str,
    stamp: dict[str, str] | None,
    python: str,
    fields: list[tuple[str, str, str | None]] | None,
) -> None:
    right = Stamp(DIGEST, "3.13", "/programs", ["httpx-1.0"])
    made = None if stamp is None else replace(right, **stamp)  # type: ignore[arg-type]
    reading = VenvReading(python, True, made, True, "/programs", {"httpx-1.0": 0}, None)
    seen = Seen(monkeypatch, operations, reading)
    subjects = seen.of(operations.environment, path="/the venv", lock=lock, programs="/programs")
    assert subjects == ([] if fields is None else ["/the venv"])
    if fields is None:
        return
    [change] = seen.changes
    assert (change.stage, change.resource.kind, change.action) == ("layout", "venv", "make")
    assert [(each.field, each.before, each.after) for each in change.diff] == fields
    assert "rm -rf '/the venv'" in seen.scripts[0] and hashlib.sha256(lock.encode()).hexdigest() in seen.scripts[0]


@pytest.mark.parametrize(("said", "version"), [("Python 3.11.2", "3.11"), ("Python 3.13", "3.13"), ("sh: no", "")])
def test_the_hosts_python(said: str, version: str) -> None:
    assert VenvState().process([f"host\t{said}", "exists", "end"]) == VenvReading(version, True)


def test_what_a_stopped_run_left_behind_is_waited_for(tmp_path: Path) -> None:
    """After Ctrl-C pip goes on on the host: what is removed under its hands is there again, and the removal fails."""
    holder = subprocess.Popen(
        ["flock", tmp_path / "venv.lock", "sh", "-c", f"echo held; read line; touch {tmp_path}/ended"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdin and holder.stdout and holder.stdout.readline() == "held\n"
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, code in {
        "rm": f"ls {tmp_path} > {tmp_path}/seen; exit 9",
        "flock": 'echo asks; exec /usr/bin/flock "$@"',
    }.items():
        (programs / name).write_text(f"#!/bin/sh\n{code}\n")
        (programs / name).chmod(0o755)
    script = make_script(str(tmp_path / "venv"), DIGEST, PROGRAMS).replace("/run/gpuhost", str(tmp_path))
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
    maker = subprocess.Popen(
        ["sh", "-c", script], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert maker.stdout and maker.stdout.readline() == "asks\n"
    assert not (tmp_path / "seen").exists()
    holder.communicate("go on\n", timeout=30)
    maker.communicate(timeout=30)
    assert maker.returncode == 9 and "ended" in (tmp_path / "seen").read_text().split()

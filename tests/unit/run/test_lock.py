"""Scripts of which only one works at a time."""

from __future__ import annotations

import subprocess
from pathlib import Path

from gpuhost.run.lock import alone


def script(lock: Path, then: str, wait_s: int | None = None) -> subprocess.Popen[bytes]:
    line = f"umask 022; {alone(str(lock), wait_s)} || exit 9\n{then}"
    return subprocess.Popen(["sh", "-c", line], stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def test_the_second_waits_until_the_first_has_ended_however_it_ended(tmp_path: Path) -> None:
    lock = tmp_path / "run" / "one.lock"
    first = script(lock, "echo works; read end")
    assert first.stdout and first.stdout.readline() == b"works\n"
    impatient = script(lock, "echo works", wait_s=0)
    assert impatient.communicate()[0] == b"" and impatient.returncode == 9
    second = script(lock, "echo works")
    first.kill()
    first.wait()
    assert second.communicate(timeout=20)[0] == b"works\n"


def test_nobody_else_can_open_a_lock_and_one_that_others_could_open_is_closed(tmp_path: Path) -> None:
    new, old = tmp_path / "new.lock", tmp_path / "old.lock"
    old.touch(0o644)
    for lock in (new, old):
        assert script(lock, "umask").communicate()[0] == b"0022\n"
        assert lock.stat().st_mode & 0o777 == 0o600

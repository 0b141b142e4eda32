"""kill -9 and Ctrl-C of a command on the operator's machine, and what its end leaves there and on the host."""

from __future__ import annotations

import hashlib
import hmac
import io
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dotenv.parser import parse_stream

from hostside.envfile import quote as env_quote

from ..world.freshhost import FreshHost
from ..world.run import wait_for

TICK_S = 0.0005
GONE_LIMIT_S = 300
# What the product generates, by secret: whole, or it is torn.
GENERATED = {
    "COMFYUI_PASSWORD": r"[\w-]{24}",
    "COMFYUI_PASSWORD_HASH": r"\$2b\$12\$[./\w]{53}",
    "ORCHESTRATOR_TOKEN": r"[\w-]{43}",
    "VLLM_API_KEY_MICRO": r"[\w-]{43}",
    "VLLM_API_KEY_MINI": r"[\w-]{43}",
    "VLLM_API_KEY_MEDIUM": r"[\w-]{43}",
    "SD35_API_KEY": r"[\w-]{43}",
}
Values = Mapping[str, str]


# -- a command, and its death -----------------------------------------------------------------------------------------


class Victim:
    """A command in a session of its own; what it says goes into a file, so that nobody dies of a closed pipe."""

    def __init__(self, command: Sequence[str], cwd: Path, environment: Values, said: Path) -> None:
        self._said = said
        with said.open("wb") as stream:
            self._process = subprocess.Popen(
                command,
                cwd=cwd,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                # As a terminal's programs have it: who started us in the background let us ignore it.
                preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
            )

    @property
    def ended(self) -> bool:
        """True when nothing is left to kill but what it started."""
        return self._process.poll() is not None

    @property
    def code(self) -> int | None:
        """Its exit code, once it ended."""
        return self._process.poll()

    @property
    def said(self) -> str:
        """stdout and stderr so far."""
        return self._said.read_text(errors="replace")

    def live(self, delay_s: float, anchor: Callable[[], bool] | None = None) -> None:
        """Let it live for a time; with `anchor`, from when that becomes true. Returns early when it ends."""
        while anchor and not self.ended and not anchor():
            time.sleep(TICK_S)
        end = time.monotonic() + delay_s
        while not self.ended and time.monotonic() < end:
            time.sleep(min(TICK_S, max(0.0, end - time.monotonic())))

    def kill(self, parent_only: bool = False) -> bool:
        """kill -9 of the whole group, or of the command alone; False when it had ended by itself."""
        if not self.ended:
            (os.kill if parent_only else os.killpg)(self._process.pid, signal.SIGKILL)
        killed = self._process.wait() == -signal.SIGKILL
        if not parent_only:
            self.wait_for_children()
        return killed

    def interrupt(self) -> bool:
        """Ctrl-C: SIGINT to the whole group, as a terminal sends it; False when it had ended by itself."""
        if self.ended:
            return False
        os.killpg(self._process.pid, signal.SIGINT)
        self._process.wait(GONE_LIMIT_S)
        self.wait_for_children()
        return True

    def wait_for_children(self) -> bool:
        """Until the last process of its group is gone; True when there was one."""
        if not self._group():
            return False
        wait_for(lambda: not self._group(), "the children of a killed command", GONE_LIMIT_S)
        return True

    def _group(self) -> list[int]:
        """The processes of its group, but for zombies: not everywhere does somebody reap orphans."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    state, _, group = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
                except OSError:  # gone meanwhile
                    continue
                if int(group) == self._process.pid and state not in "ZX":
                    found.append(int(entry.name))
        return found


# -- the host, as it is -----------------------------------------------------------------------------------------------

_LOOK = r"""
import json, os, subprocess, sys
files, containers = {}, []
for folder, _, names in os.walk("/srv/genai/stacks"):
    for path in (os.path.join(folder, name) for name in names):
        try:
            with open(path, newline="") as file:
                seen = os.fstat(file.fileno())
                files[path] = {"mode": seen.st_mode & 0o7777, "owner": [seen.st_uid, seen.st_gid], "text": file.read()}
        except FileNotFoundError:
            pass
docker = lambda *words: subprocess.run(["docker", *words], capture_output=True, text=True)
for id in docker("ps", "-aq", "--no-trunc", "--filter", "label=gpuhost.service").stdout.split():
    found = docker("inspect", id)
    for each in json.loads(found.stdout) if found.returncode == 0 else []:
        env = dict(entry.partition("=")[::2] for entry in each["Config"]["Env"])
        containers.append({"name": each["Name"][1:], "service": each["Config"]["Labels"]["gpuhost.service"],
                           "state": each["State"]["Status"], "env": env})
at_work = []
for entry in os.listdir("/proc"):
    if entry.isdigit():
        try:
            with open(f"/proc/{entry}/cmdline") as file:
                line = file.read().replace("\0", " ")
        except OSError:
            continue
        if "docker compose" in line or "docker-compose" in line or "hostside.verify" in line or "gpuhost-new" in line:
            at_work.append(entry)
json.dump({"files": files, "containers": containers, "at_work": at_work}, sys.stdout)
"""


@dataclass(frozen=True, repr=False)
class HostFile:
    """A file of a stack's folder."""

    mode: int
    owner: tuple[int, int]
    text: str


@dataclass(frozen=True, repr=False)
class OnHost:
    """What a host holds: files by path, containers of ours, processes of a dead run that still work there."""

    files: Mapping[str, HostFile]
    containers: Sequence[Mapping[str, Any]]
    at_work: Sequence[str]

    def leftovers(self) -> list[str]:
        """Files that were about to replace another."""
        return sorted(path for path in self.files if path.endswith(".gpuhost-new"))

    def held(self, names: Collection[str]) -> list[tuple[str, str, str]]:
        """(container, name, value) of every secret in an environment."""
        return [
            (each["name"], name, each["env"][name])
            for each in self.containers
            for name in set(names) & set(each["env"])
        ]


def look(host: FreshHost) -> OnHost:
    """Everything in one round trip."""
    found = json.loads(host.root("/opt/gpuhost/venv/bin/python -B -", input=_LOOK, check=True).stdout)
    files = {path: HostFile(each["mode"], tuple(each["owner"]), each["text"]) for path, each in found["files"].items()}
    return OnHost(files, found["containers"], found["at_work"])


def torn(before: OnHost, now: OnHost, old: Values, new: Values, key: str) -> list[str]:
    """Files that hold neither what they held nor what the new values make of that, or with another mode or owner.

    `old`, `new`: every secret before and now; `key`: of the fingerprints in compose files.
    """
    found = [f"{path} is gone" for path in before.files.keys() - now.files.keys()]
    for path, file in now.files.items():
        was = before.files.get(path)
        if path.endswith(".gpuhost-new"):
            target = before.files.get(path.removesuffix(".gpuhost-new"))
            if file.mode & 0o077 and target and not target.mode & 0o077:
                found.append(f"{path} has mode {file.mode:o}")
        elif was is None:
            found.append(f"{path} is new")
        elif (file.mode, file.owner) != (was.mode, was.owner):
            found.append(f"{path}: {was.mode:o} {was.owner} became {file.mode:o} {file.owner}")
        elif file.text not in (was.text, renewed(was.text, old, new, key)):
            found.append(f"{path} is torn: {len(file.text)} characters, it had {len(was.text)}")
    return found


def renewed(text: str, old: Values, new: Values, key: str) -> str:
    """A file of the host with the new values in the places of the old ones."""
    for name in old.keys() & new.keys():
        if old[name] != new[name]:
            for form in (env_quote, lambda value, name=name: _fingerprint(key, name, value), str):
                text = text.replace(form(old[name]), form(new[name]))
    return text


def _fingerprint(key: str, name: str, value: str) -> str:
    return hmac.new(key.encode(), json.dumps([name, value]).encode(), hashlib.sha256).hexdigest()


# -- the control's file -----------------------------------------------------------------------------------------------


def without(text: str, names: Iterable[str]) -> str:
    """An env file's text without the lines of some names."""
    dropped = set(names)
    return "".join(each.original.string for each in parse_stream(io.StringIO(text)) if each.key not in dropped)


def rotated(text: str, names: Iterable[str]) -> re.Pattern[str]:
    """An env file's text with whole new values for some names, and every other byte as it was."""
    wanted, pieces = set(names), []
    for each in parse_stream(io.StringIO(text)):
        line = each.original.string
        if each.key in wanted:
            before = line.partition("=")[0]
            pieces.append(f"{re.escape(before)}='{GENERATED[str(each.key)]}'\\n")
        else:
            pieces.append(re.escape(line))
    return re.compile("".join(pieces))


def appended(text: str, names: Iterable[str]) -> re.Pattern[str]:
    """An env file's text with whole generated lines behind it: each absent or whole."""
    lines = "|".join(f"{name}='{GENERATED[name]}'" for name in names)
    return re.compile(f"{re.escape(text)}(?:(?:{lines})\\n)*")

"""The session of docs/tutorial.md: what the terminal shows on the way from a bare host to answering services.

    python -m tests.rehearsal.pictures           # goes that way on a rehearsal host (root, minutes), keeps session.json
    python -m tests.rehearsal.pictures --draw    # the pictures from session.json (`make docs`)

Every command is typed as the tutorial has it, in a site that `gpuhost init` made, on a terminal of 80 columns, by
somebody whose home is /home/ada: for these commands alone a folder of the world is there. What is kept is what the
terminal got.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from .instruments.picture import COLUMNS, plain, settled, svg
from .instruments.terminal import at_terminal
from .world.freshhost import FreshHost
from .world.gpus import Gpu
from .world.machine import PROJECT, prepare
from .world.scenery import furnish
from .world.world import World

PICTURES = PROJECT / "docs" / "pictures"
SESSION = PICTURES / "session.json"
HOME = "/home/ada"
AT_HOME = 'mount --bind "$0" /home && cd "$1" && shift && exec "$@"'  # in the mount namespace of `operator`
LIMIT_S = 900
# Picture -> the steps in it, each with the beginning of the first line that is shown: what stands before is `...`.
DRAWN = {
    "plan": (("plan of a change", ""),),
    "apply": (("apply", "Plan: "),),
    "status": (("status", ""), ("second plan", "")),
    "rotate": (("rotate", ""),),
}
INVENTORY = """hosts = [
    ("gpu1", {"ssh_user": "admin", "ssh_key": "~/.ssh/id_ed25519", "_sudo": True}),
]
"""
ENABLED = 'enabled_services = ["orchestrator", "comfyui-qwen"]\n'
CHANGED = 'services = {"comfyui-qwen": {"memory": "38g"}}\n'


@dataclass(frozen=True)
class Step:
    """A command that was typed: `answers` were given to it, `code` is its exit code, `shown` the lines that stayed on
    its terminal, with their colours."""

    name: str
    command: str
    answers: tuple[str, ...]
    code: int
    shown: tuple[str, ...]

    def lines(self, first: str = "") -> list[str]:
        """What was typed and what came, from the line on that begins with `first`."""
        start = next(number for number, line in enumerate(self.shown) if line.startswith(first))
        return [f"$ {self.command}", *(["..."] if start else []), *self.shown[start:]]


@dataclass(frozen=True)
class Desk:
    """Where the operator sits: a home of its own with the key of the host, which has the name gpu1."""

    world: World
    host: FreshHost

    @property
    def home(self) -> Path:
        """The folder that is at HOME."""
        return self.world.run_dir / HOME[1:]

    @property
    def site(self) -> Path:
        """The site that `gpuhost init ~/lab` makes."""
        return self.home / "lab"

    def furnish(self) -> None:
        """Key and name of the host."""
        (self.home / ".ssh").mkdir(parents=True)
        shutil.copy(self.host.key, self.home / ".ssh/id_ed25519")
        with (self.world.run_dir / "operator.hosts").open("a") as hosts:
            hosts.write(f"{self.host.address} gpu1\n")

    def write(self, file: str, content: str) -> None:
        """A file of the site, as the tutorial says to write it."""
        (self.site / file).write_text(content)

    def typed(self, name: str, command: str, answers: Mapping[str, str], code: int) -> Step:
        """Type a command in the site's folder, or in the home while there is none. Raises RuntimeError when it ends
        otherwise."""
        words = [word.replace("~", HOME, 1) for word in shlex.split(command)]
        # Of the shell that types nothing but what makes gpuhost speak as it does for anybody.
        kept = {key: value for key, value in os.environ.items() if key != "NO_COLOR" and not key.startswith("XDG_")}
        path = f"{Path(sys.executable).parent}:{kept['PATH']}"
        env = {**kept, "HOME": HOME, "PATH": path, "COLUMNS": str(COLUMNS), "TERM": "xterm-256color"}
        folder = f"{HOME}/lab" if self.site.is_dir() else HOME
        line = [str(self.world.operator_command), "sh", "-c", AT_HOME, str(self.home.parent), folder, *words]
        done = at_terminal(line, list(answers.items()), self.home, env, LIMIT_S)
        step = Step(name, command, tuple(answers.values()), done.code, tuple(settled(done.text)))
        print(*map(plain, step.lines()), sep="\n", flush=True)
        if done.code != code:
            raise RuntimeError(f"`{command}` ended with {done.code}, not with {code}")
        return step


def session(desk: Desk, data: str) -> Iterator[Step]:
    """Each step in turn. `data`: what the rehearsal's stand-ins want in the site's data beside what is shown."""
    yes = {"[y/N] ": "y"}
    yield desk.typed("init", "gpuhost init ~/lab", {}, 0)
    desk.write("inventory.py", INVENTORY)
    desk.write("group_data/all.py", ENABLED + data)
    yield desk.typed("trust", "gpuhost trust gpu1", yes, 0)
    yield desk.typed("check", "gpuhost check", {}, 0)
    yield desk.typed("plan", "gpuhost plan", {}, 2)
    yield desk.typed("apply", "gpuhost apply", yes, 0)
    yield desk.typed("status", "gpuhost status", {}, 0)
    yield desk.typed("second plan", "gpuhost plan", {}, 0)
    yield desk.typed("verify", "gpuhost verify", {}, 0)
    yield desk.typed("open", "gpuhost open comfyui-qwen --print", {}, 0)
    yield desk.typed("models", "gpuhost models status", {}, 0)
    yield desk.typed("audit", "gpuhost secrets audit", {}, 0)
    yield desk.typed("rotate", "gpuhost secrets rotate ORCHESTRATOR_TOKEN", yes, 0)
    desk.write("group_data/all.py", ENABLED + CHANGED + data)
    yield desk.typed("plan of a change", "gpuhost plan --no-diff", {}, 2)
    yield desk.typed("destroy", "gpuhost destroy", yes, 0)


def record() -> list[Step]:
    """Go the way, on a host of a world of its own. Raises RuntimeError for a checkout that lies below /home."""
    if PROJECT.is_relative_to("/home"):
        raise RuntimeError("a home is put in the place of /home: run it from a checkout elsewhere")
    prepare()
    with World(PROJECT / "build" / "rehearsal" / f"pictures-{os.getpid()}") as world:
        furnish(world)
        desk = Desk(world, world.boot("gpu1", gpus=[Gpu("NVIDIA GeForce RTX 3090", 24576)]))
        desk.furnish()
        others = {key: value for key, value in world.host_data().items() if key != "enabled_services"}
        steps = list(session(desk, "".join(f"{key} = {value!r}\n" for key, value in others.items())))
    shutil.rmtree(world.run_dir)
    return steps


def kept() -> list[Step]:
    """The steps of session.json."""
    steps = json.loads(SESSION.read_text())
    return [Step(**{**step, "answers": tuple(step["answers"]), "shown": tuple(step["shown"])}) for step in steps]


def drawn(steps: Sequence[Step]) -> dict[str, str]:
    """Picture -> SVG."""
    named = {step.name: step for step in steps}
    return {
        picture: svg([line for name, first in parts for line in named[name].lines(first)])
        for picture, parts in DRAWN.items()
    }


def main() -> None:
    """Record, unless told not to; draw."""
    parser = argparse.ArgumentParser(prog="python -m tests.rehearsal.pictures", description=__doc__)
    parser.add_argument("--draw", action="store_true", help="only the pictures, from what was recorded last")
    PICTURES.mkdir(exist_ok=True)
    if not parser.parse_args().draw:
        SESSION.write_text(json.dumps([asdict(step) for step in record()], indent=1, ensure_ascii=False) + "\n")
    for name, picture in drawn(kept()).items():
        (PICTURES / f"{name}.svg").write_text(picture)


if __name__ == "__main__":
    main()

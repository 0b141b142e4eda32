"""Boot a fresh host to play with: python -m tests.rehearsal.shell [--suite trixie] [--gpus 1] [--keep]."""

from __future__ import annotations

import argparse
import shutil
import signal
import tempfile
import time
from pathlib import Path

from .world.gpus import Gpu
from .world.scenery import furnish
from .world.world import STANDINS, World, clean


def removal(world: World) -> str:
    """The command that removes this kept world and no other."""
    return f"python -m tests.rehearsal.shell --clean {world.id}"


def main() -> None:
    """Parse arguments, boot or clean."""
    parser = argparse.ArgumentParser(prog="python -m tests.rehearsal.shell", description=__doc__)
    parser.add_argument("--suite", default="trixie", choices=["trixie", "bookworm"])
    parser.add_argument("--gpus", type=int, default=1, metavar="N", help="RTX 3090s in the host (default 1)")
    parser.add_argument("--sudo", default="nopasswd", choices=["nopasswd", "password", "none"])
    parser.add_argument("--name", default="ws1")
    parser.add_argument("--run-dir", type=Path, help="default: a new folder in the temporary one")
    parser.add_argument("--keep", action="store_true", help="leave the world running and return")
    parser.add_argument(
        "--clean",
        nargs="?",
        const="*",
        metavar="WORLD",
        help="remove this kept world, or all and what crashed ones left",
    )
    args = parser.parse_args()
    if args.clean:
        print("removed:", " ".join(clean(args.clean)) or "nothing")
        return
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    run_dir = args.run_dir or Path(tempfile.mkdtemp(prefix="gpuhost-rehearsal-"))
    with World(run_dir, keep=args.keep, suites=(args.suite,)) as world:
        furnish(world)
        gpus = [Gpu("NVIDIA GeForce RTX 3090", 24576)] * args.gpus
        host = world.boot(args.name, suite=args.suite, gpus=gpus, sudo=args.sudo)
        print(f"world     {world.id} in {world.run_dir}")
        print(f"log in    {host.ssh_command}")
        print(f"as root   docker exec -it {host.container} bash")
        print(f"inventory {host.inventory}")
        print(f"operate   {world.operator_command} COMMAND   (this machine, with the world's names and CA)")
        print(f"stand-ins {' '.join(STANDINS)}; requests in {world.run_dir}/requests/")
        print("timings   " + ", ".join(f"{name} {seconds:g} s" for name, seconds in world.timings.items()), flush=True)
        if args.keep:
            print(f"kept; remove it with: {removal(world)}")
            return
        print("Ctrl-C ends it", flush=True)
        try:
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            print("removing ...")
    if not args.run_dir:
        shutil.rmtree(run_dir, ignore_errors=True)


if __name__ == "__main__":
    main()

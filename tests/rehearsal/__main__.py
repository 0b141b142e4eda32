"""`make rehearse`: the whole path on a fresh host made on this machine, with its report.

Exit code 0 only if all is proved.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
import traceback

from .instruments.proof import Proof, write_report
from .shell import removal
from .world.gpus import Gpu
from .world.machine import PROJECT, prepare
from .world.scenery import furnish
from .world.world import World

REPORT = PROJECT / "build" / "rehearsal" / "report.json"


def main() -> int:
    """Boot, prove, report; returns the exit code."""
    parser = argparse.ArgumentParser(prog="gpuhost rehearse", description=__doc__)
    parser.add_argument("--suite", choices=("trixie", "bookworm"), default="trixie")
    parser.add_argument("--keep", action="store_true", help="keep the host and print how to log in")
    options = parser.parse_args()
    if os.geteuid() != 0:
        print("error: a rehearsal needs root (it boots a host in a container)", file=sys.stderr)
        print("hint: sudo make rehearse", file=sys.stderr)
        return 1
    started = time.monotonic()
    prepare()
    print("the stand-ins and the host's image are made (about a minute, then cached) ...", flush=True)
    with World(PROJECT / "build" / "rehearsal" / f"world-{os.getpid()}", options.keep, (options.suite,)) as world:
        furnish(world)
        host = world.boot("ws1", suite=options.suite, gpus=[Gpu("NVIDIA GeForce RTX 3090", 24576)])
        proof, failure = Proof(host), None
        try:
            proof.run()
        except Exception as error:
            failure = f"{type(error).__name__}: {error}"
            traceback.print_exc()
        seconds = round(time.monotonic() - started, 1)
        document = {"proved": failure is None, "failure": failure, "suite": options.suite, "seconds": seconds}
        write_report(REPORT, {**document, "world_s": world.timings, **proof.report()})
        print(f"{'proved' if failure is None else 'NOT proved'} in {seconds} s; report: {REPORT.relative_to(PROJECT)}")
        if options.keep:
            print(f"log in: {host.ssh_command}\ninventory: {host.inventory}")
            print(f"remove it with: {removal(world)}")
    if failure is None and not options.keep:
        shutil.rmtree(world.run_dir)  # after a failure the stand-ins' logs stay
    return 0 if failure is None else 1


if __name__ == "__main__":
    sys.exit(main())

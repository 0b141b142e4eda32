"""Read by pyinfra before the inventory: group_data is checked before any host is contacted."""

import atexit
import gc
import os
import sys

from pyinfra import config

# pyinfra turns Python's cache of compiled modules off: without it every run compiles all of ours again.
sys.dont_write_bytecode = bool(sys.flags.dont_write_bytecode)

from gpuhost.run.entry import check_command_line  # noqa: E402

config.REQUIRE_PYINFRA_VERSION = "~=3.10.0"
# `gpuhost --use-sudo-password` asks once and hands the answer to its pyinfra runs.
config.SUDO_PASSWORD = os.environ.pop("GPUHOST_SUDO_PASSWORD", None)
# What was imported stays: Python need not look through it again and again, nor once more at its end.
gc.freeze()
gc.enable()
atexit.register(gc.freeze)
check_command_line()

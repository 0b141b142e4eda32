"""Read by pyinfra before the inventory: group_data is checked before any host is contacted."""

import os

from pyinfra import config

from gpuhost.run.entry import check_command_line

config.REQUIRE_PYINFRA_VERSION = "~=3.10.0"
# `gpuhost --use-sudo-password` asks once and hands the answer to its pyinfra runs.
config.SUDO_PASSWORD = os.environ.pop("GPUHOST_SUDO_PASSWORD", None)
check_command_line()

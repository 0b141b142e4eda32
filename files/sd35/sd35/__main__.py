"""`python -m sd35`: serves until SIGTERM. Exit 0 after it, 1 when it must not start."""

from __future__ import annotations

import os
import sys
from types import FrameType

import uvicorn

from sd35.app import Server
from sd35.connections import LimitedProtocol
from sd35.gpu import read_nvml
from sd35.jobs import CANCEL_S, FINISH_S
from sd35.settings import HOST, PORT, SettingsError, read

# The running job's time, then what is left of connections; the container's stop timeout is longer.
GRACE_S = int(FINISH_S + CANCEL_S) + 2
WORKER = (sys.executable, "-m", "sd35.worker")


class StoppingServer(uvicorn.Server):
    """Tells the application of a signal at once: uvicorn itself first waits for connections, and they for jobs."""

    def __init__(self, config: uvicorn.Config, server: Server) -> None:
        super().__init__(config)
        self._server = server

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """As pid 1 it must take SIGTERM itself: the kernel gives it no default action."""
        super().handle_exit(sig, frame)
        self._server.stop()


def main() -> int:
    try:
        settings = read(os.environ)
    except SettingsError as error:
        print(f"error: {error}\nhint: {error.hint}", file=sys.stderr)
        return 1
    server = Server(settings, WORKER, read_nvml if settings.device == "cuda" else lambda: None)
    config = uvicorn.Config(
        server.app, host=HOST, port=PORT, http=LimitedProtocol, lifespan="on", timeout_graceful_shutdown=GRACE_S
    )
    StoppingServer(config, server).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())

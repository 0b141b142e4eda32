"""`python -m orchestrator`: serves until SIGTERM. Exit 0 after it, 1 when it must not start."""

from __future__ import annotations

import os
import sys

import uvicorn

from orchestrator.app import create_app
from orchestrator.connections import LimitedProtocol
from orchestrator.settings import BROKER_SOCKET, HOST, PORT, SettingsError, read_token

# Within Docker's 10 s between SIGTERM and SIGKILL.
GRACE_S = 5


def main() -> int:
    try:
        token = read_token(os.environ)
    except SettingsError as error:
        print(f"error: {error}\nhint: {error.hint}", file=sys.stderr)
        return 1
    # uvicorn takes SIGTERM itself, which pid 1 must: the kernel gives it no default action.
    app = create_app(token, BROKER_SOCKET)
    uvicorn.run(app, host=HOST, port=PORT, http=LimitedProtocol, timeout_graceful_shutdown=GRACE_S)
    return 0


if __name__ == "__main__":
    sys.exit(main())

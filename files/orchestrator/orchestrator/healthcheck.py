"""`python -m orchestrator.healthcheck`: exit 0 when `/health` says ok, else 1 and the cause.

Standard library only: it runs every 15 s, and the image has no curl.
"""

from __future__ import annotations

import sys
import urllib.error
import urllib.request

from orchestrator.settings import PORT

TIMEOUT_S = 4.5


def main(url: str = f"http://127.0.0.1:{PORT}/health") -> int:
    # No proxy from the environment may stand between a container and itself.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=TIMEOUT_S) as response:
            print(response.read().decode())
            return 0
    except urllib.error.HTTPError as error:
        print(error.read().decode())
    except OSError as error:
        print(f"{url} does not answer: {error}")
    return 1


if __name__ == "__main__":
    sys.exit(main())

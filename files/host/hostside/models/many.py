"""Many small files from the hub, by libcurl in one thread: what they take is the processor's time, and libcurl needs a
fifth of what a client in Python does.

Nothing out of the ordinary is dealt with here. At a refusal, at other bytes, where the hub stands still or something
else answers, this ends, and each file that has not come is downloaded by itself (`download`): there all of that is
known, told and tried again.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence

import pycurl
from huggingface_hub import constants

from hostside.models.download import CONNECT_S, SLOW_BYTES, Downloads, check, url_of
from hostside.models.hub_errors import FetchError
from hostside.models.meter import Meter
from hostside.models.store import Digest, Hasher
from hostside.protocol.models import ModelFile

AT_ONCE = 16  # connections to the hub
AT_ONCE_NEAR = 2
OWN_S = 0.0005  # what this side has to do for a file, about
REDIRECTS_MAX = 10
WAIT_S = 1.0

Came = tuple[ModelFile, bytes, Digest]


def is_possible() -> bool:
    """May the hub be asked as it is done here? Proxies and the offline switch are `download`'s."""
    proxies = {name.lower() for name, value in os.environ.items() if value and name.lower().endswith("_proxy")}
    return not constants.is_offline_mode() and proxies <= {"no_proxy"}


def contents(
    files: Sequence[ModelFile], downloads: Downloads, meter: Meter, work: Callable[[], bool]
) -> Generator[Came, None, None]:
    """The right bytes of each file, as they come; not those of all where something is out of the ordinary. `work` is
    called while none comes, until it says that there is none."""
    waiting, pace = deque(files), _Pace()
    idle: list[_Transfer] = []
    busy: dict[pycurl.Curl, _Transfer] = {}
    came: list[Came] = []
    multi = pycurl.CurlMulti()
    multi.setopt(pycurl.M_MAXCONNECTS, AT_ONCE)
    try:
        while waiting or busy or came:
            while waiting and len(busy) < pace.at_once:
                transfer = idle.pop() if idle else _Transfer(downloads, meter)
                transfer.begin(waiting.popleft())
                busy[transfer.curl] = transfer
                multi.add_handle(transfer.curl)
            multi.perform()
            yield from came  # the next ones are on their way meanwhile
            _, ended, failed = multi.info_read()
            came = []
            for curl in ended:
                multi.remove_handle(curl)
                transfer = busy.pop(curl)
                with contextlib.suppress(FetchError):
                    came.append(transfer.end())
                pace.answered(transfer.wait_s)
                idle.append(transfer)
            if failed or len(came) < len(ended) or downloads.stop.is_set():
                yield from came
                return
            if busy and not came and not work() and multi.select(WAIT_S) < 0:
                time.sleep(0.01)  # there is no connection yet: it looks the name up
    except (FetchError, pycurl.error):
        return
    finally:
        for curl in busy:
            multi.remove_handle(curl)
        multi.close()


class _Transfer:
    """One file after the other, over a connection that is kept."""

    def __init__(self, downloads: Downloads, meter: Meter) -> None:
        self._downloads = downloads
        self._meter = meter
        self.curl = curl = pycurl.Curl()
        curl.setopt(pycurl.NOSIGNAL, True)
        curl.setopt(pycurl.PROXY, "")
        curl.setopt(pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS)
        curl.setopt(pycurl.REDIR_PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS)
        curl.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1)
        curl.setopt(pycurl.FOLLOWLOCATION, True)  # with the token to the same origin alone
        curl.setopt(pycurl.MAXREDIRS, REDIRECTS_MAX)
        curl.setopt(pycurl.CONNECTTIMEOUT, math.ceil(CONNECT_S))
        curl.setopt(pycurl.LOW_SPEED_LIMIT, max(1, int(SLOW_BYTES / downloads.stall_s)))
        curl.setopt(pycurl.LOW_SPEED_TIME, math.ceil(downloads.stall_s))
        if constants.ENDPOINT.startswith("https://"):
            _trust(curl)
        self._headers: list[bytes] = []
        self._pieces: list[bytes] = []
        curl.setopt(pycurl.HEADERFUNCTION, self._headers.append)
        curl.setopt(pycurl.WRITEFUNCTION, self._pieces.append)

    def begin(self, file: ModelFile) -> None:
        """Raises `FetchError` where the token would be read by others."""
        self.file = file
        self._headers.clear()
        self._pieces.clear()
        headers = ["User-Agent: gpuhost", "Accept:"]
        if token := self._downloads.token(file, constants.ENDPOINT):
            headers.append(f"Authorization: Bearer {token}")
        self._url = url_of(file, constants.ENDPOINT)
        self.curl.setopt(pycurl.URL, self._url)
        self.curl.setopt(pycurl.MAXFILESIZE_LARGE, self.file.size)  # more ends it
        self.curl.setopt(pycurl.HTTPHEADER, headers)

    def end(self) -> Came:
        """Raises `FetchError` when it is not what was asked for."""
        self.wait_s = self.curl.getinfo(pycurl.TOTAL_TIME) - self.curl.getinfo(pycurl.PRETRANSFER_TIME)
        status = self.curl.getinfo(pycurl.RESPONSE_CODE)
        if status != 200:
            raise FetchError("network", f"the hub answered {status}", "")
        check(self.file, _answers(self._headers), self._url)
        content, hasher = b"".join(self._pieces), Hasher(self.file)
        hasher.update(content)
        read = hasher.digest()
        if len(content) != self.file.size or not read.agrees(self.file):
            raise FetchError("bytes", "other bytes", "")
        self._meter.count(len(content))
        self._downloads.received(len(content))
        return self.file, content, read


class _Pace:
    """Over how many connections at once: so many that an answer is always there. A hub that is near has no use of
    more, and answers each the later."""

    def __init__(self) -> None:
        self.at_once = AT_ONCE_NEAR
        self._wait_s: float | None = None  # of late, on average

    def answered(self, wait_s: float) -> None:
        """So long after it was asked for, on a connection that was there."""
        self._wait_s = wait_s if self._wait_s is None else self._wait_s + (wait_s - self._wait_s) / 8
        self.at_once = max(AT_ONCE_NEAR, min(AT_ONCE, math.ceil(self._wait_s / OWN_S)))


def _answers(lines: Sequence[bytes]) -> list[dict[str, str]]:
    """The headers of each answer on the way, and of the last, by names in small letters."""
    found = []
    for answer in b"".join(lines).decode("latin-1").split("\r\n\r\n"):
        named = (line.partition(":") for line in answer.split("\r\n"))
        found.append({name.lower(): value.strip() for name, _, value in named})
    return found


def _trust(curl: pycurl.Curl) -> None:
    """Whom `download` trusts: SSL_CERT_FILE, or SSL_CERT_DIR, or the system's."""
    import ssl

    file = os.environ.get("SSL_CERT_FILE")
    folder = None if file else os.environ.get("SSL_CERT_DIR")
    if not (file or folder):
        paths = ssl.get_default_verify_paths()
        file = paths.openssl_cafile if os.path.isfile(paths.openssl_cafile) else None
        folder = paths.openssl_capath if os.path.isdir(paths.openssl_capath) else None
    for option, path in ((pycurl.CAINFO, file), (pycurl.CAPATH, folder)):
        if path:
            curl.setopt(option, path)
        else:
            curl.unsetopt(option)  # libcurl has others built in

"""Many small files from the hub, by libcurl in one thread: what they take is the processor's time, and libcurl needs a
fifth of what a client in Python does.

Nothing out of the ordinary is dealt with here. At a refusal, at other bytes, where the hub stands still or something
else answers, this ends, and each file that has not come is downloaded by itself (`download`): there all of that is
known, told and tried again.
"""

from __future__ import annotations

import math
import os
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence

import pycurl
from huggingface_hub import constants

from hostside.models.download import CONNECT_S, CONNECTIONS, REDIRECTS_MAX, SLOW_BYTES, Downloads, check, url_of
from hostside.models.hub_errors import FetchError
from hostside.models.store import Digest, Hasher
from hostside.protocol.models import ModelFile

AT_ONCE = CONNECTIONS
AT_ONCE_NEAR = 2
KEPT = 4 * AT_ONCE  # connections: those to where the hub sends one are among them
OWN_S = 0.0005  # what this side has to do for a file, about
WAIT_S = 1.0

Came = tuple[ModelFile, bytes, Digest]


def is_possible() -> bool:
    """May the hub be asked as it is done here? Proxies and the offline switch are `download`'s."""
    proxies = {name.lower() for name, value in os.environ.items() if value and name.lower().endswith("_proxy")}
    return not constants.is_offline_mode() and proxies <= {"no_proxy"}


def contents(files: Sequence[ModelFile], downloads: Downloads, work: Callable[[], bool]) -> Generator[Came, None, None]:
    """The right bytes of each file, as they come; not those of all where something is out of the ordinary. `work` is
    called while none comes, until it says that there is none."""
    waiting, pace, is_well = deque(files), _Pace(), True
    idle: list[_Transfer] = []
    busy: dict[pycurl.Curl, _Transfer] = {}
    came: list[Came] = []
    multi = pycurl.CurlMulti()
    multi.setopt(pycurl.M_MAXCONNECTS, KEPT)
    try:
        while is_well and (waiting or busy):
            while is_well and waiting and len(busy) < pace.at_once:
                transfer = idle.pop() if idle else _Transfer(downloads)
                if is_well := transfer.begin(waiting.popleft()):
                    busy[transfer.curl] = transfer
                    multi.add_handle(transfer.curl)
            multi.perform()
            yield from came  # the next ones are on their way meanwhile
            _, ended, failed = multi.info_read()
            came = []
            for curl in ended:
                multi.remove_handle(curl)
                transfer = busy.pop(curl)
                if found := transfer.end():
                    came.append(found)
                pace.answered(transfer.wait_s)
                idle.append(transfer)
            is_well = is_well and not failed and len(came) == len(ended) and not downloads.stop.is_set()
            if is_well and busy and not came and not work():
                _wait(multi)
        yield from came
    except pycurl.error:
        return
    finally:
        for curl in busy:
            multi.remove_handle(curl)
        multi.close()


def _wait(multi: pycurl.CurlMulti) -> None:
    """Until something comes, or libcurl has something to do."""
    asked_ms = multi.timeout()
    wait_s = WAIT_S if asked_ms < 0 else min(WAIT_S, asked_ms / 1000)
    if multi.select(wait_s) < 0:
        time.sleep(0.01)  # there is no connection yet: it looks the name up


class _Transfer:
    """One file after the other, over a connection that is kept."""

    def __init__(self, downloads: Downloads) -> None:
        self._downloads = downloads
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
        if constants.ENDPOINT.lower().startswith("https://"):
            _trust(curl)
        self._headers: list[bytes] = []
        self._pieces: list[bytes] = []
        curl.setopt(pycurl.HEADERFUNCTION, self._headers.append)
        curl.setopt(pycurl.WRITEFUNCTION, self._pieces.append)

    def begin(self, file: ModelFile) -> bool:
        """False where it cannot be asked for as it is done here."""
        self.file = file
        self._headers.clear()
        self._pieces.clear()
        headers = ["User-Agent: gpuhost", "Accept:"]
        self._url = url_of(file, constants.ENDPOINT)
        try:
            if token := self._downloads.token(file, constants.ENDPOINT):
                headers.append(f"Authorization: Bearer {token}")
            self.curl.setopt(pycurl.URL, self._url)
            self.curl.setopt(pycurl.MAXFILESIZE_LARGE, self.file.size)  # more ends it
            self.curl.setopt(pycurl.HTTPHEADER, headers)
        except (FetchError, UnicodeError):
            return False
        return True

    def end(self) -> Came | None:
        """None when it is not what was asked for."""
        self.wait_s = self.curl.getinfo(pycurl.TOTAL_TIME) - self.curl.getinfo(pycurl.PRETRANSFER_TIME)
        content, hasher = b"".join(self._pieces), Hasher(self.file)
        self._downloads.received(len(content))
        hasher.update(content)
        read = hasher.digest()
        if self.curl.getinfo(pycurl.RESPONSE_CODE) != 200 or len(content) != self.file.size:
            return None
        try:
            check(self.file, _answers(self._headers), self._url)
        except FetchError:
            return None
        return (self.file, content, read) if read.agrees(self.file) else None


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
    """Whom `download` trusts: SSL_CERT_FILE, or SSL_CERT_DIR, or the system's. Where those lie elsewhere, nobody."""
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

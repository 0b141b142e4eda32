"""The bytes of one file, from the hub or a neighbour, into one file on disk: asked for in ranges, hashed as they come,
asked for again from where they ended.

huggingface_hub 2.4 starts a file over after a kill and leaves the half one for ever; its Xet client writes in no order
and hangs in native code. So only its addresses and errors are used here, over plain HTTP, which every hub has.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from huggingface_hub import constants

from hostside.models.hub_errors import FetchError, NothingCame, answer, explain, retry_after_s
from hostside.models.meter import Meter
from hostside.models.partial import Partial
from hostside.models.store import CHUNK_BYTES, Digest
from hostside.protocol.models import ModelFile, Retrying, Stalled

if TYPE_CHECKING:
    from hostside.models.content import Content

CONNECT_S = 20.0
CONNECTIONS = 16  # kept open to one host: no more files are downloaded at once
REDIRECTS_MAX = 10
WINDOW_BYTES = 8 * 2**30  # asked for at once: the hub refuses more than 50 GB over plain HTTP
SLOW_BYTES = 65536  # less than this in `stall_s` is a download that stands still
PAUSES_S = (1.0, 4.0, 15.0, 30.0)  # after failures in a row that gave no byte
RETRY_AFTER_MAX_S = 300.0
ATTEMPTS_MAX = 50  # of a file, and one more for every `ATTEMPT_BYTES` of it
ATTEMPT_BYTES = 256 * 2**20

Told = Callable[[Stalled | Retrying], None]


class Stopped(Exception):
    """Another download has failed in a way that ends this one, too."""


class Standstill(FetchError):
    """Nothing, or next to nothing, came for `stall_s`."""

    def __init__(self, file: ModelFile, stall_s: float) -> None:
        super().__init__(
            "network",
            f"the download of `{file.repo}:{file.file}` stood still for {stall_s:g} s",
            "check the network of this host, then run again: it goes on from there",
            transient=True,
        )


def url_of(file: ModelFile, source: str) -> str:
    """Where the hub, or who answers as it does, has a file (`huggingface_hub.hf_hub_url`; a test compares the two)."""
    return f"{source}/{file.repo}/resolve/{file.commit}/{quote(file.file)}"


class NotGiven(FetchError):
    """A neighbour does not give a file; the hub is asked then."""

    def __init__(self, why: str) -> None:
        super().__init__("network", f"a neighbour does not give it: {why}", "the hub is asked", transient=True)


class Downloads:
    """The downloads of one run. `stop`, once set, ends them all; `downloaded_bytes`: over the network so far, and
    `peer_bytes`: those of them that neighbours gave; `lost`: the neighbours that are asked no more."""

    def __init__(
        self, token: str | None, stall_s: float, meter: Meter, told: Told, peer_secret: str | None = None
    ) -> None:
        self.stop = threading.Event()
        self.downloaded_bytes = 0
        self.peer_bytes = 0
        self.lost: set[str] = set()
        self.stall_s = stall_s
        self._token = token
        self._peer_secret = peer_secret
        self._meter = meter
        self._told = told
        self._lock = threading.Lock()

    def download(self, file: ModelFile, path: Path) -> Digest:
        """Leaves the right bytes at `path`, on disk. Raises `FetchError` and `Stopped`; what came is kept."""
        moved = self._meter.open(file)
        try:
            with Partial(path, file, moved) as partial:
                return _Attempts(self, file, partial).make()
        except (FetchError, Stopped):
            if not path.stat().st_size:
                path.unlink()
            raise
        except OSError as error:
            raise explain(error, file, False) from error
        finally:
            self._meter.close(file)

    def receive(self, file: ModelFile, partial: Partial, source: str) -> None:
        """One request: the next bytes of a file, as far as they come."""
        from hostside.models import content  # not needed where libcurl brings all

        first = partial.size
        last = min(file.size, first + WINDOW_BYTES) - 1
        is_peer = source in file.peers
        # Not by huggingface_hub's build_hf_headers: it asks the hub for a list of AI agents first.
        headers = {"Range": f"bytes={first}-{last}", "Accept-Encoding": "identity", "User-Agent": "gpuhost"}
        if token := self._peer_secret if is_peer else self.token(file, source):
            headers["Authorization"] = f"Bearer {token}"
        url = url_of(file, source)
        with content.get(url, headers, CONNECT_S, self.stall_s, direct=is_peer) as got:
            if got.response.status == 416:
                raise _another_size(file, got.response.headers.get("Content-Range", ""))
            check(file, got.said, url)
            total = got.response.headers.get("Content-Range", "").rpartition("/")[2]
            if got.response.status == 206 and total != str(file.size):
                raise _another_size(file, total)
            if got.response.status == 200 and first:  # it knows no ranges
                partial.start_over()
            self._pour(file, got, partial, is_peer)
        if partial.size <= last:
            raise FetchError("network", f"{source} ended `{file.file}` early", "run again", transient=True)

    def token(self, file: ModelFile, source: str) -> str | None:
        """What proves who asks: to the hub itself, for gated files. Raises `FetchError` where others could read it."""
        if not file.gated or self._token is None or source != constants.ENDPOINT:
            return None
        if not source.startswith("https://"):
            raise FetchError(
                "token", f"the token is not sent to {source}: others could read it", "give the hub an https:// address"
            )
        return self._token

    def received(self, count: int, is_peer: bool = False) -> None:
        """So many bytes more came over the network."""
        with self._lock:
            self.downloaded_bytes += count
            self.peer_bytes += count * is_peer

    def pause(self, seconds: float) -> None:
        """Raises `Stopped` when the others have been stopped meanwhile."""
        if self.stop.wait(seconds):
            raise Stopped

    def tell(self, event: Stalled | Retrying) -> None:
        """To the person who waits."""
        self._told(event)

    def _pour(self, file: ModelFile, got: Content, partial: Partial, is_peer: bool) -> None:
        since_s, so_far = time.monotonic(), 0
        try:
            for chunk in got.pieces(CHUNK_BYTES):
                partial.write(chunk)
                so_far += len(chunk)
                self.received(len(chunk), is_peer)
                if self.stop.is_set():
                    raise Stopped
                if so_far >= SLOW_BYTES:
                    since_s, so_far = time.monotonic(), 0
                elif time.monotonic() - since_s > self.stall_s:
                    raise Standstill(file, self.stall_s)
        except NothingCame as error:
            raise Standstill(file, self.stall_s) from error


class _Attempts:
    """One file, asked for until it is there: from the neighbours first, then from the hub, while it comes on."""

    def __init__(self, downloads: Downloads, file: ModelFile, partial: Partial) -> None:
        self._downloads = downloads
        self._file = file
        self._partial = partial
        self._sources = [*(peer for peer in file.peers if peer not in downloads.lost), constants.ENDPOINT]
        self._left = ATTEMPTS_MAX + file.size // ATTEMPT_BYTES
        self._in_vain = 0  # in a row
        self._wrong = 0
        self._number = 1

    def make(self) -> Digest:
        """Raises `FetchError`, which knows the number of attempts, and `Stopped`."""
        while True:
            before = self._partial.size
            try:
                while self._partial.size < self._file.size:
                    self._downloads.receive(self._file, self._partial, self._sources[0])
                read = self._partial.finish()
                if read.agrees(self._file):
                    return read
                self._partial.start_over()
                raise _wrong_bytes(self._file)
            except Stopped:
                raise
            except Exception as error:
                self._failed(error, self._partial.size > before and not isinstance(error, Standstill))

    def _failed(self, error: Exception, came_on: bool) -> None:
        """Waits for the next attempt; raises when there is none."""
        file, source = self._file, self._sources[0]
        is_peer = len(self._sources) > 1
        known = _not_given(error) if is_peer else explain(error, file, self._downloads.token(file, source) is not None)
        known.attempt = self._number
        self._left -= 1
        self._in_vain = 0 if came_on else self._in_vain + 1
        if is_peer:  # a neighbour that cannot is not asked twice
            self._sources.pop(0)
            pause_s, self._in_vain = 0.0, 0
            if known.kind == "network" and answer(error) is None:
                # It, or the way to it, is gone, or too slow: none of the other files waits for that, too.
                self._downloads.lost.add(source)
                self._sources = [each for each in self._sources if each not in self._downloads.lost]
        elif known.kind == "bytes":  # on the way, for once; and again, in vain
            self._wrong += 1
            if self._wrong > 1 or not isinstance(known, WrongBytes):
                raise known from error
            pause_s = 0.0
        elif not known.transient or self._in_vain > len(PAUSES_S) or not self._left:
            raise known from error
        else:
            asked_s = retry_after_s(error)
            pause_s = PAUSES_S[max(0, self._in_vain - 1)] if asked_s is None else min(asked_s, RETRY_AFTER_MAX_S)
        if isinstance(known, Standstill):
            self._downloads.tell(Stalled(file.model, file.file, self._downloads.stall_s, self._number))
        self._downloads.tell(Retrying(file.model, file.file, self._number, pause_s, str(known), is_peer))
        self._number += 1
        self._downloads.pause(pause_s)


def _not_given(error: Exception) -> FetchError:
    """Why a neighbour is not asked again for a file. What the disk of this host says is no neighbour's fault."""
    if isinstance(error, FetchError):
        return error
    if refusal := answer(error):
        return NotGiven(f"it answers {refusal.status_code}")
    if isinstance(error, OSError):
        raise error
    import urllib3

    return NotGiven("it stood still" if isinstance(error, urllib3.exceptions.TimeoutError) else "the connection broke")


class WrongBytes(FetchError):
    """All came, and it is something else."""


def _wrong_bytes(file: ModelFile) -> WrongBytes:
    return WrongBytes(
        "bytes",
        f"what comes for `{file.repo}:{file.file}` at {file.commit[:12]} is not what the {file.known_from} says",
        "something between this host and the hub changes what it sends: check the proxy; or correct `sha256`",
    )


def check(file: ModelFile, answers: Sequence[Mapping[str, str]], url: str) -> None:
    """Raises `FetchError` when what answers is no hub, or speaks of another file, before a byte of it is taken.

    `answers`: the headers of each on the way and of the last, by names in small letters.
    """
    said = next((each for each in answers if "x-repo-commit" in each), None)
    if said is None:
        raise FetchError("network", f"what answers at {url} is not a hub", "check HF_ENDPOINT and the proxy")
    etag = said.get("x-linked-etag", said.get("etag", "")).removeprefix("W/").strip('"')
    known = file.sha256 if len(etag) == 64 else file.git_sha1 if not file.sha256 and len(etag) == 40 else None
    if said["x-repo-commit"] != file.commit or (known and known != etag):
        raise FetchError(
            "bytes",
            f"the hub has `{file.repo}:{file.file}` at {file.commit[:12]} with other bytes"
            f" ({etag[:12]}..., not {(known or '')[:12]}...)",
            "compare with the publisher's own checksum, then correct `sha256` or `revision`, or run `gpuhost lock`",
        )


def _another_size(file: ModelFile, said: str) -> FetchError:
    return FetchError(
        "bytes",
        f"the hub has `{file.repo}:{file.file}` at {file.commit[:12]} with another size: {said}, not {file.size}",
        "compare with the publisher's page, then run `gpuhost lock`",
    )

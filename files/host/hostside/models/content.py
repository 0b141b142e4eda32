"""GET of a file's content, as huggingface_hub's client asks (proxies, certificates, offline switch, redirects) but read
by urllib3: its own client, httpx2, takes 10 to 30 % more processor time for the same bytes, and time to be imported.
"""

from __future__ import annotations

import functools
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import unquote, urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from huggingface_hub import constants

from hostside.models.download import CONNECTIONS, REDIRECTS_MAX
from hostside.models.hub_errors import NothingCame

REDIRECTS = (301, 302, 303, 307, 308)
REFUSAL_BYTES = 65536  # read of what comes with a refusal or a redirect


@dataclass(frozen=True)
class Content:
    """An answer that is no refusal. `said`: the headers of each answer on the way and of the last, in order."""

    response: urllib3.BaseHTTPResponse
    said: list[Mapping[str, str]]

    def pieces(self, size: int) -> Iterator[bytes]:
        """Its bytes as they come, none of more than `size`. Raises `NothingCame`, and urllib3's errors."""
        try:
            while piece := self.response.read1(size, decode_content=False):
                yield piece
        except urllib3.exceptions.ReadTimeoutError as error:
            raise NothingCame from error


@contextmanager
def get(
    url: str, headers: Mapping[str, str], connect_s: float, read_s: float, direct: bool = False
) -> Iterator[Content]:
    """Raises huggingface_hub's errors for a refusal, but none for 416, and urllib3's. `direct`: no proxy is asked,
    and a redirect is an error."""
    if constants.is_offline_mode():
        from huggingface_hub import errors

        raise errors.OfflineModeIsEnabled(f"{url} is not asked: HF_HUB_OFFLINE is set")
    timeout = urllib3.Timeout(connect=connect_s, read=read_s)
    said: list[Mapping[str, str]] = []
    for _ in range(REDIRECTS_MAX):
        pool, names_host = _pool(*_origin(url), direct)
        response = pool.urlopen(
            "GET",
            url if names_host else _target(url),
            headers=headers,
            timeout=timeout,
            redirect=False,
            retries=False,
            preload_content=False,
            assert_same_host=False,
        )
        said.append(response.headers)
        if response.status not in REDIRECTS:
            break
        if direct:
            response.close()
            raise urllib3.exceptions.ResponseError("a redirect, where none belongs")
        response.read(REFUSAL_BYTES, decode_content=False)  # read to its end it is used again
        response.close()
        before, url = url, urljoin(url, response.headers.get("Location", ""))
        if _origin(url) != _origin(before):  # the token is for the hub alone
            headers = {name: value for name, value in headers.items() if name != "Authorization"}
    try:
        _refuse(url, response)
        yield Content(response, said)
    finally:
        # What was read to its end is back in the pool; of the rest the connection is closed.
        response.close()


def _refuse(url: str, response: urllib3.BaseHTTPResponse) -> None:
    """Raises what huggingface_hub would for this status."""
    if response.status in (200, 206, 416):
        return
    import httpx2
    from huggingface_hub.utils import hf_raise_for_status  # type: ignore[attr-defined]

    if response.status in REDIRECTS:
        raise urllib3.exceptions.ResponseError(f"more than {REDIRECTS_MAX} redirects")
    text = response.read(REFUSAL_BYTES, decode_content=False)
    headers = [(name, value) for name, value in response.headers.items() if name.lower() not in _OF_THE_BODY]
    request = httpx2.Request("GET", url)
    hf_raise_for_status(httpx2.Response(response.status, headers=headers, content=text, request=request))


_OF_THE_BODY = ("content-encoding", "content-length", "transfer-encoding")


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc


def _target(url: str) -> str:
    """What a server is asked for: the path and the query."""
    parts = urlsplit(url)
    return f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}"


# Cached, and no PoolManager is asked each time: for small files that would be a third of the time.
@functools.cache
def _pool(scheme: str, netloc: str, direct: bool) -> tuple[urllib3.HTTPConnectionPool, bool]:
    """The connections to a server, or to the proxy before it, and whether that one is to be told the whole address."""
    origin = f"{scheme}://{netloc}"
    proxy = None if direct else _proxy(scheme, netloc)
    if not proxy:
        context = _context() if scheme == "https" else None
        return urllib3.PoolManager(maxsize=CONNECTIONS, ssl_context=context).connection_from_url(origin), False
    account = urllib3.util.parse_url(proxy).auth
    headers = urllib3.make_headers(proxy_basic_auth=unquote(account)) if account else None
    manager = urllib3.ProxyManager(
        proxy, maxsize=CONNECTIONS, proxy_headers=headers, ssl_context=_context(), proxy_ssl_context=_context()
    )
    return manager.connection_from_url(origin), scheme == "http"


def _proxy(scheme: str, netloc: str) -> str | None:
    """As the environment says (HTTPS_PROXY, ALL_PROXY, NO_PROXY)."""
    proxies = getproxies()
    if proxy_bypass(netloc):
        return None
    proxy = proxies.get(scheme) or proxies.get("all")
    return proxy if not proxy or "://" in proxy else f"http://{proxy}"


@functools.cache
def _context() -> ssl.SSLContext:
    import httpx2

    return httpx2.create_ssl_context()  # SSL_CERT_FILE and SSL_CERT_DIR, or the system's

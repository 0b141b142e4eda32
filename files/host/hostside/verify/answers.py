"""One HTTP request to a service through its published port, and whether the answer is the expected one."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any, Literal

import httpx

from hostside.protocol.verify import Expectation, Probe, ProbeAnswer

CONNECT_TIMEOUT_S = 5.0
BODY_BYTES_MAX = 64 * 2**20  # a generated image comes as base64 inside JSON
EXCERPT_CHARS = 200
GRACE_S = 0.5  # in which httpx's own timeouts, which say more, come first


def ask(base_url: str, probe: Probe) -> ProbeAnswer:
    """Sends the request; never raises for what the network or the service does."""
    started = time.monotonic()
    status, ok, error = None, False, None
    try:
        status, body = _within(probe.timeout_s, lambda: _exchange(base_url, probe))
    except (httpx.HTTPError, UnicodeError) as failure:
        error, detail = _explain(failure, probe.timeout_s)
    else:
        ok, detail = judge(probe.expect, status, body)
    return ProbeAnswer(
        name=probe.name,
        status=status,
        ok=ok,
        detail=detail,
        seconds=round(time.monotonic() - started, 3),
        authenticated=probe.secret_header is not None,
        expected_status=probe.expect.status,
        error=error,
    )


def judge(expect: Expectation, status: int, body: bytes) -> tuple[bool, str]:
    """Compares an answer with what was expected: (ok, one line that says what differs)."""
    text = body.decode("utf-8", "replace")
    if status != expect.status:
        return False, f"expected {expect.status}, got {status}: {_excerpt(text)}"
    if expect.contains is not None and expect.contains not in text:
        return False, f"{status}, but the answer does not contain `{expect.contains}`: {_excerpt(text)}"
    if expect.json is not None:
        try:
            difference = missing(expect.json, json.loads(text))
        except (ValueError, RecursionError):
            return False, f"{status}, but the answer is not JSON: {_excerpt(text)}"
        if difference:
            return False, f"{status}, but {difference}"
    return True, f"{status} as expected"


def missing(expected: Any, actual: Any, where: str = "answer") -> str:
    """What of `expected` is not in `actual`; empty when all of it is. A list is compared item by item."""
    if isinstance(expected, dict):
        if not isinstance(actual, dict):
            return f"`{where}` is not an object"
        for key, value in expected.items():
            if key not in actual:
                return f"`{where}.{key}` is missing"
            if difference := missing(value, actual[key], f"{where}.{key}"):
                return difference
        return ""
    if isinstance(expected, list):
        if not isinstance(actual, list) or len(actual) < len(expected):
            return f"`{where}` has fewer than {len(expected)} items"
        pairs = enumerate(zip(expected, actual))  # noqa: B905 - more items than expected are fine
        return next((text for i, (e, a) in pairs if (text := missing(e, a, f"{where}[{i}]"))), "")
    # True == 1 in Python, not in JSON.
    if expected != actual or isinstance(expected, bool) is not isinstance(actual, bool):
        return f"`{where}` is {_excerpt(json.dumps(actual))}, not {json.dumps(expected)}"
    return ""


def _within(timeout_s: float, exchange: Callable[[], tuple[int, bytes]]) -> tuple[int, bytes]:
    """The exchange, or ReadTimeout when it takes longer. httpx times each read: a service that drips bytes would pass
    every one of them, and while it drips headers nothing of ours runs. The thread that is left behind ends with us."""
    found: list[tuple[int, bytes] | BaseException] = []

    def run() -> None:
        try:
            found.append(exchange())
        except BaseException as error:  # raised again below
            found.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(timeout_s + GRACE_S)
    if not found:
        raise httpx.ReadTimeout("the answer did not end in time")
    if isinstance(found[0], BaseException):
        raise found[0]
    return found[0]


def _exchange(base_url: str, probe: Probe) -> tuple[int, bytes]:
    # As it comes, nothing unpacked: a few bytes that are packed twice are gigabytes.
    headers = {"Accept-Encoding": "identity", **probe.headers}
    if probe.secret_header:
        headers[probe.secret_header.name] = probe.secret_header.value
    timeout = httpx.Timeout(probe.timeout_s, connect=min(CONNECT_TIMEOUT_S, probe.timeout_s))
    body = bytearray()
    # trust_env=False: a proxy of the host's environment must not stand between us and the port.
    with (
        httpx.Client(base_url=base_url, timeout=timeout, trust_env=False) as client,
        client.stream(probe.method, probe.path, headers=headers, json=probe.body) as response,
    ):
        for chunk in response.iter_raw():
            body += chunk
            if len(body) > BODY_BYTES_MAX:
                raise httpx.ReadError(f"the answer is larger than {BODY_BYTES_MAX} bytes")
        return response.status_code, bytes(body)


def _explain(failure: Exception, timeout_s: float) -> tuple[Literal["connect", "timeout", "broken"], str]:
    if isinstance(failure, (httpx.ConnectError, httpx.ConnectTimeout)):
        return "connect", f"no connection: {failure}"
    if isinstance(failure, httpx.TimeoutException):
        return "timeout", f"no whole answer within {timeout_s:g} s"
    if isinstance(failure, (httpx.LocalProtocolError, UnicodeError)):
        # Its text quotes the header, and that may be the secret one.
        return "broken", "the request could not be written: a header has characters that HTTP forbids"
    return "broken", f"the connection broke: {str(failure) or type(failure).__name__}"


def _excerpt(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= EXCERPT_CHARS else line[:EXCERPT_CHARS] + "..."

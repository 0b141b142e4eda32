"""What the hub, its client or the disk said, in our words: one kind, one sentence, one thing to do."""

from __future__ import annotations

import errno
import os
import ssl
from typing import Any

import httpx2
import pytest
import urllib3
from huggingface_hub import constants, errors

from hostside.models.hub_errors import FetchError, explain, explain_disk, retry_after_s
from hostside.protocol.models import ModelFile

COMMIT = "a" * 40
FILE = ModelFile(
    model="vae",
    repo="Acme/Models",
    commit=COMMIT,
    file="one.bin",
    size=1,
    sha256=None,
    git_sha1="b" * 40,
    links=[],
    action="fetch",
    gated=False,
    known_from="hub",
)
HUB = constants.ENDPOINT


def answered(status: int, kind: Any = errors.HfHubHTTPError, **headers: str) -> errors.HfHubHTTPError:
    response = httpx2.Response(status, headers=headers, request=httpx2.Request("GET", f"{HUB}/x"))
    made: errors.HfHubHTTPError = kind("as the hub says it", response=response)
    return made


@pytest.mark.parametrize(
    ("error", "has_token", "kind", "what", "hint"),
    [
        (
            answered(401, errors.GatedRepoError),
            False,
            "gated",
            "`Acme/Models` is gated, and there is no Hugging Face token",
            f"accept its licence at {HUB}/Acme/Models, set `gated` of the model to True, ",
        ),
        (
            answered(401, errors.GatedRepoError),
            True,
            "token",
            "`Acme/Models` is gated, and the hub refuses the token (401)",
            f"the token is wrong or revoked: make a new one at {HUB}/settings/tokens",
        ),
        *(
            (
                answered(403, kind),
                has_token,
                "licence",
                "the account of the token may not read `Acme/Models` (403)",
                f"accept the licence at {HUB}/Acme/Models; a fine-grained token also needs",
            )
            for kind in (errors.GatedRepoError, errors.HfHubHTTPError)
            for has_token in (True, False)
        ),
        (
            answered(404, errors.RevisionNotFoundError),
            True,
            "missing",
            f"`Acme/Models` has no revision `{COMMIT}`",
            f"see {HUB}/Acme/Models/commits/main for what there is",
        ),
        (
            answered(404, errors.RemoteEntryNotFoundError),
            True,
            "missing",
            f"`Acme/Models` has no file `one.bin` at revision `{COMMIT}`",
            f"see {HUB}/Acme/Models/tree/{COMMIT} for what there is",
        ),
        *(
            (
                answered(401, kind),
                True,
                "token",
                "the hub refuses the token, or hides `Acme/Models` from it (401)",
                f"make a new read token at {HUB}/settings/tokens, and check the repository's name",
            )
            for kind in (errors.RepositoryNotFoundError, errors.HfHubHTTPError)
        ),
        *(
            (
                answered(status, kind),
                has_token,
                "missing",
                "the hub knows no public repository `Acme/Models`",
                "check its name; a private one needs `gated` and HF_TOKEN",
            )
            for status, kind, has_token in (
                (401, errors.HfHubHTTPError, False),
                (404, errors.HfHubHTTPError, True),
                (400, errors.RepositoryNotFoundError, True),
            )
        ),
        (
            errors.OfflineModeIsEnabled("offline"),
            True,
            "network",
            "the hub is switched off for this program by `HF_HUB_OFFLINE`",
            "unset `HF_HUB_OFFLINE` where models are fetched; only the services run offline",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device", "/data/x"),
            True,
            "disk",
            "the disk is full: /data/x",
            "free space, then run again: it goes on from there",
        ),
        (
            RuntimeError("a  text\nof two lines"),
            True,
            "network",
            f"the hub at {HUB} cannot be reached for `Acme/Models`: a text of two lines",
            "check the network, DNS and proxy of this host, then run again",
        ),
        (
            RuntimeError(),
            True,
            "network",
            f"the hub at {HUB} cannot be reached for `Acme/Models`: RuntimeError",
            "check the network, DNS and proxy of this host, then run again",
        ),
    ],
)
def test_each_way_to_fail_is_told(error: Exception, has_token: bool, kind: str, what: str, hint: str) -> None:
    found = explain(error, FILE, has_token)
    assert (found.kind, str(found), found.transient) == (kind, what, False)
    assert found.hint.startswith(hint)


@pytest.mark.parametrize("status", [400, 408, 409, 429, 500, 501, 502, 503, 504])
def test_what_may_work_next_time_is_known(status: int) -> None:
    found = explain(answered(status), FILE, True)
    assert (found.kind, str(found)) == ("network", f"the hub answered {status} for `Acme/Models`")
    assert found.transient == (status not in (400, 409, 501)) and found.hint == "wait, then run again"
    assert explain(urllib3.exceptions.ProtocolError("cut off"), FILE, True).transient


def test_a_certificate_that_is_not_trusted_is_found_below_what_the_client_says() -> None:
    cause = ssl.SSLCertVerificationError("self-signed")
    cause.verify_message = "self-signed certificate"
    error = RuntimeError("as the client says it")
    error.__cause__ = cause
    outer = RuntimeError("all attempts failed")
    outer.__context__ = error
    for each in (error, outer):
        found = explain(each, FILE, False)
        assert str(found) == f"the certificate of {HUB} is not trusted: self-signed certificate"
        assert (found.kind, found.transient) == ("network", False)
        assert found.hint.startswith("check the clock and /etc/ssl/certs of this host")


def test_what_is_explained_stays_so() -> None:
    told = FetchError("bytes", "wrong \x1b[2J", "try again", transient=True)
    assert explain(told, FILE, True) is told and told.transient
    assert str(told) == "wrong \\x1b[2J" and told.attempt == 1


@pytest.mark.parametrize(
    ("error", "kind", "what"),
    [
        (OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), "/data/x"), "disk", "the disk is full: /data/x"),
        (OSError(errno.ENOSPC, "full"), "disk", "the disk is full: one.bin"),
        (OSError(errno.EACCES, "Permission denied", "/x"), "filesystem", "`/x` cannot be used: Permission denied"),
        (OSError(errno.EIO, "Input/output error"), "filesystem", "`one.bin` cannot be used: Input/output error"),
        (OSError("odd"), "filesystem", "`one.bin` cannot be used: odd"),
    ],
)
def test_what_a_disk_does_is_told(error: OSError, kind: str, what: str) -> None:
    found = explain(error, FILE, False)
    assert (found.kind, str(found), found.transient) == (kind, what, False)
    assert ("repair its owner and mode" in found.hint) == (kind == "filesystem")
    assert str(explain_disk(OSError(errno.ENOSPC, "full"))) == "the disk is full: "


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (answered(429, **{"Retry-After": "7"}), 7.0),
        (answered(503, **{"Retry-After": "7"}), 7.0),
        (answered(429, **{"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}), None),
        (answered(429, RateLimit='"api";r=0;t=55'), 55.0),
        (answered(503, RateLimit='"api";r=0;t=55'), None),
        (answered(429), None),
        (RuntimeError("no answer"), None),
    ],
)
def test_how_long_the_hub_asks_to_wait(error: Exception, seconds: float | None) -> None:
    assert retry_after_s(error) == seconds

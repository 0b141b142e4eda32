"""Every way in which a fetch fails, each as one sentence and one thing to do.

huggingface_hub and the clients are imported at the first failure: they take longer than a thousand small files' hashes.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from huggingface_hub import constants

from hostside.protocol.models import ModelFile
from hostside.wire import printable

if TYPE_CHECKING:
    import httpx2

TRANSIENT_STATUS = (408, 429, 500, 502, 503, 504)
PROXY_ACCOUNT_STATUS = 407


class FetchError(Exception):
    """A fetch that cannot go on. `kind`: gated, token, licence, missing, network, disk, bytes, filesystem.

    `str()` is one sentence, `hint` says what to do. `transient`: the same again may work; `attempt`: the last one made.
    """

    attempt = 1

    def __init__(self, kind: str, message: str, hint: str, transient: bool = False) -> None:
        super().__init__(printable(message))
        self.kind = kind
        self.hint = hint
        self.transient = transient


class NothingCame(Exception):
    """Who was asked sent nothing for as long as one waits."""


def explain(error: Exception, file: ModelFile, has_token: bool) -> FetchError:
    """What huggingface_hub, its HTTP client or the disk raised, in our words."""
    import ssl

    import urllib3
    from huggingface_hub import errors

    if isinstance(error, FetchError):
        return error
    if isinstance(error, errors.HfHubHTTPError):
        return _refused(error, error.response, file, has_token)
    if isinstance(error, errors.OfflineModeIsEnabled):
        return FetchError(
            "network",
            "the hub is switched off for this program by `HF_HUB_OFFLINE`",
            "unset `HF_HUB_OFFLINE` where models are fetched; only the services run offline",
        )
    if isinstance(error, OSError):
        return explain_disk(error, file.file)
    certificate = next((each for each in _causes(error) if isinstance(each, ssl.SSLCertVerificationError)), None)
    if certificate:
        return FetchError(
            "network",
            f"the certificate of {constants.ENDPOINT} is not trusted: {certificate.verify_message}",
            "check the clock and /etc/ssl/certs of this host, and whether a proxy answers for the hub",
        )
    status = _proxy_status(error)
    if status == PROXY_ACCOUNT_STATUS:
        return _proxy_account()
    return FetchError(
        "network",
        f"the hub at {constants.ENDPOINT} cannot be reached for `{file.repo}`: {_one_line(error)}",
        "check the network, DNS and proxy of this host, then run again",
        transient=isinstance(error, urllib3.exceptions.HTTPError) and (status is None or status in TRANSIENT_STATUS),
    )


def explain_disk(error: OSError, file: str = "") -> FetchError:
    """What the operating system said about a file of ours."""
    where = error.filename or file
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return FetchError("disk", f"the disk is full: {where}", "free space, then run again: it goes on from there")
    return FetchError(
        "filesystem",
        f"`{where}` cannot be used: {error.strerror or _one_line(error)}",
        "repair its owner and mode: the models and the cache belong to the account that fetches",
    )


def answer(error: Exception) -> httpx2.Response | None:
    """The refusal that an error stands for."""
    from huggingface_hub import errors

    return error.response if isinstance(error, errors.HfHubHTTPError) else None


def retry_after_s(error: Exception) -> float | None:
    """How long the hub asks to wait, when it does."""
    from huggingface_hub.utils import parse_ratelimit_headers  # type: ignore[attr-defined]

    refusal = answer(error)
    if refusal is None:
        return None
    asked = refusal.headers.get("Retry-After", "")
    if asked.isdecimal():
        return float(asked)
    limit = parse_ratelimit_headers(refusal.headers)
    return float(limit.reset_in_seconds) if limit and refusal.status_code == 429 else None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error:
        yield error
        error = error.__cause__ or error.__context__


def _proxy_status(error: Exception) -> int | None:
    """What a proxy answered that makes no tunnel; http.client has it in a text alone."""
    said = [re.match(r"Tunnel connection failed: (\d{3})\b", str(each)) for each in _causes(error)]
    return next((int(found[1]) for found in said if found), None)


def _proxy_account() -> FetchError:
    return FetchError(
        "network",
        "the proxy wants a name and a password, and got none or wrong ones (407)",
        "set HTTPS_PROXY to http://NAME:PASSWORD@HOST:PORT for systemd's units of this host (DefaultEnvironment= in"
        " system.conf), then run again",
    )


def _refused(error: Exception, response: httpx2.Response, wanted: ModelFile, has_token: bool) -> FetchError:
    from huggingface_hub import errors

    status, repo, file, revision = response.status_code, wanted.repo, wanted.file, wanted.commit
    # GatedRepoError is a RepositoryNotFoundError, so it comes first; 401 and 403 both raise it.
    if isinstance(error, errors.GatedRepoError) or status == 403:
        return _gated(status, repo, has_token)
    if isinstance(error, errors.RevisionNotFoundError):
        return FetchError(
            "missing",
            f"`{repo}` has no revision `{revision}`",
            f"see {constants.ENDPOINT}/{repo}/commits/main for what there is",
        )
    if isinstance(error, errors.EntryNotFoundError):
        return FetchError(
            "missing",
            f"`{repo}` has no file `{file}` at revision `{revision}`",
            f"see {constants.ENDPOINT}/{repo}/tree/{revision} for what there is",
        )
    if status == 401 and has_token:
        return FetchError(
            "token",
            f"the hub refuses the token, or hides `{repo}` from it (401)",
            f"make a new read token at {constants.ENDPOINT}/settings/tokens, and check the repository's name",
        )
    if isinstance(error, errors.RepositoryNotFoundError) or status in (401, 404):
        return FetchError(
            "missing",
            f"the hub knows no public repository `{repo}`",
            "check its name; a private one needs `gated` and HF_TOKEN",
        )
    if status == PROXY_ACCOUNT_STATUS:  # a hub that is asked without TLS is asked by the proxy itself
        return _proxy_account()
    return FetchError(
        "network",
        f"the hub answered {status} for `{repo}`",
        "wait, then run again",
        transient=status in TRANSIENT_STATUS,
    )


def _gated(status: int, repo: str, has_token: bool) -> FetchError:
    if status == 401 and not has_token:
        return FetchError(
            "gated",
            f"`{repo}` is gated, and there is no Hugging Face token",
            f"accept its licence at {constants.ENDPOINT}/{repo}, set `gated` of the model to True, and HF_TOKEN to a"
            " read token of that account",
        )
    if status == 401:
        return FetchError(
            "token",
            f"`{repo}` is gated, and the hub refuses the token (401)",
            f"the token is wrong or revoked: make a new one at {constants.ENDPOINT}/settings/tokens",
        )
    return FetchError(
        "licence",
        f"the account of the token may not read `{repo}` (403)",
        f"accept the licence at {constants.ENDPOINT}/{repo}; a fine-grained token also needs the scope"
        " to read gated repositories",
    )


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__

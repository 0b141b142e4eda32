"""Asks a registry what a reference names: its digest, and the environment of the image. The protocol is that of the OCI
distribution specification (https://github.com/opencontainers/distribution-spec) with Docker's anonymous tokens
(https://distribution.github.io/distribution/spec/auth/token/): no account, no password is ever sent.

What comes back is data: bounded in size and time, and whatever is named by a digest is compared with it.
"""

from __future__ import annotations

import hashlib
import json
import re
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn
from urllib.parse import urlsplit

import httpx

from gpuhost.errors import Problem, UserError

_LISTS = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")
_SINGLE = ("application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_PLATFORM = {"os": "linux", "architecture": "amd64"}
_MAX_BYTES = 8 << 20  # the specification asks registries to take manifests of 4 MiB at least
_LAYER_BYTES_MAX = 2**50
_ANSWER_S = 60.0
# Of a server, a repository, a tag or digest: https://github.com/distribution/reference
_FORMS = (
    r"[A-Za-z0-9.-]+(:\d+)?",
    r"[a-z0-9]+((\.|_{1,2}|-+|/)[a-z0-9]+)*",
    r"\w[\w.-]{0,127}|sha256:[0-9a-f]{64}",
)


def client() -> httpx.Client:
    """Trusts the authorities of this system, or those that SSL_CERT_FILE names."""
    return httpx.Client(verify=ssl.create_default_context(), timeout=20, headers={"User-Agent": "gpuhost"})


@dataclass(frozen=True)
class Reference:
    """An image's name in full. `server`: host and port; `wanted`: a tag or a digest."""

    server: str
    repository: str
    wanted: str

    @classmethod
    def parse(cls, text: str) -> Reference:
        """As Docker reads it: without a server, or with `docker.io`, it is Docker Hub's. Raises UserError."""
        name, _, digest = text.partition("@")
        first, slash, rest = name.partition("/")
        server, path = (first, rest) if slash and re.search(r"[.:]|^localhost$", first) else ("docker.io", name)
        path, _, tag = path.partition(":")
        if server in ("docker.io", "index.docker.io"):
            server, path = "registry-1.docker.io", path if "/" in path else f"library/{path}"
        words = (server, path, digest or tag or "latest")
        if not all(re.fullmatch(form, word, re.ASCII) for form, word in zip(_FORMS, words, strict=True)):
            raise UserError(Problem(f"`{text}` is no image reference", "write it as `registry/repository:tag`"))
        return cls(*words)


class Registries:
    """Asks; a token is asked for once a repository."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http
        self._tokens: dict[tuple[str, str], str] = {}

    def digest(self, reference: str) -> str:
        """The digest of what a reference names now; for an image for several platforms that of their list.

        Raises UserError.
        """
        asked = _Question(reference, Reference.parse(reference))
        url = asked.url("manifests", asked.of.wanted)
        answer = self._ask(asked, "HEAD", url)
        found: str | None = answer.headers.get("Docker-Content-Digest")
        if found is None:  # the specification lets a registry leave it out
            answer = self._ask(asked, "GET", url)
            found = f"sha256:{hashlib.sha256(answer.content).hexdigest()}"
        if not _DIGEST.fullmatch(found) or _type(answer) not in (*_LISTS, *_SINGLE):
            asked.misunderstood(f"its manifest has the type `{_type(answer)}` and the digest `{found}`")
        return found

    def environment(self, reference: str, digest: str) -> dict[str, str]:
        """The environment variables in the image with this digest, of several platforms in that for linux/amd64.

        Raises UserError.
        """
        asked = _Question(reference, Reference.parse(reference))
        config = self._manifest(asked, digest).get("config")
        content = self._named(asked, "blobs", config.get("digest") if isinstance(config, dict) else None)
        inner = content.get("config")
        variables = (str(each).partition("=") for each in _list(inner if isinstance(inner, dict) else {}, "Env"))
        return {name: value for name, _, value in variables}

    def download_bytes(self, reference: str, digest: str) -> int | None:
        """What pulling the image with this digest downloads at most, of several platforms that for linux/amd64; None
        when it does not say.

        Raises UserError.
        """
        asked = _Question(reference, Reference.parse(reference))
        manifest = self._manifest(asked, digest)
        sizes = [each.get("size") if isinstance(each, dict) else None for each in _list(manifest, "layers")]
        known = [size for size in sizes if isinstance(size, int) and 0 <= size < _LAYER_BYTES_MAX]
        return sum(known) if known and len(known) == len(sizes) else None

    def _manifest(self, asked: _Question, digest: str) -> dict[str, Any]:
        """The one of linux/amd64."""
        manifest = self._named(asked, "manifests", digest)
        if "manifests" not in manifest:
            return manifest
        fitting = [each for each in _list(manifest, "manifests") if _fits(each)]
        if not fitting:
            asked.fail("is not made for linux/amd64", "choose another image")
        return self._named(asked, "manifests", fitting[0].get("digest"))

    def _named(self, asked: _Question, kind: str, digest: Any) -> dict[str, Any]:
        """The JSON that a digest names."""
        if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
            asked.misunderstood("it names something without a digest")
        content = self._ask(asked, "GET", asked.url(kind, digest)).content
        if f"sha256:{hashlib.sha256(content).hexdigest()}" != digest:
            asked.misunderstood(f"it gave other bytes than {digest} names")
        try:
            found = json.loads(content)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            asked.misunderstood(f"what {digest} names is no JSON object")
        return found

    def _ask(self, asked: _Question, method: str, url: str) -> httpx.Response:
        key = (asked.of.server, asked.of.repository)
        answer = self._send(asked, method, url, self._tokens.get(key))
        if answer.status_code == 401 and key not in self._tokens:
            self._tokens[key] = self._token(asked, answer.headers.get("WWW-Authenticate", ""))
            answer = self._send(asked, method, url, self._tokens[key])
        asked.check(answer)
        return answer

    def _token(self, asked: _Question, challenge: str) -> str:
        """What a registry gives to somebody without an account."""
        scheme, _, rest = challenge.partition(" ")
        wanted = dict(re.findall(r'(\w+)="([^"]*)"', rest))
        if scheme.lower() != "bearer" or urlsplit(wanted.get("realm", "")).scheme != "https":
            asked.fail(*_PRIVATE)
        query = {name: wanted[name] for name in ("service", "scope") if name in wanted}
        answer = self._send(asked, "GET", str(httpx.URL(wanted["realm"]).copy_merge_params(query)), None)
        asked.check(answer)
        try:
            given = json.loads(answer.content)
            token = given.get("token") or given["access_token"]
        except (ValueError, KeyError, AttributeError, RecursionError):
            token = None
        if not isinstance(token, str) or not re.fullmatch(r"[\x21-\x7e]+", token):
            asked.misunderstood("it gave no token where it promised one")
        return token

    def _send(self, asked: _Question, method: str, url: str, token: str | None) -> httpx.Response:
        """One request, after at most three redirects, which carry no token to another server."""
        # As it comes, nothing unpacked: a few bytes that are packed twice are gigabytes.
        headers = {"Accept": ", ".join((*_LISTS, *_SINGLE)), "Accept-Encoding": "identity"}
        headers |= {"Authorization": f"Bearer {token}"} if token else {}
        self._http.max_redirects = 3
        until = time.monotonic() + _ANSWER_S
        try:
            with self._http.stream(method, url, headers=headers, follow_redirects=True) as answer:
                if any(each.url.scheme != "https" for each in (*answer.history, answer)):
                    asked.misunderstood("it leads to an address without encryption")
                if answer.headers.get("Content-Encoding", "identity") != "identity":
                    asked.misunderstood("it packed its answer, which nobody asked for")
                content = b""
                for block in answer.iter_raw():
                    content += block
                    if len(content) > _MAX_BYTES or time.monotonic() > until:
                        asked.misunderstood("its answer does not end")
                return httpx.Response(answer.status_code, headers=answer.headers, content=content)
        except httpx.TimeoutException:
            asked.fail("cannot be looked up: its registry does not answer", _NETWORK)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            asked.fail(f"cannot be looked up: {_cause(error)}", _NETWORK)


_NETWORK = "run this where registries, package indexes and the hub are reached; check network, DNS, proxy and CA"
_PRIVATE = (
    "is not shown to strangers, or does not exist",
    "check its name; of a private one write the digest into the data: `name:tag@sha256:...`",
)


@dataclass(frozen=True)
class _Question:
    """What is asked about, as people know it, and in full."""

    shown: str
    of: Reference

    def url(self, kind: str, name: str) -> str:
        return f"https://{self.of.server}/v2/{self.of.repository}/{kind}/{name}"

    def fail(self, what: str, hint: str) -> NoReturn:
        raise UserError(Problem(f"the image {self.shown} {what}", hint))

    def misunderstood(self, what: str) -> NoReturn:
        self.fail(f"cannot be looked up: its registry {self.of.server} is not understood: {what}", "try again later")

    def check(self, answer: httpx.Response) -> None:
        """Raises UserError for an answer that is not the one asked for."""
        code = answer.status_code
        if code == 429:
            wait = answer.headers.get("Retry-After", "")
            hint = f"try again in {wait} seconds" if wait.isdigit() else "try again later"
            self.fail(f"cannot be looked up: the rate limit of {self.of.server} is reached", hint)
        if code in (401, 403):
            self.fail(*_PRIVATE)
        if code == 404:
            self.fail(f"does not exist: {self.of.server} has none of this name and tag", "check it in group_data")
        if code != 200:
            self.fail(f"cannot be looked up: {self.of.server} answered {code}", "try again later")


def _type(answer: httpx.Response) -> str:
    return str(answer.headers.get("Content-Type", "")).partition(";")[0].strip()


def _list(value: Mapping[str, Any], name: str) -> list[Any]:
    found = value.get(name)
    return found if isinstance(found, list) else []


def _fits(manifest: Any) -> bool:
    platform = manifest.get("platform") if isinstance(manifest, dict) else None
    return isinstance(platform, dict) and all(platform.get(name) == value for name, value in _PLATFORM.items())


def _cause(error: Exception) -> str:
    return re.sub(r"\s+", " ", str(error)) or type(error).__name__

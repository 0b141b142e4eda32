"""What a registry is asked, by its own protocol, and what is made of each answer."""

from __future__ import annotations

import gzip
import hashlib
import json
import subprocess
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from gpuhost.errors import UserError
from gpuhost.images.registry import Reference, Registries, client

from .registry import INDEX, MANIFEST, REALM, Answer, Registry, served, serving

SERVER, REPOSITORY = "registry.example", "acme/server"
IMAGE = f"{SERVER}/{REPOSITORY}:v1"
URL = f"https://{SERVER}/v2/{REPOSITORY}/manifests/v1"
OF_ANOTHER = f"sha256:{'0' * 64}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("python:3.12", ("registry-1.docker.io", "library/python", "3.12")),
        ("docker.io/library/python:3.12", ("registry-1.docker.io", "library/python", "3.12")),
        ("index.docker.io/vllm/vllm-openai:v0.9.2", ("registry-1.docker.io", "vllm/vllm-openai", "v0.9.2")),
        ("acme/server", ("registry-1.docker.io", "acme/server", "latest")),
        ("ghcr.io/acme/a/b:v1", ("ghcr.io", "acme/a/b", "v1")),
        ("localhost/a:1", ("localhost", "a", "1")),
        ("registry.example:5000/a:1", ("registry.example:5000", "a", "1")),
        (f"ghcr.io/acme/a:v1@{OF_ANOTHER}", ("ghcr.io", "acme/a", OF_ANOTHER)),
    ],
)
def test_a_reference_is_read_as_docker_reads_it(text: str, expected: tuple[str, str, str]) -> None:
    found = Reference.parse(text)
    assert (found.server, found.repository, found.wanted) == expected


@pytest.mark.parametrize("text", ["", "Acme/x:1", "a/../b:1", "a:b:c", "ghcr.io/a b:1", "a@sha256:1", "x?y=1", "a#b:1"])
def test_what_is_no_reference(text: str) -> None:
    with pytest.raises(UserError, match="no image reference"):
        Reference.parse(text)


def test_a_digest_by_an_anonymous_token() -> None:
    """Asked for once a repository, for what the registry said; the manifest itself is not downloaded."""
    registry = Registry()
    first = registry.put(SERVER, REPOSITORY, "v1", b"{}", INDEX, token="t1")
    second = registry.put(SERVER, REPOSITORY, "v2", b"{ }", token="t1")
    registry.answers["GET", REALM] = Answer(body=b'{"token": "t1"}')
    with serving(registry) as http:
        registries = Registries(http)
        assert registries.digest(IMAGE) == first
        assert registries.digest(f"{SERVER}/{REPOSITORY}:v2") == second
    [_, token, *rest] = registry.asked
    assert token == ("GET", f"{REALM}?service=registry.example&scope=repository%3Aacme%2Fserver%3Apull", "")
    assert rest == [("HEAD", URL, "Bearer t1"), ("HEAD", URL.replace("v1", "v2"), "Bearer t1")]


def test_a_token_by_its_other_name() -> None:
    registry = Registry()
    digest = registry.put(SERVER, REPOSITORY, "v1", b"{}", token="t1")
    registry.answers["GET", REALM] = Answer(body=b'{"access_token": "t1"}')
    with serving(registry) as http:
        assert Registries(http).digest(IMAGE) == digest


def test_a_token_is_asked_for_once_a_repository_even_when_it_does_not_fit() -> None:
    registry = Registry()
    registry.put(SERVER, REPOSITORY, "v1", b"{}", token="t1")
    registry.put(SERVER, REPOSITORY, "v2", b"{ }", token="t2")
    registry.answers["GET", REALM] = Answer(body=b'{"token": "t1"}')
    with serving(registry) as http:
        registries = Registries(http)
        registries.digest(IMAGE)
        with pytest.raises(UserError, match=PRIVATE):
            registries.digest(f"{SERVER}/{REPOSITORY}:v2")
    assert [url for _, url, _ in registry.asked if url.startswith(REALM)] == [registry.asked[1][1]]


def test_a_request_says_what_it_takes() -> None:
    """Without it a registry gives an index as a manifest for one platform, and bytes that are packed."""
    registry = Registry()
    registry.put(SERVER, REPOSITORY, "v1", b"{}")
    with serving(registry) as http:
        Registries(http).digest(IMAGE)
    assert {INDEX, MANIFEST} <= set(registry.headers["Accept"].split(", "))
    assert registry.headers["Accept-Encoding"] == "identity"


@pytest.mark.parametrize(
    "kind",
    [
        *("application/vnd.oci.image.index.v1+json", "application/vnd.oci.image.manifest.v1+json"),
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    ],
)
def test_each_kind_of_manifest_is_asked_for_and_taken(kind: str) -> None:
    registry = Registry()
    digest = registry.put(SERVER, REPOSITORY, "v1", b"{}", kind)
    with serving(registry) as http:
        assert Registries(http).digest(IMAGE) == digest
    assert kind in registry.headers["Accept"].split(", ")


def test_a_type_may_have_parameters() -> None:
    registry = Registry()
    digest = registry.put(SERVER, REPOSITORY, "v1", b"{}", f"{MANIFEST}; charset=utf-8")
    with serving(registry) as http:
        assert Registries(http).digest(IMAGE) == digest


@pytest.mark.parametrize("hops", [3, 4])
def test_at_most_three_redirects_are_followed(hops: int) -> None:
    places = [URL, *(f"https://mirror{number}.example/x" for number in range(hops))]
    registry = Registry({("HEAD", here): Answer(307, {"Location": there}) for here, there in pairwise(places)})
    registry.answers["HEAD", places[-1]] = Answer(headers=_GOOD)
    with serving(registry) as http:
        if hops == 3:
            assert Registries(http).digest(IMAGE) == OF_ANOTHER
        else:
            with pytest.raises(UserError, match="cannot be looked up"):
                Registries(http).digest(IMAGE)


@pytest.mark.parametrize("more", [0, 1])
def test_a_manifest_may_have_eight_mebibytes(more: int) -> None:
    registry = Registry()
    digest = registry.put(SERVER, REPOSITORY, "v1", b"x" * ((8 << 20) + more))
    registry.answers["HEAD", URL].headers.pop("Docker-Content-Digest")
    with serving(registry) as http:
        if more:
            with pytest.raises(UserError, match="its answer does not end"):
                Registries(http).digest(IMAGE)
        else:
            assert Registries(http).digest(IMAGE) == digest


def test_a_registry_that_says_no_digest_gives_the_bytes() -> None:
    registry = Registry()
    digest = registry.put(SERVER, REPOSITORY, "v1", b'{"a": 1}')
    for method in ("HEAD", "GET"):
        registry.answers[method, URL].headers.pop("Docker-Content-Digest", None)
    with serving(registry) as http:
        assert Registries(http).digest(IMAGE) == digest


_GOOD = {"Docker-Content-Digest": OF_ANOTHER, "Content-Type": MANIFEST}
LATER = "try again later"
PRIVATE = "is not shown to strangers, or does not exist"


@pytest.mark.parametrize(
    ("answer", "what", "hint"),
    [
        (Answer(404), "does not exist: registry.example has none of this name and tag", "check it in group_data"),
        (Answer(429, {"Retry-After": "90"}), "the rate limit of registry.example is reached", "again in 90 seconds"),
        (Answer(429, {"Retry-After": "soon\x1b[2J"}), "the rate limit of registry.example is reached", LATER),
        (Answer(401, {"WWW-Authenticate": 'Basic realm="x"'}), PRIVATE, "write the digest into the data"),
        (Answer(401, {"WWW-Authenticate": f'Basic realm="{REALM}"'}), PRIVATE, "write the digest into the data"),
        (Answer(401), PRIVATE, "write the digest into the data"),
        (Answer(403), PRIVATE, "write the digest into the data"),
        (Answer(503), "registry.example answered 503", LATER),
        (Answer(204), "registry.example answered 204", LATER),
        (Answer(headers={**_GOOD, "Docker-Content-Digest": "sha256:123"}), "the digest `sha256:123`", LATER),
        (Answer(headers={**_GOOD, "Docker-Content-Digest": f"sha512:{'0' * 128}"}), "is not understood", LATER),
        (Answer(headers={**_GOOD, "Content-Type": "text/html"}), "the type `text/html`", LATER),
        (Answer(headers={"Docker-Content-Digest": OF_ANOTHER}), "the type `` and the digest", LATER),
        (Answer(307, {"Location": "http://other.example/x"}), "an address without encryption", LATER),
        (Answer(307, {"Location": URL}), "cannot be looked up", "check network"),
        (Answer(307, {"Location": "ftp://other.example/x"}), "an address without encryption", LATER),
        (Answer(307, {"Location": "https://other.example:port/"}), "cannot be looked up", "check network"),
    ],
)
def test_an_answer_that_is_none(answer: Answer, what: str, hint: str) -> None:
    """One sentence that names the image, and what to do; no digest."""
    registry = Registry({("HEAD", URL): answer})
    registry.answers["HEAD", "https://other.example/x"] = Answer(headers=_GOOD)
    registry.answers["HEAD", "http://other.example/x"] = Answer(headers=_GOOD)
    with serving(registry) as http, pytest.raises(UserError) as caught:
        Registries(http).digest(IMAGE)
    [problem] = caught.value.problems
    assert problem.what.startswith(f"the image {IMAGE} ") and what in problem.what
    assert hint in problem.hint
    assert all("\x1b" not in line for line in problem.lines())


@pytest.mark.parametrize(
    ("challenge", "token", "what"),
    [
        ('Bearer realm="http://auth.example/token"', Answer(body=b'{"token": "t"}'), PRIVATE),
        ('Bearer service="x"', Answer(), PRIVATE),
        ("", Answer(body=b"no JSON"), "it gave no token where it promised one"),
        ("", Answer(body=b"[]"), "it gave no token where it promised one"),
        ("", Answer(body=b"{}"), "it gave no token where it promised one"),
        ("", Answer(body=b"[" * 100_000), "it gave no token where it promised one"),
        ("", Answer(body=b'{"token": "a\\r\\nX-Evil: 1"}'), "it gave no token where it promised one"),
        ("", Answer(body=b'{"token": 7}'), "it gave no token where it promised one"),
        ("", Answer(body=b'{"token": "not the right one"}'), "it gave no token"),
        ("", Answer(body=b'{"token": "another"}'), PRIVATE),
        ("", Answer(500), "registry.example answered 500"),
        ("", Answer(429), "rate limit"),
    ],
)
def test_a_token_that_is_none(challenge: str, token: Answer, what: str) -> None:
    registry = Registry()
    registry.put(SERVER, REPOSITORY, "v1", b"{}", token="t")
    if challenge:
        registry.answers["HEAD", URL] = replace(registry.answers["HEAD", URL], challenge=challenge)
    registry.answers["GET", REALM] = registry.answers["GET", REALM.replace("https", "http")] = token
    with serving(registry) as http, pytest.raises(UserError) as caught:
        Registries(http).digest(IMAGE)
    assert what in caught.value.problems[0].what
    assert len(registry.asked) <= 3  # it is not asked again and again


def test_an_answer_without_an_end_ends() -> None:
    registry = Registry({("HEAD", URL): Answer(headers={"Content-Type": MANIFEST})})
    registry.answers["GET", URL] = Answer(headers={"Content-Type": MANIFEST}, endless=True)
    with serving(registry) as http, pytest.raises(UserError, match="its answer does not end"):
        Registries(http).digest(IMAGE)


def test_what_is_packed_is_not_unpacked() -> None:
    registry = Registry({("HEAD", URL): Answer(headers={"Content-Type": MANIFEST})})
    packed = gzip.compress(gzip.compress(bytes(2**24)))
    headers = {"Content-Type": MANIFEST, "Content-Encoding": "gzip, gzip"}
    registry.answers["GET", URL] = Answer(headers=headers, body=packed)
    with serving(registry) as http, pytest.raises(UserError, match="it packed its answer, which nobody asked for"):
        Registries(http).digest(IMAGE)


def test_a_registry_that_does_not_answer() -> None:
    registry = Registry({("HEAD", URL): Answer(headers=_GOOD, wait_s=60)})
    with serving(registry, timeout_s=0.3) as http, pytest.raises(UserError, match="its registry does not answer"):
        Registries(http).digest(IMAGE)


def test_it_is_asked_by_name_and_trusted_as_this_system_trusts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A company's registry has an authority of the company's."""
    pem = tmp_path / "server.pem"
    request = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", str(pem), "-out", str(pem)]
    subprocess.run([*request, *names], check=True, capture_output=True)
    registry = Registry()
    with served(registry, pem) as port:
        server = f"localhost:{port}"
        digest = registry.put(server, REPOSITORY, "v1", b"{}")
        with client() as http, pytest.raises(UserError, match="certificate"):
            Registries(http).digest(f"{server}/{REPOSITORY}:v1")
        monkeypatch.setenv("SSL_CERT_FILE", str(pem))
        with client() as http:
            assert Registries(http).digest(f"{server}/{REPOSITORY}:v1") == digest
    assert registry.headers["User-Agent"] == "gpuhost"


def test_a_registry_that_is_not_there() -> None:
    with client() as http, pytest.raises(UserError, match=r"cannot be looked up: .*refused") as caught:
        Registries(http).digest("127.0.0.1:1/acme/server:v1")
    assert "CA" in caught.value.problems[0].hint


# -- what lies in an image ---------------------------------------------------------------------------------------------


def test_the_environment_is_that_of_our_platform() -> None:
    registry = Registry()
    digest = registry.put_image(SERVER, REPOSITORY, "v1", ["PATH=/bin", "PYTHON_VERSION=3.12.11", "A=b=c", "EMPTY="])
    with serving(registry) as http:
        found = Registries(http).environment(IMAGE, digest)
    assert found == {"PATH": "/bin", "PYTHON_VERSION": "3.12.11", "A": "b=c", "EMPTY": ""}


@pytest.mark.parametrize("inner", [None, [], {}, {"Env": None}])
def test_an_image_without_variables(inner: object) -> None:
    registry = Registry()
    blob = registry.put(SERVER, REPOSITORY, "", json.dumps({"config": inner}).encode())
    digest = registry.put(SERVER, REPOSITORY, "v1", json.dumps({"config": {"digest": blob}}).encode())
    with serving(registry) as http:
        assert Registries(http).environment(IMAGE, digest) == {}


def test_a_token_does_not_follow_to_where_the_blobs_are() -> None:
    """Registries keep them elsewhere."""
    registry = Registry()
    config = json.dumps({"config": {"Env": ["A=1"]}}).encode()
    blob = registry.put(SERVER, REPOSITORY, "", config, token="t")
    digest = registry.put(SERVER, REPOSITORY, "v1", json.dumps({"config": {"digest": blob}}).encode(), token="t")
    url = f"https://{SERVER}/v2/{REPOSITORY}/blobs/{blob}"
    registry.answers["GET", url] = Answer(307, {"Location": "https://cdn.example/x?signed=1"}, token="t")
    registry.answers["GET", "https://cdn.example/x"] = Answer(body=config)
    registry.answers["GET", REALM] = Answer(body=b'{"token": "t"}')
    with serving(registry) as http:
        assert Registries(http).environment(IMAGE, digest) == {"A": "1"}
    assert registry.asked[-2:] == [("GET", url, "Bearer t"), ("GET", "https://cdn.example/x?signed=1", "")]


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"[]", "is no JSON object"),
        (b"{", "is no JSON object"),
        (b"[" * 100_000, "is no JSON object"),
        (b"{}", "something without a digest"),
        (b'{"config": {"digest": "../../x"}}', "something without a digest"),
        (b'{"config": []}', "something without a digest"),
        (b'{"manifests": 3}', "is not made for linux/amd64"),
        (b'{"manifests": [{"platform": {"os": "linux", "architecture": "arm64"}}, 7]}', "is not made for linux/amd64"),
        (b'{"manifests": [{"platform": {"os": "linux", "architecture": "amd64"}}]}', "something without a digest"),
    ],
)
def test_a_manifest_that_is_none(content: bytes, what: str) -> None:
    registry = Registry()
    digest = registry.put(SERVER, REPOSITORY, "v1", content)
    with serving(registry) as http, pytest.raises(UserError) as caught:
        Registries(http).environment(IMAGE, digest)
    assert what in caught.value.problems[0].what


def test_other_bytes_than_a_digest_names() -> None:
    registry = Registry()
    digest = registry.put(SERVER, REPOSITORY, "v1", b'{"config": {}}')
    registry.answers["GET", URL.replace("v1", digest)].body = b'{"config": {} }'
    assert hashlib.sha256(b'{"config": {}}').hexdigest() in digest
    with serving(registry) as http, pytest.raises(UserError, match="it gave other bytes than"):
        Registries(http).environment(IMAGE, digest)


def layered(registry: Registry, layers: object, architecture: str = "amd64") -> str:
    """The digest of an image for two platforms; the layers of the other one have more bytes."""
    of_other = registry.put(SERVER, REPOSITORY, "other", json.dumps({"layers": [{"size": 10**9}]}).encode())
    wanted = registry.put(SERVER, REPOSITORY, "wanted", json.dumps({"layers": layers}).encode())
    listed = [
        {"digest": digest, "platform": {"os": "linux", "architecture": name}}
        for digest, name in ((of_other, "arm64"), (wanted, architecture))
    ]
    return registry.put(SERVER, REPOSITORY, "v1", json.dumps({"manifests": listed}).encode(), INDEX)


@pytest.mark.parametrize(
    ("layers", "found"),
    [
        ([{"size": 3}, {"size": 4}], 7),
        ([{"size": 3}], 3),
        ([], None),
        (None, None),
        ([{"size": 3}, {}], None),
        ([{"size": 3}, 4], None),
        ([{"size": -3}], None),
        ([{"size": 2**50}], None),
        ([{"size": "3"}], None),
    ],
)
def test_what_a_pull_downloads_is_what_our_platforms_layers_have(layers: object, found: int | None) -> None:
    registry = Registry()
    digest = layered(registry, layers)
    with serving(registry) as http:
        assert Registries(http).download_bytes(IMAGE, digest) == found


def test_an_image_that_is_not_made_for_our_platform() -> None:
    registry = Registry()
    digest = layered(registry, [{"size": 3}], "riscv64")
    with serving(registry) as http, pytest.raises(UserError, match="not made for linux/amd64"):
        Registries(http).download_bytes(IMAGE, digest)

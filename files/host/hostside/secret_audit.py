"""Says which value each file and container on this host holds, by keyed fingerprint: no secret leaves, nothing is
written.

    python -m hostside.secret_audit < request

The request is a `SecretAuditRequest`, the answer a `SecretAuditAnswer`, one line on stdout. A file that is not
there is left out. Exit: 0; 1 a fault of this program; 2 the request is wrong or a file cannot be read; 3 Docker does
not answer.
"""

from __future__ import annotations

import contextlib
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import docker.errors  # type: ignore[import-untyped]

from hostside import envfile, labels, placeholders
from hostside.docker_engine import FAILURES, DockerUnavailable, connect
from hostside.fingerprint import fingerprint
from hostside.protocol.secret_audit import (
    HeldFile,
    HeldVariable,
    HoldingContainer,
    SecretAuditAnswer,
    SecretAuditRequest,
)
from hostside.regular import UnusableFile, read_regular
from hostside.timestamps import unix_ns
from hostside.wire import MAX_BYTES, WireError, from_json, to_json

FILE_BYTES_MAX = 4 * 2**20


class Refusal(Exception):
    """The request or a file cannot be used. `str()` is one sentence and quotes no value; `hint` says what to do."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


def parse(text: bytes) -> SecretAuditRequest:
    """Raises `Refusal`, which never quotes the request."""
    hint = "`gpuhost apply` ships the programs that fit this gpuhost"
    try:
        request = from_json(SecretAuditRequest, text)
    except WireError as error:
        raise Refusal(f"the request cannot be read: {error}", hint) from error
    if not request.key:  # anyone could make such fingerprints, and try values against them
        raise Refusal("the request cannot be read: `key` is empty", hint)
    return request


def fingerprints(request: SecretAuditRequest, values: dict[str, str]) -> dict[str, str]:
    """Name -> value to name -> 64 hex digits."""
    return {name: fingerprint(request.key, name, value) for name, value in values.items()}


def read(path: str) -> tuple[str, int] | None:
    """A file's content and its time of modification (Unix ns), None when there is none. Raises `Refusal`."""
    hint = f"look at it with `ls -ld {path}`; where it does not belong, move it away"
    try:
        content, modified_ns = read_regular(Path(path), FILE_BYTES_MAX)
        return content.decode("utf-8", "surrogateescape"), modified_ns
    except FileNotFoundError:
        return None
    except UnusableFile as error:
        raise Refusal(f"{path} {error}", hint) from error
    except OSError as error:
        raise Refusal(f"{path} cannot be read: {error.strerror}", hint) from error


def env_files(request: SecretAuditRequest) -> dict[str, dict[str, HeldVariable]]:
    """path -> name -> variable."""
    found = {}
    for query in request.env_files:
        if file := read(query.path):
            values = envfile.variables(file[0])
            found[query.path] = {
                name: HeldVariable(digits, values[name] if name in query.plain else None)
                for name, digits in fingerprints(request, values).items()
            }
    return found


def secret_files(request: SecretAuditRequest) -> dict[str, HeldFile]:
    """path -> file."""
    found = {}
    for query in request.secret_files:
        if file := read(query.path):
            values = placeholders.values(file[0], query.template)
            found[query.path] = HeldFile(None if values is None else fingerprints(request, values), file[1])
    return found


def containers(request: SecretAuditRequest) -> list[HoldingContainer]:
    """Every container of ours, running or not. Raises `DockerUnavailable`."""
    if request.containers is None:
        return []
    api, inspected = connect(), []
    try:
        for listed in api.containers(all=True, filters={"label": labels.SERVICE}):
            with contextlib.suppress(docker.errors.NotFound):  # gone since it was listed
                inspected.append(api.inspect_container(listed["Id"]))
        given = {image: _given(api, image) for image in {each["Image"] for each in inspected}}
    except FAILURES as error:
        # Not its text: that of a broken answer quotes the answer, and that holds every variable.
        raise DockerUnavailable(f"it failed to show containers ({type(error).__name__})") from error
    return [_container(each, request, request.containers, given.get(each["Image"])) for each in inspected]


def _given(api: docker.APIClient, image: str) -> set[str] | None:
    """The variables that an image gives, as `NAME=value`; None when it is gone."""
    try:
        return set(api.inspect_image(image)["Config"].get("Env") or [])
    except docker.errors.NotFound:
        return None


def _container(
    inspected: dict[str, Any], request: SecretAuditRequest, wanted: list[str], given: set[str] | None
) -> HoldingContainer:
    state = inspected["State"]
    every = inspected["Config"]["Env"] or []
    pairs = [entry.partition("=") for entry in every]
    added = [entry.partition("=") for entry in every if given is not None and entry not in given]
    return HoldingContainer(
        name=inspected["Name"].removeprefix("/"),
        service=inspected["Config"]["Labels"][labels.SERVICE],
        state=state["Status"],
        started_ns=unix_ns(state["StartedAt"]),
        env=fingerprints(request, {name: value for name, equals, value in pairs if equals and name in wanted}),
        added=fingerprints(request, {name: value for name, _, value in added}),
    )


def main() -> int:
    try:
        request = parse(sys.stdin.buffer.read(MAX_BYTES + 1))
        found = SecretAuditAnswer(env_files(request), secret_files(request), containers(request), time.time_ns())
        print(to_json(found))
        return 0
    except Refusal as error:
        print(f"error: {error}\nhint: {error.hint}", file=sys.stderr)
        return 2
    except DockerUnavailable as error:
        print(f"error: Docker does not answer: {error}", file=sys.stderr)
        print("hint: `systemctl status docker` says why", file=sys.stderr)
        return 3
    except Exception as error:  # a traceback ends with the error's text, and that may quote a value
        where = traceback.extract_tb(error.__traceback__)[-1]
        print(f"error: {type(error).__name__} in {Path(where.filename).name}, line {where.lineno}", file=sys.stderr)
        print("hint: this is a fault of gpuhost's: report this line", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())

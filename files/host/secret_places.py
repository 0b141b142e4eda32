"""Says which value each place on this host holds, by keyed fingerprint only: no secret leaves, nothing is written.

    secret_places.py < document.json

    {"key": "HMAC key", "env_files": [{"path", "plain": ["NAME"]}], "secret_files": [{"path", "template": "{NAME}\\n"}],
     "containers": ["NAME"] | null}

`plain` names variables that are no secret; `containers` the variables wanted of every container with the label
`gpuhost.service`, null asks Docker nothing. One JSON document, one line, on stdout:

    {"env_files": {path: {name: {"fingerprint", "value" if plain}}},
     "secret_files": {path: {"fingerprints": {name: fingerprint} | null if it does not fit, "modified_ns"}},
     "containers": [{"name", "service", "state", "started_ns", "env": {name: fingerprint}, "stamp"}],
     "now_ns": 0}

A file that is not there is left out. A fingerprint is HMAC-SHA256 in hex over the JSON of [name, value]; times are
Unix nanoseconds, 0 = never started. Exit: 0; 1 a fault of this program; 2 the document is wrong or a place cannot be
read; 3 Docker does not answer.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import re
import stat
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker  # type: ignore[import-untyped]
import docker.errors  # type: ignore[import-untyped]
import requests
from containers import TIMEOUT_S, DockerUnavailable, started_ns

SERVICE_LABEL = "gpuhost.service"
STAMP_LABEL = "gpuhost.secrets"

# compose also reads `export NAME=`, and spaces around NAME: by those, too, a line takes the place of ours.
_LINE = re.compile(r"\s*(?:export\s+)?(?P<name>[A-Z0-9_]+)\s*=(?P<text>.*)", re.DOTALL)
_QUOTED = re.compile(r'"((?:[^"\\$\n\r]|\\["\\$nr])*)"')
_ESCAPES = {"n": "\n", "r": "\r"}
_PLACEHOLDER = re.compile(r"\{([A-Z0-9_]+)\}")


class Refusal(Exception):
    """The document or a place cannot be used. `str()` is one sentence and quotes no value; `hint` says what to do."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True)
class Wish:
    """The document. `env_files`: path -> names whose values are shown; `secret_files`: path -> template."""

    key: bytes
    env_files: dict[str, list[str]]
    secret_files: dict[str, str]
    containers: list[str] | None

    def fingerprints(self, values: dict[str, str]) -> dict[str, str]:
        """Name -> value to name -> 64 hex digits; gpuhost.secrets makes the same on the control side."""
        texts = {name: json.dumps([name, value]).encode() for name, value in values.items()}
        return {name: hmac.new(self.key, text, hashlib.sha256).hexdigest() for name, text in texts.items()}


def parse(document: bytes) -> Wish:
    """Raises `Refusal`, which never quotes the document."""
    try:
        found = json.loads(document)
        if not found["key"]:
            raise ValueError  # anyone could make such fingerprints, and try values against them
        return Wish(
            key=_text(found["key"]).encode(),
            env_files={_text(each["path"]): _texts(each["plain"]) for each in found["env_files"]},
            secret_files={_text(each["path"]): _text(each["template"]) for each in found["secret_files"]},
            containers=None if found["containers"] is None else _texts(found["containers"]),
        )
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise Refusal(
            f"the document is not of the known form ({type(error).__name__})",
            "see the head of secret_places.py for its form",
        ) from error


def _text(value: object) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise TypeError
    return value


def _texts(value: object) -> list[str]:
    if not isinstance(value, list):
        raise TypeError
    return [_text(each) for each in value]


def unquote(text: str) -> str:
    """The inverse of gpuhost.render.env_quote; text that it did not write stays as it is."""
    quoted = _QUOTED.fullmatch(text)
    return re.sub(r"\\(.)", lambda found: _ESCAPES.get(found[1], found[1]), quoted[1]) if quoted else text


def variables(content: str) -> dict[str, str]:
    """The variables of a `.env.docker`, name -> value; the last line of a name wins."""
    found = {}
    for line in content.split("\n"):  # not splitlines: a value may hold U+2028 and the like as they are
        if parts := _LINE.fullmatch(line):
            name, text = parts["name"], parts["text"]
            found[name] = unquote(text) if line.startswith(f"{name}=") else text
    return found


def taken_apart(content: str, template: str) -> dict[str, str] | None:
    """The values, name -> value, with which gpuhost.render.secret_text makes `content`; None when none do.

    Where several do (`{USER}:{PASSWORD}` and two colons), the earlier value is the shorter one.
    """
    pattern = ""
    groups: dict[str, str] = {}
    for index, part in enumerate(_PLACEHOLDER.split(template)):
        if index % 2 == 0:
            pattern += re.escape(part)
        elif part in groups:
            pattern += f"(?P={groups[part]})"
        else:
            groups[part] = f"g{index}"
            pattern += f"(?P<g{index}>.*?)"
    fit = re.fullmatch(pattern, content, re.DOTALL)
    return {name: fit[group] for name, group in groups.items()} if fit else None


def read(path: str) -> tuple[str, int] | None:
    """A file's content and its time of modification (Unix ns), None when there is none. Raises `Refusal`."""
    hint = f"look at it with `ls -ld {path}`; where it does not belong, move it away"
    try:
        # Before it is opened: a FIFO would keep us waiting for ever.
        if not stat.S_ISREG(Path(path).stat().st_mode):
            raise Refusal(f"{path} is not a regular file", hint)
        with Path(path).open("rb") as file:
            return file.read().decode("utf-8", "surrogateescape"), os.fstat(file.fileno()).st_mtime_ns
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Refusal(f"{path} cannot be read: {error.strerror}", hint) from error


def env_files(wish: Wish) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path, plain in wish.env_files.items():
        if file := read(path):
            values = variables(file[0])
            found[path] = {name: {"fingerprint": hex_digits} for name, hex_digits in wish.fingerprints(values).items()}
            for name in values.keys() & set(plain):
                found[path][name]["value"] = values[name]
    return found


def secret_files(wish: Wish) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path, template in wish.secret_files.items():
        if file := read(path):
            values = taken_apart(file[0], template)
            fingerprints = None if values is None else wish.fingerprints(values)
            found[path] = {"fingerprints": fingerprints, "modified_ns": file[1]}
    return found


def containers(wish: Wish) -> list[dict[str, Any]]:
    """Every container of ours, running or not. Raises `DockerUnavailable`."""
    if wish.containers is None:
        return []
    try:
        api = docker.from_env(timeout=TIMEOUT_S).api
    except docker.errors.DockerException as error:
        raise DockerUnavailable(str(error)) from error
    inspected = []
    try:
        for listed in api.containers(all=True, filters={"label": SERVICE_LABEL}):
            with contextlib.suppress(docker.errors.NotFound):  # gone since it was listed
                inspected.append(api.inspect_container(listed["Id"]))
    except (docker.errors.DockerException, requests.RequestException) as error:
        # Not its text: that of a broken answer quotes the answer, and that holds every variable.
        raise DockerUnavailable(f"it failed to show containers ({type(error).__name__})") from error
    return [_container(each, wish, wish.containers) for each in inspected]


def _container(inspected: dict[str, Any], wish: Wish, wanted: list[str]) -> dict[str, Any]:
    labels, state = inspected["Config"]["Labels"], inspected["State"]
    pairs = [entry.partition("=") for entry in inspected["Config"]["Env"] or []]
    return {
        "name": inspected["Name"].removeprefix("/"),
        "service": labels[SERVICE_LABEL],
        "state": state["Status"],
        "started_ns": started_ns(state["StartedAt"]),
        "env": wish.fingerprints({name: value for name, equals, value in pairs if equals and name in wanted}),
        "stamp": labels.get(STAMP_LABEL, ""),
    }


def main() -> int:
    try:
        wish = parse(sys.stdin.buffer.read())
        found = {"env_files": env_files(wish), "secret_files": secret_files(wish), "containers": containers(wish)}
        print(json.dumps({**found, "now_ns": time.time_ns()}))
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

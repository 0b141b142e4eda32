"""What a service is asked to prove that it works and keeps strangers out: from its entry alone. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from gpuhost.catalog.types import Auth, Service

REFUSED = 401
# No service holds it; long enough to be no typing error of a right one.
WRONG_TOKEN = "gpuhost-asks-with-a-wrong-token"  # noqa: S105


@dataclass(frozen=True)
class Question:
    """One request and what its answer must be. `sends`: no token, the service's, or one that was rotated away (whose
    value is `retired`)."""

    name: str
    path: str
    sends: Literal["nothing", "token", "retired token"] = "nothing"
    method: str = "GET"
    headers: tuple[tuple[str, str], ...] = ()
    body: dict[str, Any] | None = None
    status: int = 200
    json: dict[str, Any] | None = None
    contains: str | None = None
    retired: str | None = None


def questions(entry: Service, retired: Sequence[str] = ()) -> list[Question]:
    """All that one service is asked, strangers first. `retired`: values of its token that were rotated away."""
    return [*(_of_auth(entry.auth, retired) if entry.auth else ()), *_of_probes(entry)]


def _of_auth(auth: Auth, retired: Sequence[str]) -> Iterator[Question]:
    for path in auth.open_paths:
        yield Question(f"{path} is open", path)
    for path in auth.locked_paths:
        refused = Question(f"{path} is refused without a token", path, status=REFUSED)
        yield refused
        wrong = (("Authorization", f"Bearer {WRONG_TOKEN}"),)
        yield replace(refused, name=f"{path} is refused with a wrong token", headers=wrong)
        if auth.token_parameter:
            for value, kind in (("", "an empty"), (WRONG_TOKEN, "a wrong")):
                name = f"{path} is refused with {kind} `?{auth.token_parameter}=`"
                yield replace(refused, name=name, path=_with(path, auth.token_parameter, value))
        yield Question(answers_name(path), path, sends="token")
    for number, locked in enumerate(auth.locked_requests, 1):
        name = f"{locked.method} {locked.path} is refused without a token ({number})"
        headers = tuple(locked.headers.items())
        yield Question(name, locked.path, method=locked.method, headers=headers, status=REFUSED)
    for number, value in enumerate(retired):
        yield Question(
            retired_name(auth.token, number), auth.locked_paths[0], "retired token", status=REFUSED, retired=value
        )


def _of_probes(entry: Service) -> Iterator[Question]:
    for probe in entry.probes:
        locked = entry.auth is not None and probe.path not in entry.auth.open_paths
        yield Question(
            name=probe.name,
            path=probe.path,
            sends="token" if locked else "nothing",
            method=probe.method,
            headers=tuple(probe.headers.items()),
            body=probe.body,
            status=probe.expect_status,
            json=probe.json_has,
            contains=probe.contains,
        )


def _with(path: str, parameter: str, value: str) -> str:
    return f"{path}{'&' if '?' in path else '?'}{parameter}={value}"


def answers_name(path: str) -> str:
    """The name of the question that proves that the right token opens a path."""
    return f"{path} answers with the token"


def retired_name(secret: str, number: int = 0) -> str:
    """The name of the question with a value that was rotated away; `number` when there are several."""
    return f"refuses the retired {secret}" + (f" ({number + 1})" if number else "")

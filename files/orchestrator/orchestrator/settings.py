"""What the orchestrator needs to know before it starts."""

from __future__ import annotations

from collections.abc import Mapping

HOST = "0.0.0.0"  # inside the container; which host address publishes it is the compose file's decision
PORT = 8193
BROKER_SOCKET = "/run/gpuhost/broker/socket"
TOKEN_VARIABLE = "ORCHESTRATOR_TOKEN"  # noqa: S105 - the variable's name, not its value
TOKEN_LENGTH_MIN = 32


class SettingsError(Exception):
    """The orchestrator must not start. `str()` is one sentence, `hint` says what to do."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


def read_token(environ: Mapping[str, str]) -> str:
    """The API token. Raises `SettingsError` when it is missing or short enough to be guessed."""
    token = environ.get(TOKEN_VARIABLE, "").strip()
    if not token:
        raise SettingsError(
            f"`{TOKEN_VARIABLE}` is not set, and the orchestrator does not serve without a token",
            f"set `{TOKEN_VARIABLE}` to at least {TOKEN_LENGTH_MIN} random characters: `openssl rand -hex 32`",
        )
    if len(token) < TOKEN_LENGTH_MIN:
        raise SettingsError(
            f"`{TOKEN_VARIABLE}` has {len(token)} characters, fewer than {TOKEN_LENGTH_MIN}",
            "make a longer one: `openssl rand -hex 32`",
        )
    return token

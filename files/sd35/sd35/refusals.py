"""How a request is refused: everywhere in the shape of OpenAI's API, so that its clients show the sentence."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi.responses import JSONResponse


class Refusal(Exception):
    """The request is not done. `str()` is one sentence; `code` says it to a program; `param` names the field."""

    def __init__(
        self, status: int, code: str, message: str, param: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param
        self.headers = headers

    def response(self) -> JSONResponse:
        """Its answer."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        error = {"message": str(self), "type": kind, "param": self.param, "code": self.code}
        return JSONResponse({"error": error}, self.status, self.headers)

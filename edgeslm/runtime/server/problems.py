"""What goes wrong, as HTTP answers in the form that OpenAI's clients understand."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import msgspec
from starlette.responses import Response

from edgeslm.errors import Busy, EdgeslmError, NotFound, PromptTooLong, UserError
from edgeslm.runtime.server import bodies

RETRY_AFTER = "2"


class Refused(Exception):
    """A request that is answered with a status and a reason."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


_KINDS = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


def problem(
    status: int,
    message: str,
    headers: Mapping[str, str] | None = None,
    *,
    code: str | None = None,
) -> Response:
    """The answer for a problem."""
    body = msgspec.json.encode(_body(status, message, code))
    return Response(body, status, headers=headers, media_type="application/json")


def of_error(error: Exception) -> Response:
    """The answer for an exception; one that is nobody's intention says nothing of itself."""
    status = _status_of(error)
    headers = {"Retry-After": RETRY_AFTER} if status == 429 else None
    body = msgspec.json.encode(body_of(error))
    return Response(body, status, headers=headers, media_type="application/json")


def body_of(error: Exception) -> bodies.ProblemBody:
    """The body for an exception; one that nobody intended is logged."""
    status = _status_of(error)
    if status == 500:
        logging.getLogger("edgeslm.server").error("a request failed", exc_info=error)
    return _body(status, _message_of(error), _code_of(error))


def _body(status: int, message: str, code: str | None) -> bodies.ProblemBody:
    kind = _KINDS.get(status, "invalid_request_error" if status < 500 else "server_error")
    return bodies.ProblemBody(bodies.Problem(message, kind, code))


def _code_of(error: Exception) -> str | None:
    """By which programs tell problems apart."""
    if isinstance(error, PromptTooLong):
        return "context_length_exceeded"
    return "model_not_found" if isinstance(error, NotFound) else None


def _status_of(error: Exception) -> int:
    if isinstance(error, Refused):
        return error.status
    if isinstance(error, Busy):
        return 429
    if isinstance(error, NotFound):
        return 404
    return 400 if isinstance(error, UserError | msgspec.DecodeError) else 500


def _message_of(error: Exception) -> str:
    if isinstance(error, EdgeslmError):
        return f"{error.message}. {error.hint}" if error.hint else error.message
    if isinstance(error, Refused):
        return error.message
    if isinstance(error, msgspec.DecodeError):
        return f"the body is not what is expected: {error}"
    return "something went wrong in the server"

"""From the raw body to a JSON object. Pure; called only after the request was verified."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from coding_agent_core.errors import CodingAgentError


class BodyError(CodingAgentError):
    """The body cannot be read as a webhook's payload.

    Attributes:
        status: HTTP status of the answer: 400, 413, 415 or 422.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def require_json(content_type: str | None) -> None:
    """Refuse what is not declared as JSON.

    Raises:
        BodyError: 415.
    """
    media_type = (content_type or "").split(";", 1)[0].strip().lower()
    if media_type != "application/json":
        raise BodyError(
            415, "the content type must be application/json; choose it in the settings of the webhook"
        )


def decode(body: bytes) -> dict[str, Any]:
    """The payload's object.

    Of duplicate keys the last wins, as with the forges' own parsers.

    Raises:
        BodyError: 400 for what is not JSON in UTF-8, 422 for JSON that is no object.
    """
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BodyError(400, f"the body is not UTF-8 (byte {error.start})") from error
    try:
        payload = json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise BodyError(
            400, f"the body is not JSON or was cut short (line {error.lineno}, column {error.colno})"
        ) from error
    except RecursionError as error:
        raise BodyError(400, "the body's JSON is nested too deeply") from error
    except ValueError as error:  # an integer of more digits than Python converts
        raise BodyError(400, "the body's JSON has a number that is too long") from error
    if not isinstance(payload, dict):
        raise BodyError(422, "the body's JSON is not an object")
    return payload


def _refuse_constant(name: str) -> NoReturn:
    raise BodyError(400, f"the body is not JSON: {name} is no JSON value")

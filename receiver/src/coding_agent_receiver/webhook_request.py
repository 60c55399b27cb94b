"""Reads the client's address and the JSON body of a webhook's request. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NoReturn

from coding_agent_core.errors import CodingAgentError
from coding_agent_core.platforms.addresses import Address, Network, contains, parse_address


def client_address(peer: str, forwarded: Sequence[str], trusted: Sequence[Network]) -> Address | None:
    """Return the address of the client: the right-most hop that is not a trusted proxy.

    The client itself can write any hop left of this one.

    Args:
        peer: the address of the connection's other end.
        forwarded: the X-Forwarded-For headers in order. They count only if the peer is a trusted proxy.
        trusted: the networks in `webhook.trusted_proxies`.

    Returns:
        The address; `None` if the peer has no IP address (a Unix socket).
    """
    address = parse_address(peer)
    if address is None:
        return None
    hops = [hop for header in forwarded for hop in header.split(",")]
    while hops and contains(trusted, address):
        hop = parse_address(hops.pop())
        if hop is None:  # the proxy wrote `unknown`, so the proxy itself is the nearest known hop
            break
        address = hop
    return address


class BodyError(CodingAgentError):
    """The error if the body cannot be read as a webhook's payload.

    Attributes:
        status: the HTTP status of the answer: 400, 408, 413, 415 or 422.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def require_json(content_type: str | None) -> None:
    """Refuse a content type other than JSON.

    Raises:
        BodyError: 415, because the content type is another one.
    """
    media_type = (content_type or "").split(";", 1)[0].strip().lower()
    if media_type != "application/json":
        raise BodyError(
            415, "the content type must be application/json; choose it in the settings of the webhook"
        )


def decode_payload(body: bytes | bytearray) -> dict[str, Any]:
    """Parse the payload's object. If a key is repeated, the last value wins, as with the forges' own parsers.

    Raises:
        BodyError: 400 if the body is not JSON in UTF-8, 422 if the JSON is not an object.
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
    except ValueError as error:  # an integer with more digits than Python converts
        raise BodyError(400, "the body's JSON has a number that is too long") from error
    if not isinstance(payload, dict):
        raise BodyError(422, "the body's JSON is not an object")
    return payload


def _refuse_constant(name: str) -> NoReturn:
    raise BodyError(400, f"the body is not JSON: {name} is not a JSON value")

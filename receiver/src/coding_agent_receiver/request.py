"""A webhook's request: who sends it, whether the forge does, and what its body holds. Pure.

Nothing is parsed before it is verified. A header that is missing, malformed or not ASCII does not verify.
Every valid secret is always compared, in constant time, so that the time of an answer reveals nothing about
them.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, NoReturn, Protocol

from coding_agent_core.errors import CodingAgentError

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
_LARGEST = 2**53
"""Larger integers are not item or project numbers, and lose digits in other JSON readers."""
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_SIGNATURE = re.compile(r"sha256=([0-9a-fA-F]{64})", re.ASCII)


def client_address(peer: str, forwarded: Sequence[str], trusted: Sequence[Network]) -> Address | None:
    """The right-most hop that is not a trusted proxy; the client itself can write any hop left of it.

    Args:
        peer: address of the connection.
        forwarded: the X-Forwarded-For headers in order; believed only where the peer is a trusted proxy.
        trusted: `webhook.trusted_proxies`.

    Returns:
        `None` where the peer has no IP address (a Unix socket).
    """
    address = parse_address(peer)
    if address is None:
        return None
    hops = [hop for header in forwarded for hop in header.split(",")]
    while hops and contains(trusted, address):
        hop = parse_address(hops.pop())
        if hop is None:  # the proxy wrote `unknown`: the proxy itself is the nearest known hop
            break
        address = hop
    return address


@lru_cache(maxsize=1024)
def parse_address(text: str) -> Address | None:
    """An address as proxies write it, also with port or brackets; IPv4 inside IPv6 is unwrapped."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def contains(networks: Iterable[Network], address: Address) -> bool:
    """Whether the address is in one of the networks."""
    return any(address in network for network in networks)


@lru_cache(maxsize=1024)
def client_group(address: Address | None) -> str:
    """What shares one limit: an IPv4 address, or an IPv6 /64, whose addresses all belong to one client."""
    if address is None:
        return "local"
    if isinstance(address, IPv6Address):
        return str(ip_network((address, 64), strict=False))
    return str(address)


class Verification(Protocol):
    """The check of one request, fed with its raw body as it arrives."""

    def update(self, chunk: bytes) -> None: ...

    def valid(self) -> bool: ...


class GitHubSignature:
    """`X-Hub-Signature-256`: the HMAC-SHA256 of the raw body with one of the secrets."""

    def __init__(self, given: bytes, secrets: Sequence[str]) -> None:
        self._given = given
        self._macs = [hmac.new(_encoded(secret), digestmod=hashlib.sha256) for secret in secrets if secret]

    @staticmethod
    def of(header: str | None, secrets: Sequence[str]) -> GitHubSignature | None:
        """The check, or `None` if no body can pass it: a malformed header, or no secret.

        The older `X-Hub-Signature` (SHA-1) is not accepted: GitHub keeps it for old receivers only.
        """
        match = _SIGNATURE.fullmatch(header or "")
        return GitHubSignature(bytes.fromhex(match.group(1)), secrets) if match and any(secrets) else None

    def update(self, chunk: bytes) -> None:
        for mac in self._macs:
            mac.update(chunk)

    def valid(self) -> bool:
        return _any(hmac.compare_digest(mac.digest(), self._given) for mac in self._macs)


class GitLabToken:
    """`X-Gitlab-Token`, which does not depend on the body."""

    @staticmethod
    def of(header: str | None, tokens: Sequence[str]) -> GitLabToken | None:
        """The check, or `None` if the header is not one of the tokens.

        Args:
            header: as ASGI servers give it, decoded as Latin-1.
        """
        try:
            given = (header or "").encode("latin-1")
        except UnicodeEncodeError:
            return None
        matches = _any(hmac.compare_digest(_encoded(token), given) for token in tokens if token)
        return GitLabToken() if given and matches else None

    def update(self, chunk: bytes) -> None:
        pass

    def valid(self) -> bool:
        return True


def _encoded(secret: str) -> bytes:
    return secret.encode("utf-8", "surrogateescape")


def _any(results: Iterable[bool]) -> bool:
    # A list first: `any` over a generator stops at the first match.
    return any(list(results))


class BodyError(CodingAgentError):
    """The body cannot be read as a webhook's payload.

    Attributes:
        status: HTTP status of the answer: 400, 408, 413, 415 or 422.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def require_json(content_type: str | None) -> None:
    """Refuse a content type other than JSON.

    Raises:
        BodyError: 415.
    """
    media_type = (content_type or "").split(";", 1)[0].strip().lower()
    if media_type != "application/json":
        raise BodyError(
            415, "the content type must be application/json; choose it in the settings of the webhook"
        )


def decode_payload(body: bytes | bytearray) -> dict[str, Any]:
    """The payload's object.

    Of duplicate keys the last wins, as with the forges' own parsers.

    Raises:
        BodyError: 400 for what is not JSON in UTF-8, 422 for JSON that is not an object.
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
    raise BodyError(400, f"the body is not JSON: {name} is not a JSON value")


class FieldError(CodingAgentError):
    """A field of a relevant event is missing or has the wrong type; answered 422.

    Attributes:
        field: its path, e.g. `issue.number`.
    """

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field


class Fields:
    """A JSON object of the payload that knows its own path."""

    def __init__(self, data: Mapping[str, Any], path: str = "") -> None:
        self._data = data
        self._path = path

    def has(self, name: str) -> bool:
        """Whether the field is present and not null."""
        return self._data.get(name) is not None

    def object(self, name: str) -> Fields:
        value = self._present(name)
        if not isinstance(value, Mapping):
            raise FieldError(self._at(name), "must be an object")
        return Fields(value, self._at(name))

    def objects(self, name: str) -> list[Fields]:
        """The objects of a list; none where it is missing or null."""
        value = self._data.get(name)
        if value is None:
            return []
        if not isinstance(value, list):
            raise FieldError(self._at(name), "must be a list")
        found = []
        for index, entry in enumerate(value):
            path = f"{self._at(name)}[{index}]"
            if not isinstance(entry, Mapping):
                raise FieldError(path, "must be an object")
            found.append(Fields(entry, path))
        return found

    def text(self, name: str) -> str:
        value = self._present(name)
        if not isinstance(value, str):
            raise FieldError(self._at(name), "must be a string")
        return value

    def matching(self, name: str, pattern: re.Pattern[str], what: str) -> str:
        value = self.text(name)
        if not pattern.fullmatch(value):
            raise FieldError(self._at(name), f"is not a {what}")
        return value

    def url(self, name: str) -> str:
        """An http(s) URL of at most 2,048 characters."""
        value = self.text(name)
        if not value.startswith(("https://", "http://")) or len(value) > 2048 or value != display_text(value):
            raise FieldError(self._at(name), "is not an http(s) URL")
        return value

    def optional_text(self, name: str) -> str:
        """A string, empty where it is missing or null."""
        return self.text(name) if self.has(name) else ""

    def flag(self, name: str) -> bool:
        """A boolean, false where it is missing or null."""
        value = self._data.get(name)
        if value is None:
            return False
        if not isinstance(value, bool):
            raise FieldError(self._at(name), "must be true or false")
        return value

    def number(self, name: str) -> int:
        value = self._present(name)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < _LARGEST:
            raise FieldError(self._at(name), "must be a positive integer")
        return value

    def integer(self, name: str) -> int | None:
        """An integer of any sign, `None` where it is missing or null."""
        value = self._data.get(name)
        if isinstance(value, bool) or not isinstance(value, int | None):
            raise FieldError(self._at(name), "must be an integer")
        return value

    def _present(self, name: str) -> Any:
        if name not in self._data:
            raise FieldError(self._at(name), "is missing")
        value = self._data[name]
        if value is None:
            raise FieldError(self._at(name), "must not be null")
        return value

    def _at(self, name: str) -> str:
        return f"{self._path}.{name}" if self._path else name


def display_text(text: str) -> str:
    """Text without control characters and lone surrogates, to be shown to people."""
    return _UNPRINTABLE.sub(" ", text.encode("utf-8", "replace").decode("utf-8"))

"""Who sends this request, and is it from the forge? Pure: addresses, headers, bytes; nothing is parsed.

A header that is missing, malformed or not ASCII does not verify. Every valid secret is always compared, in
constant time, so that the time of an answer reveals nothing about them.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Protocol

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
_SIGNATURE = re.compile(r"sha256=([0-9a-fA-F]{64})", re.ASCII)


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

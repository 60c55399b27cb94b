"""The addresses of clients and servers, and the groups of clients that share a limit. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import urlsplit

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
MAX_PLACE = 1024
"""Maximum number of characters of a transcript's place or web address."""


@lru_cache(maxsize=1024)
def parse_address(text: str) -> Address | None:
    """Parse an address as proxies write it, also with port or brackets; IPv4 in IPv6 becomes IPv4."""
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
    """Return the group of a client, which shares one limit: an IPv4 address, or an IPv6 /64."""
    if address is None:
        return "local"
    if isinstance(address, IPv6Address):
        return str(ip_network((address, 64), strict=False))
    return str(address)


@lru_cache(maxsize=256)
def host_of(url: str) -> str:
    """Return the host of an http(s) URL in lower case, with its port if any.

    Raises:
        ValueError: the URL has no host.
    """
    parts = urlsplit(url)
    if not parts.hostname:
        raise ValueError(f"{url!r} has no host; give a URL such as https://forge.example.com")
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.hostname}{port}"

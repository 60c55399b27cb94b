"""Addresses of clients, and which clients share a limit. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


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
    """Return the group that shares one limit: an IPv4 address, or an IPv6 /64, which is one client's."""
    if address is None:
        return "local"
    if isinstance(address, IPv6Address):
        return str(ip_network((address, 64), strict=False))
    return str(address)

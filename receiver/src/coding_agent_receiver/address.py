"""Whose request is it? Pure: peer, X-Forwarded-For headers and trusted proxies in, an address out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


def client_address(peer: str, forwarded: Sequence[str], trusted: Sequence[Network]) -> Address | None:
    """The right-most hop that is not a trusted proxy: whatever stands left of it, the client itself wrote.

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
        if hop is None:  # the proxy wrote no address (`unknown`): the proxy itself is the nearest we know
            break
        address = hop
    return address


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


def client_group(address: Address | None) -> str:
    """What is limited together: an IPv4 address, or an IPv6 /64, of which one client has all addresses."""
    if address is None:
        return "local"
    if isinstance(address, IPv6Address):
        return str(ip_network((address, 64), strict=False))
    return str(address)

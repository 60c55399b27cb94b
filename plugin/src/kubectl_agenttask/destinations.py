"""Turns the destinations of attempts into values of the chart's NetworkPolicies. Pure."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

_ANYWHERE = ("0.0.0.0/0", "::/0")
_HTTPS = 443
NAMESPACE_LABEL = "kubernetes.io/metadata.name"
"""The label that each namespace has: https://kubernetes.io/docs/reference/labels-annotations-taints/"""
_SERVICE = re.compile(r"([a-z0-9-]+)\.([a-z0-9-]+)\.svc(\..+)?")
"""The DNS name of a Service, with or without the cluster's domain:
https://kubernetes.io/docs/concepts/services-networking/dns-pod-service/
"""


@dataclass(frozen=True)
class ServicePods:
    """The pods behind a Service.

    Attributes:
        labels: the Service's selector.
        ports: the ports of the pods, which can differ from the Service's.
    """

    namespace: str
    labels: Mapping[str, str]
    ports: tuple[int, ...]

    def values(self) -> dict[str, Any]:
        """Return what a NetworkPolicy must allow.

        It names the pods, because most network plugins compare a connection with a policy only after the
        address of the Service was replaced with that of a pod.
        """
        namespace = {"matchLabels": {NAMESPACE_LABEL: self.namespace}}
        peer = {"namespaceSelector": namespace, "podSelector": {"matchLabels": dict(self.labels)}}
        return {"to": [peer], "ports": list(self.ports)}


@dataclass(frozen=True)
class Destination:
    """The API of a forge or a model.

    Attributes:
        address: its IP address; `None` if it is not known here.
        pods: the pods behind it, if it is a Service of the cluster.
        unknown: whether it is a Service whose pods are not known here.
    """

    url: str
    address: str | None = None
    pods: ServicePods | None = None
    unknown: bool = False

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        parts = urlsplit(self.url)
        return parts.port or (_HTTPS if parts.scheme == "https" else 80)

    @property
    def service(self) -> tuple[str, str] | None:
        """The name and namespace of the Service, if the URL has its DNS name."""
        found = _SERVICE.fullmatch(self.host)
        return None if found is None else (found[1], found[2])

    @property
    def private(self) -> bool:
        """Whether the address is known and not public."""
        return self.address is not None and not ipaddress.ip_address(self.address).is_global

    def values(self) -> dict[str, Any]:
        """Return what a NetworkPolicy must allow in addition to public addresses on port 443."""
        if self.pods is not None:
            return self.pods.values()
        found: dict[str, Any] = {}
        if self.address is not None and self.private:
            length = ipaddress.ip_address(self.address).max_prefixlen
            found["cidrs"] = [*_ANYWHERE, f"{self.address}/{length}"]
        if self.port != _HTTPS:
            found["ports"] = [self.port]
        return found


def network_values(earlier: Any, destination: Destination) -> dict[str, Any]:
    """Return the section of a destination in `networkPolicy`, where `None` removes a value.

    Values of an earlier run go, because they may be for another address. A section that has anything that no
    run writes is a person's, whose values stay unless ours replace them. If the destination's pods or
    address are not known here, what the earlier section says of them stays too.

    Args:
        earlier: the section in an earlier values file, if it has one.
    """
    if destination.unknown:
        return {}
    found = destination.values()
    if not isinstance(earlier, Mapping) or not _written_here(earlier):
        return found
    known = destination.pods is not None or destination.address is not None
    return {key: None for key in earlier if known or key == "ports"} | found


def _written_here(section: Mapping[str, Any]) -> bool:
    """Whether a section has only what `Destination.values` returns."""
    forms = {"cidrs": _is_our_cidrs, "to": _is_our_peer, "ports": _is_list}
    return all(key in forms and forms[key](value) for key, value in section.items())


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _is_our_cidrs(value: Any) -> bool:
    return (
        _is_list(value)
        and len(value) == 3
        and tuple(value[:2]) == _ANYWHERE
        and str(value[2]).endswith(("/32", "/128"))
    )


def _is_our_peer(value: Any) -> bool:
    if not _is_list(value) or len(value) != 1 or not isinstance(value[0], Mapping):
        return False
    return set(value[0]) == {"namespaceSelector", "podSelector"}

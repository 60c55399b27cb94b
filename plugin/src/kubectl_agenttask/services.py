"""Finds out where a URL leads: its address, and the pods behind it if it is a Service of the cluster."""

from __future__ import annotations

import socket
from contextlib import suppress
from dataclasses import replace
from typing import Any

from kubernetes import client
from kubernetes.client.exceptions import NotFoundException

from kubectl_agenttask import DeniedError, PluginError
from kubectl_agenttask.cluster_client import sentences
from kubectl_agenttask.destinations import Destination, ServicePods

_TIMEOUT = 10
"""Maximum number of seconds for one request."""
_SLICE_OF = "kubernetes.io/service-name"


class UnknownPodsError(PluginError):
    """A Service is, or may be, behind a URL, and its pods are not known."""


def destination_of(url: str) -> Destination:
    """Return a URL with the address of its host, if this machine knows it."""
    found = Destination(url)
    with suppress(OSError):
        found = replace(found, address=str(socket.getaddrinfo(found.host, None)[0][4][0]))
    return found


def pods_behind(api_client: Any, destination: Destination) -> ServicePods | None:
    """Return the pods of the Service that a URL names by its DNS name or ClusterIP; `None` for other URLs.

    Raises:
        UnknownPodsError: they cannot be found.
        PluginError: the API server did not answer.
    """
    core: Any = client.CoreV1Api(api_client)
    try:
        if destination.service is not None:
            service = _named(core, *destination.service)
        elif destination.private:
            service = _at(core, str(destination.address))
        else:
            return None
        # The DNS name of an ExternalName leads out of the cluster.
        if service is None or service.spec.type == "ExternalName":
            return None
        return _pods_of(api_client, service, destination.port)
    except DeniedError as error:
        raise UnknownPodsError(str(error)) from error


def _named(core: Any, name: str, namespace: str) -> Any:
    with sentences(f"get service {name} in namespace {namespace}"):
        try:
            return core.read_namespaced_service(name, namespace, _request_timeout=_TIMEOUT)
        except NotFoundException:
            return None


def _at(core: Any, address: str) -> Any:
    # Kubernetes 1.31, the oldest that the chart takes, was the first with this field selector:
    # https://github.com/kubernetes/kubernetes/pull/123905
    with sentences("list services of all namespaces"):
        found = core.list_service_for_all_namespaces(
            field_selector=f"spec.clusterIP={address}", _request_timeout=_TIMEOUT
        )
    return found.items[0] if found.items else None


def _pods_of(api_client: Any, service: Any, port: int) -> ServicePods:
    name, namespace, spec = service.metadata.name, service.metadata.namespace, service.spec
    about = f"the Service {name} in namespace {namespace}"
    if not spec.selector:
        raise UnknownPodsError(f"{about} has no selector")
    if spec.cluster_ip == "None":
        # Its name leads to the pods, so nothing replaces the port.
        return ServicePods(namespace, spec.selector, (port,))
    [entry] = [one for one in spec.ports if one.port == port and one.protocol == "TCP"] or [None]
    if entry is None:
        raise UnknownPodsError(f"{about} has no port {port}")
    ports = _target_ports(api_client, service, entry)
    if not ports:
        raise UnknownPodsError(f"no pod of {about} has the port {entry.target_port!r} now")
    return ServicePods(namespace, spec.selector, ports)


def _target_ports(api_client: Any, service: Any, entry: Any) -> tuple[int, ...]:
    """Return the ports of the pods for a port of their Service. A name can mean another port in each pod."""
    if entry.target_port is None or isinstance(entry.target_port, int):
        return (entry.target_port or entry.port,)
    name, namespace = service.metadata.name, service.metadata.namespace
    with sentences(f"list endpointslices in namespace {namespace}"):
        found = client.DiscoveryV1Api(api_client).list_namespaced_endpoint_slice(
            namespace, label_selector=f"{_SLICE_OF}={name}", _request_timeout=_TIMEOUT
        )
    ports: set[int] = {
        one.port
        for part in found.items
        for one in part.ports or ()
        if one.port is not None and (one.name or "") == (entry.name or "")
    }
    return tuple(sorted(ports))

"""The addresses of a cluster, chosen so that several clusters never meet."""

import fcntl
import os
import random
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from ipaddress import ip_network

from coding_agent_testbed.cluster.errors import MachineError
from coding_agent_testbed.cluster.paths import cache_root

LOOPBACK = "127.0.0.1"
# Below the range that Linux gives to outgoing connections (32768 and up, ip(7)), so that a port stays ours
# while a killed API server is down.
_PORTS = range(20000, 32000)
SLOTS = range(16)
HOST_INTERFACE = "ca-host{slot}"
_drawing = threading.Lock()
_drawn: set[int] = set()


@dataclass(frozen=True)
class Network:
    """Where a control plane listens, and the ranges that it gives to services and pods.

    ``slot`` numbers the clusters with a node on one machine; a control plane alone has none.
    """

    address: str
    api_port: int
    etcd_port: int
    etcd_peer_port: int
    services: str
    pods: str
    slot: int | None = None

    @property
    def api_url(self) -> str:
        """The API server's URL."""
        return f"https://{self.address}:{self.api_port}"

    @property
    def etcd_url(self) -> str:
        """The URL of etcd for clients; always on the loopback interface."""
        return f"http://{LOOPBACK}:{self.etcd_port}"

    @property
    def api_service(self) -> str:
        """The ClusterIP of the service ``kubernetes``: the first of the range (Kubernetes' rule)."""
        return str(ip_network(self.services)[1])

    @property
    def dns_service(self) -> str:
        """The ClusterIP of the service ``kube-dns``: the tenth, as kubeadm does."""
        return str(ip_network(self.services)[10])

    @property
    def host_address(self) -> str:
        """This machine's end of the cable to the node."""
        return self.address.rsplit(".", 1)[0] + ".1"

    @property
    def host_interface(self) -> str:
        """The name of this machine's end of the cable to the node."""
        return HOST_INTERFACE.format(slot=self.slot)


def node_network(slot: int) -> Network:
    """The addresses of the cluster in that slot: 10.99.SLOT.2, with a /20 of services and a /24 of pods."""
    if slot not in SLOTS:
        raise ValueError(f"slot {slot}: 0 to {SLOTS.stop - 1}")
    return Network(
        address=f"10.99.{slot}.2",
        api_port=6443,
        etcd_port=2379,
        etcd_peer_port=2380,
        services=f"10.96.{slot * 16}.0/20",
        pods=f"10.244.{slot}.0/24",
        slot=slot,
    )


def loopback_network() -> Network:
    """Addresses for a control plane alone: three free ports of the loopback interface, drawn by chance."""
    api, etcd, peer = free_ports(3)
    return Network(LOOPBACK, api, etcd, peer, services="10.96.0.0/20", pods="10.244.0.0/24")


def free_ports(count: int, choose: Callable[[range], int] = random.choice) -> list[int]:
    """``count`` different ports that nothing listens on now.

    This function gives each to one caller while this process runs, and to no other process. A program that
    does not use it can still take one; whoever starts a server tries again with others.

    Raises:
        MachineError: there seem to be none.
    """
    ports: list[int] = []
    for _ in range(1000):
        port = choose(_PORTS)
        if _reserve(port) and _is_free(port):
            ports.append(port)
        if len(ports) == count:
            return ports
    raise MachineError(f"no {count} free ports between {_PORTS.start} and {_PORTS.stop - 1}")


@cache
def _reservations() -> int:
    """A file in which each byte stands for a port. The kernel drops the locks of a process that ends."""
    file = cache_root() / "ports"
    file.parent.mkdir(parents=True, exist_ok=True)
    return os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)


def _reserve(port: int) -> bool:
    """Whether the port was still undrawn; whoever has drawn one may not listen there yet."""
    with _drawing:
        if port in _drawn:  # the kernel gives a process its own lock again
            return False
        try:
            fcntl.lockf(_reservations(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
        except (BlockingIOError, PermissionError):  # either, fcntl(2)
            return False
        _drawn.add(port)
        return True


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True

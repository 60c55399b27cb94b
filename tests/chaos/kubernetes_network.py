"""Network faults of the system on Kubernetes: packets that the node's firewall drops, and slow connections.

A rule of the firewall counts the packets that it has dropped: that is what such a fault has hit.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from coding_agent_testbed.cluster.commands import run
from coding_agent_testbed.cluster.network import LOOPBACK

from tests.chaos.processes import children_of
from tests.chaos.world import Effect, NothingToBreakError, StartFault, Undo

if TYPE_CHECKING:
    from tests.chaos.kubernetes_world import KubernetesWorld

_IPTABLES = ("iptables", "-w", "10")
_LOOK_SECONDS = 0.3
"""How often the kubelet's connections are looked at while it is cut off."""
_rules = count(1)
Run = Callable[..., str]
"""Runs a command in a network namespace, and returns what it prints."""


def network_faults(
    world: KubernetesWorld,
    attempt: Callable[[Random], tuple[str, int]],
    guarded: Callable[[str, StartFault], StartFault],
) -> Mapping[str, StartFault]:
    """Every kind of network fault of the world.

    Args:
        attempt: the address of an attempt's pod, and a process of its agent.
        guarded: makes a fault of a part of the cluster that is broken alone, and waits until it serves.
    """
    network, proxy, sandboxes = world.cluster.network, world.proxy, world.sandboxes
    here = network.host_address
    forge, model = sandboxes.forge_way, sandboxes.model_way

    def cut(component: str, port: int) -> StartFault:
        def start(random: Random) -> Undo:
            source = world.pods.one(component, random).address if component else network.pods
            return drop(world.inside, "FORWARD", "-s", source, "-d", here, "-p", "tcp", "--dport", str(port))

        return start

    def cut_receiver(random: Random) -> Undo:
        receiver = world.pods.one("receiver", random).address
        return drop(world.inside, "FORWARD", "-s", here, "-d", receiver, "-p", "tcp", "--dport", "8000")

    def cut_gateway(random: Random) -> Undo:
        # The gateway is a server in the agent's process, and listens on the loopback interface of the pod.
        _, pid = attempt(random)
        return _drop_in_namespace_of(pid, "INPUT", "-i", "lo", "-p", "tcp")

    def slow_reporter(random: Random) -> Undo:
        source = world.pods.one("reporter", random).address
        return forge.delay(random.uniform(0.5, 3.0), frozenset({source}))

    def cut_etcd(_: Random) -> Undo:
        match = ("-d", LOOPBACK, "-p", "tcp", "--dport", str(network.etcd_port))
        return drop(world.inside, "OUTPUT", *match)

    return {
        **{
            f"cut {name} from API server": cut(name, proxy.port)
            for name in ("receiver", "operator", "reporter")
        },
        "cut every pod from API server": cut("", proxy.port),
        "cut reporter from forge": cut("reporter", forge.port),
        "cut every pod from forge": cut("", forge.port),
        "cut attempts from model": cut("", model.port),
        "cut agent from gateway": cut_gateway,
        "cut forge from a receiver": cut_receiver,
        "cut API server from etcd": guarded("etcd", cut_etcd),
        "cut kubelet from API server": guarded("kubelet", lambda _: cut_kubelet(world)),
        "delay between reporter and forge": slow_reporter,
    }


def drop(inside: Run, chain: str, *match: str) -> Undo:
    """Drop the packets that match, also on existing connections, and count them."""
    mark = f"chaos-{next(_rules)}"
    rule = [chain, *match, "-m", "comment", "--comment", mark, "-j", "DROP"]
    inside(*_IPTABLES, "-I", *rule)

    def undo() -> Effect:
        packets = dropped(inside(*_IPTABLES, "-nvxL", chain), mark)
        inside(*_IPTABLES, "-D", *rule)
        return Effect(packets, "packets dropped")

    return undo


def dropped(listing: str, mark: str) -> int:
    """How many packets the rule with this comment has dropped.

    Args:
        listing: what `iptables -nvxL` says of a chain.
    """
    rules = [line for line in listing.splitlines() if re.search(rf"/\* {re.escape(mark)} \*/", line)]
    return sum(int(rule.split()[0]) for rule in rules)


def _drop_in_namespace_of(pid: int, chain: str, *match: str) -> Undo:
    """As `drop`, in the network namespace of a process, which may end before the fault does."""
    with ExitStack() as stack:
        try:
            namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
        except OSError as error:
            raise NothingToBreakError(f"the agent has just ended: {error}") from error
        stack.callback(os.close, namespace)
        enter = ["nsenter", f"--net=/proc/{os.getpid()}/fd/{namespace}"]
        undo = drop(lambda *command: run([*enter, *command]), chain, *match)
        held = stack.pop_all()

    def end() -> Effect:
        with held:
            return undo()

    return end


def cut_kubelet(world: KubernetesWorld) -> Undo:
    """Drop the kubelet's packets to the API server.

    Both have the node's address, and so does every program of the control plane. So the rules name the
    kubelet's connections by their ports, and no program on the node gets a new connection to the API server.
    Most programs keep one connection for as long as they run.
    """
    network = world.cluster.network
    _kubelet(world)
    to_server = ["-s", network.address, "-d", network.address, "-p", "tcp", "--dport", str(network.api_port)]
    undo = [drop(world.inside, "OUTPUT", *to_server, "--syn")]
    seen: set[int] = set()
    over = threading.Event()

    def look() -> None:
        for port in _ports_to(_kubelet(world), network.api_port) - seen:
            seen.add(port)
            undo.append(drop(world.inside, "OUTPUT", *to_server, "--sport", str(port)))

    def follow() -> None:  # a connection may have begun as the first rule was made
        while not over.wait(_LOOK_SECONDS):
            look()

    def remove_rules() -> list[Effect]:
        return [one() for one in undo]

    with ExitStack() as stack:
        stack.callback(remove_rules)
        look()
        stack.pop_all()
    follower = threading.Thread(target=follow, daemon=True)
    follower.start()

    def end() -> Effect:
        over.set()
        follower.join()
        first, *others = remove_rules()
        packets = sum(one.count for one in others)
        what = f"packets of {len(others)} connections dropped, and {first.count} new connections refused"
        return Effect(packets, what)

    return end


def _kubelet(world: KubernetesWorld) -> Sequence[int]:
    """The kubelet's processes: a shell that starts it again, and the kubelet."""
    if (shell := world.cluster.processes.pid("kubelet")) is None:
        raise NothingToBreakError("the kubelet does not run")
    return [shell, *children_of(shell)]


def _ports_to(pids: Sequence[int], port: int) -> set[int]:
    """The own ports of the processes' connections to that port."""
    inodes: set[str] = set()
    tables: set[str] = set()
    for pid in pids:
        try:
            tables |= {Path(f"/proc/{pid}/net/{name}").read_text() for name in ("tcp", "tcp6")}
            links = [os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()]
        except OSError:  # it has ended, or has just closed one
            continue
        inodes |= {link[len("socket:[") : -1] for link in links if link.startswith("socket:[")}
    return {own for table in tables for own, inode in connections_to(table, port) if inode in inodes}


def connections_to(table: str, port: int) -> set[tuple[int, str]]:
    """Own port and inode of each connection to that port.

    Args:
        table: as of `/proc/PID/net/tcp`, proc(5).
    """
    rows = [line.split() for line in table.splitlines()[1:]]
    return {
        (int(row[1].rpartition(":")[2], 16), row[9])
        for row in rows
        if int(row[2].rpartition(":")[2], 16) == port
    }

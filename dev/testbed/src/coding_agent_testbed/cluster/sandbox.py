"""The node's own world: network, mount, process, host name and IPC namespaces below one first process.

Everything of the cluster runs below that process. When it dies the kernel ends them all, and with the
namespaces go every mount, interface and firewall rule: going down cannot leave much behind.
"""

import contextlib
import signal
from pathlib import Path

from coding_agent_testbed.cluster import paths, pause
from coding_agent_testbed.cluster.commands import run
from coding_agent_testbed.cluster.errors import ClusterError
from coding_agent_testbed.cluster.locks import locked
from coding_agent_testbed.cluster.network import HOST_INTERFACE, Network
from coding_agent_testbed.cluster.pki import NODE_NAME
from coding_agent_testbed.cluster.processes import Processes
from coding_agent_testbed.until import until

NAME = "sandbox"
_NODE_INTERFACE = "eth0"
# Where libcni remembers what it did; containerd has no setting for it.
_CNI_CACHE = "/var/lib/cni"


def init_command(pause_binary: Path) -> list[str]:
    """The command that makes the namespaces and stays as their first process.

    Mounts must propagate inside, for the kubelet's volumes to reach containers (``make-rshared``). Memory
    is mounted where containerd and its helpers leave sockets and notes, so that those go with the rest.
    That ``unshare`` dies with its child, and the child with it (``--kill-child``), leaves no half behind.
    """
    steps = [
        "mount --make-rshared /",
        f"mount -t tmpfs tmpfs /run && mkdir {paths.SOCKETS}",
        f"mkdir -p {_CNI_CACHE} && mount -t tmpfs tmpfs {_CNI_CACHE}",
        f"hostname {NODE_NAME}",
        f"exec {pause_binary}",
    ]
    script = " && ".join(steps)
    flags = ["--net", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child", "--mount-proc"]
    return ["unshare", *flags, "sh", "-c", script]


def cable_commands(network: Network, pid: int) -> list[list[str]]:
    """The commands that connect this machine and the node by a pair of virtual interfaces.

    The node gets no default route: nothing in it can reach the internet or this machine's networks. A
    local process' route look-up comes before kube-proxy's translation of service addresses, so those need
    a route of their own; this machine gets routes to services and pods, for tests and for kubectl.
    """
    host, node = network.host_interface, _NODE_INTERFACE
    inside = ["nsenter", "-t", str(pid), "-n"]
    return [
        ["ip", "link", "add", host, "type", "veth", "peer", "name", node, "netns", str(pid)],
        ["ip", "address", "add", f"{network.host_address}/24", "dev", host],
        ["ip", "link", "set", host, "up"],
        [*inside, "ip", "link", "set", "lo", "up"],
        [*inside, "ip", "address", "add", f"{network.address}/24", "dev", node],
        [*inside, "ip", "link", "set", node, "up"],
        [*inside, "ip", "route", "add", network.services, "dev", node, "src", network.address],
        ["ip", "route", "add", network.services, "via", network.address, "dev", host],
        ["ip", "route", "add", network.pods, "via", network.address, "dev", host],
        [*inside, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"],
    ]


def is_up(processes: Processes) -> bool:
    """Whether the sandbox of that cluster exists."""
    return processes.pid(NAME) is not None


def up(processes: Processes, network: Network) -> None:
    """Make the sandbox and its cable.

    Raises:
        ClusterError: this machine does not allow it; the message is the refused command's.
    """
    unshare, *arguments = init_command(pause.binary())
    with locked(_cache_lock()):
        # unshare itself stays outside; its child, the first process inside, is the one that matters.
        processes.start(NAME, arguments, enter=[unshare])
        pid = processes.pid(NAME)

        def ready() -> bool:
            # /proc/PID/comm changes from unshare over sh to pause when everything before it has been done.
            processes.require(NAME)
            return Path(f"/proc/{pid}/comm").read_text().strip() == "pause"

        until("sandbox", ready, timeout=60, interval=0.01)
        for command in cable_commands(network, pid or 0):
            run(command)


def enter(processes: Processes) -> list[str]:
    """What to put before a command so that it runs inside."""
    return ["nsenter", "-t", str(processes.pid(NAME) or 0), "-a"]


def down(processes: Processes) -> None:
    """End everything inside at once; returns when it has ended."""
    processes.stop(NAME, how=signal.SIGKILL, timeout=10)


def remove_cable(network: Network) -> None:
    """Remove this machine's end, which outlives the node's for a moment or if the sandbox was never whole.

    With the last cluster goes the folder that memory was mounted on.
    """
    interface = Path(f"/sys/class/net/{network.host_interface}")

    def gone() -> bool:
        # The kernel removes it too, at its own time, when the node's namespace has ended.
        with contextlib.suppress(ClusterError):
            run(["ip", "link", "delete", network.host_interface])
        return not interface.exists()

    if interface.exists():
        until(f"{network.host_interface} removed", gone, timeout=60)
    with locked(_cache_lock()), contextlib.suppress(OSError):
        # Removing it here would take the mount from under another cluster, which sees a folder of its own.
        if not any(interface.parent.glob(HOST_INTERFACE.format(slot="*"))):
            Path(_CNI_CACHE).rmdir()


def _cache_lock() -> Path:
    return paths.clusters_root() / "cni-cache.lock"

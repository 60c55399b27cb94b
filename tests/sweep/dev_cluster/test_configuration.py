"""Addresses, command lines, keys and configuration files of the local cluster."""

import subprocess
import sys
from pathlib import Path

from coding_agent_cluster import (
    control_plane_commands,
    node_config,
    sandbox,
)
from coding_agent_cluster.control_plane_commands import Folders
from coding_agent_cluster.network import free_ports, node_network
from coding_agent_cluster.node_config import NodeFolders


def test_no_port_is_drawn_twice_although_nothing_listens_there_yet() -> None:
    [ours] = free_ports(1)
    draws = iter([ours, ours + 1, ours + 1, *range(ours + 2, ours + 100)])
    drawn = free_ports(2, choose=lambda _: next(draws))
    assert len({ours, *drawn}) == 3, "by this process"
    program = f"""
from coding_agent_cluster.network import free_ports
draws = iter([{ours}, *range({ours} + 1, {ours} + 100)])
print(*free_ports(1, choose=lambda _: next(draws)))
"""
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert int(run.stdout) not in (ours, *drawn), "by another process"


def test_strangers_on_the_machine_may_do_nothing_and_the_node_has_no_way_out() -> None:
    api_server = control_plane_commands.api_server(Folders(Path("/c")), node_network(0))
    assert {"--authorization-mode=Node,RBAC", "--anonymous-auth=false"} <= set(api_server)
    kubelet = node_config.kubelet(NodeFolders(Path("/c")), node_network(0), "/group")
    assert kubelet["authentication"]["anonymous"] == {"enabled": False}
    assert kubelet["authorization"] == {"mode": "Webhook"}
    commands = [" ".join(c) for c in sandbox.cable_commands(node_network(0), 1)]
    assert not any("default" in c or "0.0.0.0" in c for c in commands)

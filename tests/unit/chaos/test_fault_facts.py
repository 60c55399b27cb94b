"""What faults on Kubernetes read: the firewall's counters, connections, and the CPU that pods ask for."""

from __future__ import annotations

from decimal import Decimal
from types import SimpleNamespace
from typing import Any, cast

import pytest
from kubernetes.client import V1Container, V1PodSpec, V1ResourceRequirements

from tests.chaos.full_node import asked
from tests.chaos.kubernetes_network import connections_to, cut_kubelet, dropped
from tests.chaos.kubernetes_world import KubernetesWorld
from tests.chaos.world import NothingToBreakError

FIREWALL = """\
Chain FORWARD (policy ACCEPT 12 packets, 840 bytes)
    pkts      bytes target     prot opt in     out     source         destination
      17      1020 DROP       6    --  *      *       10.244.0.5     10.99.0.1    tcp dpt:41 /* chaos-1 */
       3       180 DROP       6    --  *      *       0.0.0.0/0      0.0.0.0/0    /* chaos-11 */
     900     54000 KUBE-FORWARD  0    --  *      *       0.0.0.0/0      0.0.0.0/0
"""
CONNECTIONS = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0200630A:8D2A 0200630A:192B 01 00000000:00000000 02:00000000 00000000     0        0 4711 2 0 20
   1: 0200630A:8D2C 0200630A:094B 01 00000000:00000000 02:00000000 00000000     0        0 4712 2 0 20
   2: 0200630A:192B 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4713 1 0 100
"""


@pytest.mark.parametrize(("mark", "packets"), [("chaos-1", 17), ("chaos-11", 3), ("chaos-2", 0)])
def test_a_rule_tells_how_many_packets_it_has_dropped(mark: str, packets: int) -> None:
    assert dropped(FIREWALL, mark) == packets


def test_the_connections_to_a_port_are_found_with_their_own_ports() -> None:
    assert connections_to(CONNECTIONS, 6443) == {(0x8D2A, "4711")}


def test_a_cut_that_cannot_begin_leaves_no_rule_in_the_firewall() -> None:
    rules: list[str] = []
    pids = iter([1, None])  # the kubelet ends after the first rule is made

    def inside(*command: str) -> str:
        _, _, _, action, *rule = command
        if action == "-I":
            rules.append(" ".join(rule))
        elif action == "-D":
            rules.remove(" ".join(rule))
        return ""

    network = SimpleNamespace(address="10.99.0.2", api_port=6443)
    processes = SimpleNamespace(pid=lambda _: next(pids))
    cluster = SimpleNamespace(network=network, processes=processes)
    with pytest.raises(NothingToBreakError):
        cut_kubelet(cast("KubernetesWorld", SimpleNamespace(cluster=cluster, inside=inside)))
    assert not rules


def container(cpu: str, **more: Any) -> V1Container:
    return V1Container(name="c", resources=V1ResourceRequirements(requests={"cpu": cpu}), **more)


@pytest.mark.parametrize(
    ("spec", "cpu"),
    [
        (V1PodSpec(containers=[container("10m"), container("1")]), "1.01"),
        (V1PodSpec(containers=[container("10m")], init_containers=[container("20m")]), "0.02"),
        (
            V1PodSpec(
                containers=[container("10m")], init_containers=[container("5m", restart_policy="Always")]
            ),
            "0.015",
        ),
        (V1PodSpec(containers=[V1Container(name="c")]), "0"),
    ],
)
def test_a_pod_asks_for_its_containers_and_sidecars_or_for_an_init_container_with_more(
    spec: V1PodSpec, cpu: str
) -> None:
    assert asked([spec, spec]) == 2 * Decimal(cpu)

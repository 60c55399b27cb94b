"""No pod reaches the metadata service of a cloud, which hands out the node's own credentials."""

from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from tests.chart.helm import VALUES_FILES, render

pytestmark = [pytest.mark.timeout(900), pytest.mark.xdist_group("rendered-chart")]

METADATA = {
    "169.254.169.254": "AWS, Azure, Google Cloud, Oracle, OpenStack",
    "169.254.170.2": "AWS: credentials of ECS tasks",
    "169.254.170.23": "AWS: EKS Pod Identity",
    "168.63.129.16": "Azure: the wire server, a public address",
    "100.100.100.200": "Alibaba Cloud",
    "192.0.0.192": "Oracle: the address of older images",
    "fd00:ec2::254": "AWS",
    "fd00:ec2::23": "AWS: EKS Pod Identity",
    "fd20:ce::254": "Google Cloud",
    "fe80::a9fe:a9fe": "OpenStack",
}
"""From the clouds' own documentation, November 2026."""
PORTS = {80, 32526}
"""The ports on which they serve; the second is the wire server's."""


@pytest.mark.parametrize("file", VALUES_FILES, ids=lambda file: file.stem)
def test_no_policy_lets_a_pod_reach_a_metadata_service(file: Path) -> None:
    policies = [entry for entry in render(file) if entry["kind"] == "NetworkPolicy"]
    for policy in policies:
        name, allowed = policy["metadata"]["name"], []
        for rule in policy["spec"].get("egress", []):
            assert rule.get("to"), f"{name}: a rule without `to` means every address"
            # An attempt runs what strangers wrote: for it not even another port.
            ports = {port["port"] for port in rule["ports"]}
            if name.endswith("-attempt") or ports & PORTS:
                allowed += [
                    address for address in METADATA if any(holds(peer, address) for peer in blocks(rule))
                ]
        assert allowed == [], name


def test_the_check_sees_a_policy_that_allows_it() -> None:
    everything = {"to": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["169.254.0.0/16"]}}]}
    [block] = blocks(everything)
    assert [address for address in METADATA if holds(block, address)] == [
        "168.63.129.16",
        "100.100.100.200",
        "192.0.0.192",
    ]


def blocks(rule: dict[str, Any]) -> Iterator[dict[str, Any]]:
    return (peer["ipBlock"] for peer in rule["to"] if "ipBlock" in peer)


def holds(block: dict[str, Any], address: str) -> bool:
    def inside(cidr: str) -> bool:
        return ip_address(address) in ip_network(cidr)

    return inside(block["cidr"]) and not any(inside(entry) for entry in block.get("except", []))

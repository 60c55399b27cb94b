"""Addresses, command lines, keys and configuration files of the local cluster."""

import subprocess
import sys
import tomllib
from ipaddress import ip_network
from itertools import pairwise
from pathlib import Path

import pytest
from coding_agent_cluster import (
    buildah,
    control_plane_commands,
    foreign,
    images,
    network_policies,
    node_config,
    paths,
    pki,
    sandbox,
)
from coding_agent_cluster.control_plane_commands import Folders
from coding_agent_cluster.manifests import manifest
from coding_agent_cluster.network import SLOTS, free_ports, node_network
from coding_agent_cluster.node_config import NodeFolders


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"CODING_AGENT_CACHE": "/a", "XDG_CACHE_HOME": "/b"}, "/a/coding-agent"),
        ({"XDG_CACHE_HOME": "/b"}, "/b/coding-agent"),
        ({}, str(Path.home() / ".cache/coding-agent")),
    ],
)
def test_the_cache_is_where_the_environment_says(environment: dict[str, str], expected: str) -> None:
    assert str(paths.cache_root(environment)) == expected


def test_no_two_clusters_share_an_address() -> None:
    networks = [node_network(slot) for slot in SLOTS]
    for ranges in (
        [ip_network(n.services) for n in networks],
        [ip_network(n.pods) for n in networks],
        [ip_network(f"{n.address}/24", strict=False) for n in networks],
    ):
        assert not any(a.overlaps(b) for a, b in pairwise(sorted(ranges)))
    assert len({n.host_interface for n in networks}) == len(networks)
    # Linux' limit for an interface's name (IFNAMSIZ without its end).
    assert max(len(n.host_interface) for n in networks) <= 15


def test_a_slot_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="slot 16: 0 to 15"):
        node_network(16)


def test_the_service_addresses_are_those_that_kubernetes_expects() -> None:
    network = node_network(2)
    assert (network.api_service, network.dns_service) == ("10.96.32.1", "10.96.32.10")


def test_free_ports_are_different_even_if_chance_repeats_itself() -> None:
    draws = iter([20001, 20001, *range(20002, 20100)])
    assert len(set(free_ports(2, choose=lambda _: next(draws)))) == 2


def test_a_port_is_drawn_once_although_nothing_listens_there_yet() -> None:
    [first] = free_ports(1)
    draws = iter([first, *range(first + 1, first + 100)])
    assert free_ports(1, choose=lambda _: next(draws)) != [first]


def test_two_processes_never_draw_the_same_port_although_nothing_listens_there_yet() -> None:
    [ours] = free_ports(1)
    program = f"""
from coding_agent_cluster.network import free_ports
draws = iter([{ours}, *range({ours} + 1, {ours} + 100)])
print(*free_ports(1, choose=lambda _: next(draws)))
"""
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert ours < int(run.stdout) < ours + 100


def test_the_api_server_is_closed_to_strangers_and_keeps_an_audit_log() -> None:
    command = control_plane_commands.api_server(Folders(Path("/c")), node_network(0))
    for flag in (
        "--authorization-mode=Node,RBAC",
        "--anonymous-auth=false",
        "--enable-admission-plugins=NodeRestriction",
        "--audit-log-path=/c/logs/audit.jsonl",
    ):
        assert flag in command


def test_only_a_plane_without_node_hides_its_loopback_endpoint() -> None:
    alone = node_network(0).__class__("127.0.0.1", 1, 2, 3, "10.96.0.0/20", "10.244.0.0/24")
    flag = "--endpoint-reconciler-type=none"
    assert flag in control_plane_commands.api_server(Folders(Path("/c")), alone)
    assert flag not in control_plane_commands.api_server(Folders(Path("/c")), node_network(0))


def test_the_kubelet_authenticates_and_authorizes() -> None:
    config = node_config.kubelet(NodeFolders(Path("/c")), node_network(0), "/group")
    assert config["authentication"]["anonymous"] == {"enabled": False}
    assert config["authorization"] == {"mode": "Webhook"}
    assert config["cgroupRoot"] == "/group"


def test_the_node_has_no_way_out() -> None:
    commands = [" ".join(c) for c in sandbox.cable_commands(node_network(0), 1)]
    assert not any("default" in c or "0.0.0.0" in c for c in commands)


def test_the_nodes_own_packets_pass_before_a_policy_is_asked() -> None:
    rules = [" ".join(r) for r in network_policies.firewall_rules(node_network(0))]
    assert "ACCEPT" in rules[1]
    assert "--uid-owner 0" in rules[1]
    assert all("NFQUEUE" in rule for rule in rules[-2:])


def test_certificates_name_every_address_that_clients_use() -> None:
    network = node_network(3)
    server = next(c for c in pki.certificates(network) if c.name == "apiserver")
    assert {f"IP:{network.address}", f"IP:{network.api_service}", "IP:127.0.0.1"} <= set(server.alternatives)


def test_keys_that_were_made_halfway_for_another_network_are_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    pki.create(tmp_path, node_network(0))
    with monkeypatch.context() as context:
        context.setattr(pki, "sign", killed)
        with pytest.raises(KeyboardInterrupt):
            pki.create(tmp_path, node_network(1))
    pki.create(tmp_path, node_network(0))
    pki.openssl(tmp_path, "verify", "-CAfile", "ca.crt", "apiserver.crt")


def test_a_manifest_has_its_words_filled_in() -> None:
    text = manifest("coredns", IMAGE="localhost/coredns:1", ADDRESS="10.96.0.10")
    assert "image: localhost/coredns:1" in text
    assert "clusterIP: 10.96.0.10" in text


def test_a_local_base_is_never_looked_for_in_a_registry() -> None:
    def arguments(base: str) -> list[str]:
        return buildah.build_arguments(Path("Dockerfile"), Path(), "localhost/x:1", base, {})

    assert "--pull-never" in arguments("localhost/python:3.13-slim")
    assert "--pull-never" not in arguments("python:3.13-slim")


def test_pips_sources_reach_a_build_and_paths_of_this_machine_do_not() -> None:
    settings = buildah.pip_settings(
        [
            "global.index-url='https://example.com/simple'",
            "global.extra-index-url='https://a.example https://b.example'",
            "global.trusted-host='example.com'",
            ":env:.find-links='/opt/w'",
            "global.cert='/c.pem'",
        ]
    )
    pip = buildah.pip_configuration(settings)
    assert "index-url = https://example.com/simple\n" in pip
    assert "extra-index-url = https://a.example https://b.example\n" in pip
    uv = buildah.uv_configuration(settings)
    assert tomllib.loads(uv) == {
        "index-url": "https://example.com/simple",
        "extra-index-url": ["https://a.example", "https://b.example"],
        "allow-insecure-host": ["example.com"],
    }
    for text in (pip, uv):
        assert "/opt/w" not in text
        assert "/c.pem" not in text
    assert buildah.uv_configuration({}) == ""


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("", ["kind", "load", "docker-image", "localhost/x:1"]),
        ("k3d image import {image} -c dev", ["k3d", "image", "import", "localhost/x:1", "-c", "dev"]),
    ],
)
def test_an_image_is_loaded_with_the_persons_own_command(template: str, expected: list[str]) -> None:
    assert foreign.load_command("localhost/x:1", template) == expected


def test_npms_registry_reaches_a_build_and_paths_of_this_machine_do_not() -> None:
    listing = ["; a comment", 'registry = "https://example.com/npm"', 'nodedir = "/usr"']
    found = buildah.npm_configuration(listing)
    assert 'registry="https://example.com/npm"\n' in found
    assert "/usr" not in found


def test_the_image_of_a_coding_agent_is_one_target_of_its_dockerfile() -> None:
    image = images.runner_image("codex")
    assert (image.dockerfile.name, image.target) == ("runners.Dockerfile", "codex")
    assert "AS codex\n" in image.dockerfile.read_text()

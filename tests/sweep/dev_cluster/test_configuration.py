"""Addresses, command lines, keys and configuration files of the local cluster."""

import subprocess
import sys
import tomllib
from ipaddress import ip_network
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from coding_agent_cluster import (
    buildah,
    control_plane_commands,
    foreign,
    manifests,
    node_config,
    paths,
    pki,
    sandbox,
)
from coding_agent_cluster.control_plane_commands import Folders
from coding_agent_cluster.network import SLOTS, free_ports, node_network
from coding_agent_cluster.node_config import NodeFolders

PODS = {"Deployment", "DaemonSet"}


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


def test_each_pod_of_the_cluster_itself_requests_cpu() -> None:
    """All pods without a request share a weight of 2; a request of 100m is a weight of about 100."""
    folder = Path(manifests.__file__).parent
    objects = [found for file in folder.glob("*.yaml") for found in yaml.safe_load_all(file.read_text())]
    pods = [found["spec"]["template"]["spec"] for found in objects if found["kind"] in PODS]
    assert len(pods) == 3
    assert all("cpu" in main["resources"]["requests"] for pod in pods for main in pod["containers"])


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


def test_sources_of_packages_reach_a_build_and_paths_of_this_machine_do_not() -> None:
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
    listing = ["; a comment", 'registry = "https://example.com/npm"', 'nodedir = "/usr"']
    npm = buildah.npm_configuration(listing)
    assert 'registry="https://example.com/npm"\n' in npm
    assert "/usr" not in npm


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("", ["kind", "load", "docker-image", "localhost/x:1"]),
        ("k3d image import {image} -c dev", ["k3d", "image", "import", "localhost/x:1", "-c", "dev"]),
    ],
)
def test_an_image_is_loaded_with_the_persons_own_command(template: str, expected: list[str]) -> None:
    assert foreign.load_command("localhost/x:1", template) == expected

"""A release on a node: the kubelet pulls by digest, and a policy refuses what the key did not sign."""

import re
from collections.abc import Iterator

import pytest
import yaml
from coding_agent_testbed.cluster import build
from coding_agent_testbed.cluster import cluster as local
from coding_agent_testbed.cluster.node_config import NodeFolders
from coding_agent_testbed.until import until

from tests.chart.release import Release
from tests.e2e.pods import container, pod
from tests.fixtures.cluster import ClusterUnderTest
from tests.fixtures.system_in_pods import host_address
from tests.sweep.release.conftest import ROOT, VERSION, Published

# Time for what may have to be built first.
pytestmark = [
    pytest.mark.needs_node,
    pytest.mark.needs_root,
    pytest.mark.needs_linux,
    pytest.mark.timeout(2400),
]

VERIFIER = ROOT / "docs" / "examples" / "containerd" / "verify-coding-agent"
OPERATOR = "coding-agent-operator"


@pytest.fixture
def mirror(cluster: ClusterUnderTest, own_cluster: local.Cluster, published: Published) -> Iterator[str]:
    """The name by which the node knows the registry; the node pulls from it what the key signed."""
    host = f"{host_address(cluster)}:{published.registry.port}"
    folders = NodeFolders(own_cluster.root)
    hosts = folders.registries / host / "hosts.toml"
    hosts.parent.mkdir(parents=True)
    hosts.write_text(f'server = "http://{host}"\n[host."http://{host}"]\n')
    cosign = build.binaries(["cosign"])["cosign"]
    text = VERIFIER.read_text()
    for name, value in {
        "images": f"{host}/coding-agent-",
        "key": str(published.key),
        "cosign": f'"{cosign} verify --insecure-ignore-tlog=true --allow-http-registry"',
    }.items():
        text, count = re.subn(rf"^{name}=.*$", f"{name}={value}", text, flags=re.MULTILINE)
        assert count == 1
    verifier = folders.image_verifiers / VERIFIER.name
    verifier.parent.mkdir()
    verifier.write_text(text)
    verifier.chmod(0o755)
    yield host
    verifier.unlink()
    verifier.parent.rmdir()
    hosts.unlink()
    hosts.parent.rmdir()


@pytest.fixture
def release(cluster: ClusterUnderTest, namespace: str) -> Iterator[Release]:
    """A name for an installation, which is removed afterwards."""
    release = Release(cluster, namespace)
    release.take_crd()
    yield release
    release.helm("uninstall", release.name, "--wait")


def test_the_node_runs_what_was_signed_and_nothing_else(
    published: Published, mirror: str, release: Release
) -> None:
    values = {
        "global": {"imageRegistry": mirror},
        "receiver": {"replicas": 1, "autoscaling": {"enabled": False}},
    }
    release.helm(
        *("install", release.name, f"oci://{published.references['chart']}", "--plain-http"),
        *("--values", "-", "--wait", "--timeout", "240s"),
        stdin=yaml.safe_dump(values),
    )
    # An image that the node already had under another name may be shown by that one.
    running = {
        status["imageID"].partition("@")[2]
        for item in release.get("pods")["items"]
        for status in item["status"]["containerStatuses"]
    }
    assert running == {published.references[name].partition("@")[2] for name in ("receiver", "operator")}

    # Somebody who may write to the registry moves the tag to another image.
    registry = published.registry
    own = registry.manifest(OPERATOR, VERSION)
    moved = registry.put(OPERATOR, VERSION, {**own, "annotations": {"changed": "yes"}})
    try:
        assert moved.status_code == 201
        changed = pod(
            "changed", container(f"{mirror}/{OPERATOR}:{VERSION}", "true", imagePullPolicy="Always")
        )
        release.kubectl("create", "--filename", "-", stdin=yaml.safe_dump(changed))
        reason = f"{moved.headers['docker-content-digest']} is not signed by {published.key}"
        # A busy node may say first that the verifier took too long; then it tries again.
        until(
            lambda: f"the node refuses the image; it says: {refusal(release, 'changed')}",
            lambda: reason in refusal(release, "changed"),
            timeout=240,
        )
    finally:
        registry.put(OPERATOR, VERSION, own)


def refusal(release: Release, name: str) -> str:
    """Why the only container of a pod has no image; empty as long as nothing is said."""
    statuses = release.get("pod", name)["status"].get("containerStatuses", [])
    return "".join(
        status["state"]["waiting"].get("message", "") for status in statuses if "waiting" in status["state"]
    )

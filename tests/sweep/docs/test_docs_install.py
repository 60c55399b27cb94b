"""The documented installation, command by command, on a real node."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from coding_agent_docs.blocks import blocks
from coding_agent_testbed.cluster import build
from coding_agent_testbed.cluster.access import KubectlError

from tests.fixtures.cluster import ClusterUnderTest
from tests.sweep.docs.played import INSTALL_ON_A_NODE
from tests.sweep.docs.shell import Shell

# Time for images that may have to be built first.
pytestmark = [pytest.mark.needs_node, pytest.mark.timeout(1500)]

NAMESPACE = "coding-agent"
CRD = "crd/agenttasks.coding-agent.dev"


@pytest.fixture
def shell(cluster: ClusterUnderTest, project_images: dict[str, str], tmp_path: Path) -> Iterator[Shell]:
    """A shell with helm and kubectl, where the registry of the documentation is the node's own images."""
    for name, path in build.binaries(["helm", "kubectl"]).items():
        (tmp_path / name).symlink_to(path)
    (tmp_path / "our-authority.pem").write_text("-----BEGIN CERTIFICATE-----\n")
    registry, _, rest = project_images["receiver"].rpartition("/")
    tag = rest.rpartition(":")[2]
    _hand_over(cluster)
    # The documentation names the namespace: a former run's must be gone. Ours goes when nobody waits for it.
    delete = ("delete", "namespace", NAMESPACE, "--ignore-not-found")
    cluster.kubectl(*delete, "--timeout=280s", timeout=300)
    try:
        yield Shell(
            tmp_path,
            here={"registry: registry.example.com\n": f'registry: {registry}\n  tag: "{tag}"\n'},
            environment={"KUBECONFIG": str(cluster.kubeconfig)},
            seconds=400,
        )
    finally:
        cluster.kubectl(*delete, "--wait=false")


def test_the_documented_installation(shell: Shell) -> None:
    page, settings = INSTALL_ON_A_NODE
    assert shell.play(blocks(page), *settings) >= 5


def _hand_over(cluster: ClusterUnderTest) -> None:
    """The cluster is shared with other tests, one of which may have brought the CRD: as the chart says."""
    try:
        cluster.kubectl("get", CRD)
    except KubectlError:
        return
    release = "meta.helm.sh/release"
    notes = (f"{release}-name=coding-agent", f"{release}-namespace={NAMESPACE}")
    cluster.kubectl("annotate", CRD, "--overwrite", *notes)
    cluster.kubectl("label", CRD, "--overwrite", "app.kubernetes.io/managed-by=Helm")

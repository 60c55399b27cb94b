"""gVisor (https://gvisor.dev): pods of the RuntimeClass ``gvisor`` have a kernel of their own."""

from coding_agent_testbed.cluster.cluster import Cluster
from coding_agent_testbed.cluster.node_config import GVISOR_HANDLER
from coding_agent_testbed.cluster.progress import step

RUNTIME_CLASS = "gvisor"


def enable(cluster: Cluster) -> None:
    """Give the node the runtime, and the cluster its RuntimeClass; builds gVisor when the cache lacks it.

    Raises:
        ClusterError: it cannot be built, or containerd does not start with it.
    """
    with step("gVisor"):
        cluster.node.add_gvisor()
        runtime_class = {
            "apiVersion": "node.k8s.io/v1",
            "kind": "RuntimeClass",
            "metadata": {"name": RUNTIME_CLASS},
            "handler": GVISOR_HANDLER,
        }
        cluster.access.apply(runtime_class)

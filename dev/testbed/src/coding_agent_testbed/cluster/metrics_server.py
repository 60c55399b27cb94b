"""metrics-server: what `kubectl top` and the HorizontalPodAutoscaler ask."""

from coding_agent_testbed.cluster import system_images
from coding_agent_testbed.cluster.cluster import Cluster
from coding_agent_testbed.cluster.manifests import manifest
from coding_agent_testbed.cluster.progress import step


def enable(cluster: Cluster) -> None:
    """Install metrics-server and wait until it serves; builds it when the cache lacks it.

    The first numbers come after two rounds of measuring, ten seconds each.
    """
    image, archive = system_images.part_image("metrics-server")
    with step("metrics-server"):
        cluster.node.import_image(archive)
        text = manifest("metrics-server", IMAGE=image)
        kubectl = cluster.access.kubectl
        kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=text)
        kubectl("-n", "kube-system", "rollout", "status", "deploy/metrics-server", "--timeout=110s")
        kubectl("wait", "--for=condition=Available", "apiservice/v1beta1.metrics.k8s.io", "--timeout=110s")

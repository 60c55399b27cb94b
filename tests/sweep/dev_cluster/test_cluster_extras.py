"""What charts and autoscalers need: helm installs a chart, `kubectl top` answers."""

from pathlib import Path

import pytest
from coding_agent_cluster import build, metrics_server
from coding_agent_cluster import cluster as local
from coding_agent_cluster.access import KubectlError
from coding_agent_cluster.commands import run
from coding_agent_cluster.wait import until

from tests.fixtures.cluster import ClusterUnderTest

# Time for what may have to be built first.
pytestmark = [pytest.mark.needs_node, pytest.mark.timeout(1500)]

DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: {{ .Release.Name }}}
spec:
  replicas: {{ .Values.replicas }}
  selector: {matchLabels: {app: {{ .Release.Name }}}}
  template:
    metadata: {labels: {app: {{ .Release.Name }}}}
    spec:
      containers:
        - name: main
          image: {{ .Values.image }}
          imagePullPolicy: Never
          args: [serve]
          readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
          securityContext:
            allowPrivilegeEscalation: false
            capabilities: {drop: [ALL]}
            runAsNonRoot: true
            seccompProfile: {type: RuntimeDefault}
"""


@pytest.fixture
def chart(tmp_path: Path) -> Path:
    (tmp_path / "templates").mkdir()
    (tmp_path / "Chart.yaml").write_text("apiVersion: v2\nname: mini\nversion: 0.1.0\n")
    (tmp_path / "values.yaml").write_text("replicas: 1\nimage: none\n")
    (tmp_path / "templates/deployment.yaml").write_text(DEPLOYMENT)
    return tmp_path


def test_helm_installs_upgrades_and_uninstalls_a_chart(
    cluster: ClusterUnderTest, namespace: str, test_image: str, chart: Path
) -> None:
    binary = str(build.binaries(["helm"])["helm"])

    def helm(*arguments: str) -> str:
        return run([binary, "--namespace", namespace, *arguments], timeout=120, env=cluster.environment())

    def ready() -> int:
        status = cluster.get("-n", namespace, "deployment", "mini")["status"]
        return int(status.get("readyReplicas", 0))

    values = [f"--set=image={test_image}", "--wait", "--timeout=90s"]
    helm("install", "mini", str(chart), *values)
    assert ready() == 1
    helm("upgrade", "mini", str(chart), *values, "--set=replicas=2")
    assert ready() == 2
    assert "mini" in helm("list", "-q")
    helm("uninstall", "mini", "--wait", "--timeout=90s")
    with pytest.raises(KubectlError, match="not found"):
        ready()


def test_kubectl_top_answers_through_metrics_server(own_cluster: local.Cluster) -> None:
    metrics_server.enable(own_cluster)

    def top(*what: str) -> str:
        try:
            return own_cluster.access.kubectl("top", *what, "--no-headers")
        except KubectlError as error:
            raise ValueError(error.stderr) from error

    # Two rounds of measuring, ten seconds each, before there is a rate to tell.
    name, cores, *_ = until("numbers", lambda: top("nodes"), timeout=180, interval=0.5).split()
    assert name == "node1"
    assert int(cores.removesuffix("m")) > 0
    # The kubelet measures the pods at other times than the node.
    pods = ("pods", "-n", "kube-system")
    until("a pod's numbers", lambda: "coredns" in top(*pods), timeout=180, interval=0.5)

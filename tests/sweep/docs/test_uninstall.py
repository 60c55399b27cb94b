"""After the documented commands, the cluster has no object that it did not have before the installation."""

import pytest
from coding_agent_docs.blocks import Block, blocks
from coding_agent_docs.paths import DOCS
from coding_agent_testbed.until import until

from tests.sweep.docs.conftest import MakeShell, until_installed
from tests.sweep.docs.played import UNINSTALL
from tests.sweep.docs.shell import Shell

# helm may have to be built first.
pytestmark = pytest.mark.timeout(900)

PARTS = """\
helm upgrade coding-agent charts/coding-agent -n coding-agent --reset-then-reuse-values \
  --set transcripts.persistence.enabled=true,userConfig.enabled=true,egress.enabled=true
"""
"""Parts for which the chart keeps a Secret or a claim."""
MADE_BY_PROGRAMS = """\
kubectl apply -f - <<'END'
apiVersion: coding-agent.dev/v1alpha1
kind: AgentTask
metadata: {name: task, namespace: coding-agent}
spec: {url: https://github.com/acme/pricing/issues/7}
---
apiVersion: coordination.k8s.io/v1
kind: Lease
metadata: {name: coding-agent-operator, namespace: coding-agent}
---
apiVersion: coordination.k8s.io/v1
kind: Lease
metadata: {name: coding-agent-reporter, namespace: coding-agent}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: cache, namespace: coding-agent, labels: {app.kubernetes.io/component: cache}}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
END
"""
ALL = """\
kubectl get "$(kubectl api-resources --verbs=list -o name | grep -v events | paste -sd,)" --all-namespaces \
  --no-headers -o custom-columns=KIND:.kind,NAMESPACE:.metadata.namespace,NAME:.metadata.name
"""
LEFT_IN_THE_NAMESPACE = """\
kubectl delete -n coding-agent secret,pvc -l app.kubernetes.io/instance=coding-agent
kubectl delete -n coding-agent pvc -l app.kubernetes.io/component=cache
kubectl delete -n coding-agent lease coding-agent-operator coding-agent-reporter
"""
"""The commands in the page's table."""


def said(shell: Shell, script: str) -> set[str]:
    """The lines that commands of this test print."""
    shell.play([Block(DOCS / "uninstall.md", 0, "sh", script, "run", "test")], "test")
    return {" ".join(line.split()) for line in shell.printed.splitlines()}


def in_a_new_cluster(shell: Shell) -> set[str]:
    """All objects, once Kubernetes has put into each namespace what it puts there by itself."""

    def complete() -> set[str]:
        found = said(shell, ALL)
        spaces = [line.split()[-1] for line in found if line.startswith("Namespace ")]
        accounts = {f"ServiceAccount {space} default" for space in spaces}
        certificates = {f"ConfigMap {space} kube-root-ca.crt" for space in spaces}
        return found if accounts | certificates <= found else set()

    return set(until("the service account and the certificates of each namespace", complete))


def see_that_nothing_is_left(shell: Shell, before: set[str]) -> None:
    """See that every object goes that was not there before.

    For a moment after the definition of a resource has gone, the API server still names the resource, refuses
    to list its objects, and has the APIService of its group.
    """
    left: set[str] = set()

    def gone() -> bool:
        nonlocal left
        try:
            left = said(shell, ALL) - before
        except pytest.fail.Exception as refused:
            left = {str(refused)}
        return not left

    until(lambda: f"nothing is left: {left}", gone)


def test_nothing_is_left(install_plane: MakeShell) -> None:
    shell = install_plane()
    before = in_a_new_cluster(shell)
    shell.play(until_installed(), "install")
    said(shell, PARTS + MADE_BY_PROGRAMS)
    assert len(said(shell, ALL) - before) > 30

    uninstall, settings = UNINSTALL
    steps = [block for block in blocks(uninstall) if block.word == "run"]
    assert shell.play(steps[:-1], *settings) == 2
    said(shell, LEFT_IN_THE_NAMESPACE)
    left = said(shell, "kubectl get secret,pvc,lease,agenttasks,serviceaccounts -n coding-agent -o name\n")
    assert left == {"secret/github-token", "secret/model-key", "serviceaccount/default"}
    assert shell.play(steps[-1:], *settings) == 1
    see_that_nothing_is_left(shell, before)

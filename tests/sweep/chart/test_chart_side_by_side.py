"""Two teams, two releases, two namespaces: neither sees the other's tasks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from coding_agent_cluster.access import KubectlError

from tests.chart.place import node_values
from tests.chart.release import Release
from tests.fixtures.cluster import ClusterUnderTest
from tests.fixtures.system import over

# Time for what may have to be built first.
pytestmark = [pytest.mark.needs_node, pytest.mark.timeout(1500)]


def test_two_releases_in_two_namespaces_do_not_meet(
    cluster: ClusterUnderTest,
    namespace: str,
    new_namespace: Callable[[str], str],
    project_images: dict[str, str],
    enforced_policies: None,
) -> None:
    secrets = {"github": {"token": "never-used"}, "model": {"apiKey": "never-used"}}
    values: dict[str, Any] = over(
        node_values(project_images), {"secrets": secrets, "reporter": {"enabled": False}}
    )
    first = Release(cluster, namespace, values)
    second = Release(cluster, new_namespace("restricted"), over(values, {"crds": {"install": False}}))
    first.take_crd()
    first.install(None, "--wait", "--timeout", "240s")
    second.install(None, "--wait", "--timeout", "240s")
    for release in (first, second):
        assert "Phase:          Succeeded" in release.helm("test", release.name, "--timeout", "180s")
    for other, account in ((first, second), (second, first)):
        for program in ("receiver", "operator"):
            who = f"system:serviceaccount:{account.namespace}:coding-agent-{program}"
            question = ("auth", "can-i", "list", "agenttasks", f"--as={who}")
            assert account.kubectl(*question).strip() == "yes"
            with pytest.raises(KubectlError):  # kubectl's exit status says no
                other.kubectl(*question)
    secret = [entry.get("secret", "coding-agent-webhook")["data"] for entry in (first, second)]
    assert secret[0] != secret[1]
    second.helm("uninstall", second.name, "--wait", "--timeout", "120s")
    assert "Phase:          Succeeded" in first.helm("test", first.name, "--timeout", "180s")

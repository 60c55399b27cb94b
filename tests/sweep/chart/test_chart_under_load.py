"""Nobody notices an upgrade, a restart or a rollback; and the receiver grows and shrinks with its load."""

from collections import Counter
from pathlib import Path

import pytest

from tests.chart.edge import Edge
from tests.chart.load import Hit, webhooks
from tests.chart.place import node_values
from tests.chart.release import Release
from tests.fixtures.cluster import ClusterUnderTest
from tests.fixtures.system import SECRET, over
from tests.integration.chart.test_lifecycle import (
    TAKE_FIELDS,
    older_chart,
    upgrade_as_documented,
    webhook_secret,
)

# Time for what may have to be built first.
pytestmark = [pytest.mark.needs_node, pytest.mark.needs_root, pytest.mark.timeout(1500)]

RATE = 20
"""Webhooks a second: few enough for each to be answered in time while pods start on the same two cores."""
MOST = 15_000
"""Webhooks at most, which is longer than all steps of a test may take together."""


@pytest.fixture
def release(cluster: ClusterUnderTest, namespace: str, project_images: dict[str, str], edge: Edge) -> Release:
    """Receiver and operator behind the Ingress; no task ever starts, and no forge is asked."""
    values = {
        "secrets": {
            "webhook": {"github": SECRET},
            "github": {"token": "never-used"},
            "model": {"apiKey": "never-used"},
        },
        "config": {"limits": {"global": 0}},
        "reporter": {"enabled": False},
    }
    made = Release(cluster, namespace, over(over(node_values(project_images), values), edge.values()))
    made.take_crd()
    edge.provide(made)
    return made


def receivers(release: Release) -> set[str]:
    """Names of the receiver's pods that are there and are not on their way out."""
    pods = release.get("pods", "-l", "app.kubernetes.io/component=receiver")["items"]
    return {p["metadata"]["name"] for p in pods if "deletionTimestamp" not in p["metadata"]}


def test_no_upgrade_restart_rollback_or_reinstallation_loses_a_webhook(
    release: Release, edge: Edge, tmp_path: Path
) -> None:
    """With the secret that the chart generates, from an older chart, by every way that the documents name."""
    release.values = over(release.values, {"secrets": {"webhook": {"github": ""}}})
    # Its images are this release's, which would not become ready under the schema of an older one.
    newer, older = release.chart, older_chart(tmp_path)
    release.chart = older
    release.install(None, *TAKE_FIELDS, "--wait", "--timeout", "240s")
    edge.wait()
    with webhooks(edge, webhook_secret(release), tmp_path, rate=RATE, most=MOST) as load:
        load.wait_for(RATE)
        release.chart = newer
        for flag in ("--reuse-values", "--reset-then-reuse-values"):
            upgrade_as_documented(release, flag, "--wait", "--timeout", "180s")
            release.helm("rollback", release.name, "1", "--wait", "--timeout", "180s")
        release.upgrade(None, "--wait", "--timeout", "180s")
        upgraded = receivers(release)
        release.kubectl("rollout", "restart", "deployment/coding-agent-receiver")
        release.kubectl("rollout", "status", "deployment/coding-agent-receiver", "--timeout=110s")
        assert not upgraded & receivers(release), "all pods were replaced"
        release.chart = older
        release.upgrade(None, "--wait", "--timeout", "180s")
        hits = load.stop()
    assert len(hits) > 4 * RATE
    assert problems(hits) == {}
    answered = [hit.answer["task"] for hit in hits]
    assert len(set(answered)) == len(answered), "each webhook was for another item"
    assert sorted(task["metadata"]["name"] for task in release.tasks()) == sorted(answered)

    (tmp_path / "again").mkdir()
    release.chart = newer
    release.upgrade(None, "--wait", "--timeout", "180s")
    before = webhook_secret(release)
    release.helm("uninstall", release.name, "--wait", "--timeout", "120s")
    release.install(None, "--wait", "--timeout", "240s")
    assert webhook_secret(release) == before
    edge.wait()
    # Hooks that know the secret from before are still answered.
    with webhooks(edge, before, tmp_path / "again", rate=RATE, most=MOST) as load:
        load.wait_for(RATE)
        again = load.stop()
    assert {hit.status for hit in again} == {200}
    assert {task["metadata"]["name"] for task in release.tasks()} >= set(answered)


def problems(hits: list[Hit]) -> Counter[str]:
    """What was not answered as a new task, counted by what it was."""
    wrong = [hit for hit in hits if hit.status != 200 or hit.answer.get("status") != "success"]
    return Counter(f"{hit.status} {hit.error} {hit.answer}"[:200] for hit in wrong)

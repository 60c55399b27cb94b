"""A platform team's operator serves another team's namespace on the node: label in, merge request out."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from coding_agent_cluster.access import KubectlError

from tests.chart.place import node_values, place
from tests.chart.release import Release
from tests.e2e.test_chart_label_to_change import poll, wait_for_the_change
from tests.fixtures.cluster import ClusterUnderTest
from tests.fixtures.system import BOT, REPOSITORY, over
from tests.fixtures.system_in_pods import SMALL
from tests.integration.main_job.scripts import fixes_the_bug

# Time for what may have to be built first.
pytestmark = [pytest.mark.needs_node, pytest.mark.needs_root, pytest.mark.timeout(1500)]


def test_one_operator_for_the_namespace_of_another_team(
    cluster: ClusterUnderTest,
    namespace: str,
    new_namespace: Callable[[str], str],
    project_images: dict[str, str],
    enforced_policies: None,
    tmp_path: Path,
) -> None:
    with ExitStack() as stack:
        scripts = fixes_the_bug()
        world = place(stack, cluster, namespace, project_images, tmp_path, "gitlab", scripts)
        team, home = world.release, new_namespace("restricted")
        values: dict[str, Any] = {
            "operator": {"namespaces": [namespace]},
            "reporter": {"enabled": False},
            # The names of the team's Secrets: values that are never used here.
            "secrets": {"gitlab": {"token": "never-used"}, "model": {"apiKey": "never-used"}},
            "config": {"gitlab": {"api_url": world.forge.api_url}, "operator": {"job": SMALL}},
        }
        platform = Release(cluster, home, over(node_values(project_images), values))
        platform.take_crd()
        platform.install(None, "--wait", "--timeout", "180s")
        own = {"operator": {"enabled": False}, "crds": {"install": False}}
        polling = {"polling": {"enabled": True, "schedule": "0 0 1 1 *"}}
        team.install(over(own, polling), "--wait", "--timeout", "180s")
        programs = {each["metadata"]["name"] for each in team.get("deployments")["items"]}
        assert programs == {"coding-agent-receiver", "coding-agent-reporter"}

        world.forge.add_label(REPOSITORY, 1, BOT)
        poll(team)
        wait_for_the_change(world)
        assert platform.tasks() == []
        holder = team.get("lease", "coding-agent-operator")["spec"]["holderIdentity"]
        assert holder.startswith(f"{home}/")
        question = (
            "auth",
            "can-i",
            "list",
            "agenttasks",
            f"--as=system:serviceaccount:{home}:coding-agent-operator",
        )
        assert team.kubectl(*question).strip() == "yes"
        with pytest.raises(KubectlError):  # kubectl's exit status says no
            cluster.kubectl("-n", "default", *question)

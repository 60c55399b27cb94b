"""One release's operator for the namespaces of others: what the one names is what the others make."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml
from coding_agent_cluster.access import Access, KubectlError
from coding_agent_cluster.wait import until

from tests.chart.helm import CHART, HelmError, one, render
from tests.chart.release import Release
from tests.fixtures.cluster import PlaneUnderTest
from tests.fixtures.crd import until_served

# One CRD for the whole control plane, so one after the other. Time for helm, which may have to be built.
pytestmark = [pytest.mark.timeout(900), pytest.mark.xdist_group("agenttask-crd-of-the-chart")]

PLATFORM, TEAM, EVERYWHERE = (
    CHART / "ci" / f"{name}-values.yaml" for name in ("platform", "team", "cluster-wide")
)
ROLE = Path(__file__).parents[3] / "operator" / "deploy" / "role.yaml"


def job_template(objects: list[dict[str, Any]]) -> dict[str, Any]:
    """What the operator is told of attempts."""
    config = yaml.safe_load(one(objects, "ConfigMap", "coding-agent")["data"]["config.yaml"])
    return dict(config["operator"]["job"])


@pytest.mark.parametrize("file", [PLATFORM, EVERYWHERE], ids=lambda file: file.stem)
def test_what_the_operator_names_is_in_the_teams_release(file: Path) -> None:
    job = job_template(render(file, namespace="platform"))
    team = render(TEAM, namespace="team-a")
    assert one(team, "ConfigMap", job["config_map"])["metadata"]["namespace"] == "team-a"
    assert one(team, "ServiceAccount", job["service_account"])["metadata"]["namespace"] == "team-a"
    named = {credential["secret"]: credential["key"] for credential in job["credentials"]}
    assert named == {"coding-agent-github": "token", "coding-agent-model": "api-key"}
    for name, key in named.items():
        assert key in one(team, "Secret", name)["stringData"]
    policy = one(team, "NetworkPolicy", "coding-agent-attempt")
    assert policy["metadata"]["namespace"] == "team-a"


def test_both_releases_share_no_object_and_the_rights_are_one_source() -> None:
    platform, team = render(PLATFORM, namespace="platform"), render(TEAM, namespace="team-a")

    def keys(objects: list[dict[str, Any]]) -> set[tuple[str, str, str]]:
        return {(o["kind"], o["metadata"].get("namespace", ""), o["metadata"]["name"]) for o in objects}

    assert keys(platform) & keys(team) == set()
    assert not [o for o in team if "operator" in o["metadata"]["name"]]
    given = next(d["rules"] for d in yaml.safe_load_all(ROLE.read_text()) if d["kind"] == "Role")
    roles = {
        o["metadata"]["namespace"]: o
        for o in platform
        if o["kind"] == "Role" and "operator" in o["metadata"]["name"]
    }
    assert set(roles) == {"platform", "team-a", "team-b"}
    assert all(role["rules"] == given for role in roles.values())
    cluster = render(EVERYWHERE, namespace="platform")
    assert one(cluster, "ClusterRole", "coding-agent-operator-platform")["rules"] == given
    cluster_wide = {o["kind"] for o in platform if "namespace" not in o["metadata"]}
    policies = {"ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"}
    assert cluster_wide == {"CustomResourceDefinition", "ClusterRole", *policies}


class Teams:
    """A platform's release and two teams', on a real API server."""

    def __init__(
        self, plane: PlaneUnderTest, new: Callable[[str], str], folder: Path, stack: ExitStack
    ) -> None:
        self.plane = plane
        self.teams = [Release(plane, new("restricted"), yaml.safe_load(TEAM.read_text())) for _ in range(2)]
        values = yaml.safe_load(PLATFORM.read_text())
        values["operator"] = {"namespaces": [team.namespace for team in self.teams]}
        values["metrics"] = {}  # its kinds are not in this cluster
        self.platform = Release(plane, new("restricted"), values)
        self.platform.take_crd()
        self._folder = folder
        self._stack = stack

    def install(self) -> None:
        self.platform.install()
        until_served(self.plane)
        for team in self.teams:
            team.install({"metrics": {"prometheusRule": {"enabled": False}}})

    def access(self) -> Path:
        """A kubeconfig with the rights that the chart gives the operator."""
        account = ("create", "token", "coding-agent-operator", "--duration=2h")
        token = self.platform.kubectl(*account).strip()
        config = json.loads(self.plane.kubectl("config", "view", "--raw", "--minify", "-o", "json"))
        config["users"][0]["user"] = {"token": token}
        file = self._folder / "chart.kubeconfig"
        file.write_text(json.dumps(config))
        return file


@pytest.fixture
def installed(
    control_plane: PlaneUnderTest, new_namespace: Callable[[str], str], tmp_path: Path
) -> Iterator[Teams]:
    with ExitStack() as stack:
        teams = Teams(control_plane, new_namespace, tmp_path, stack)
        teams.install()
        yield teams
    until_served(control_plane)  # for the tests that follow


def test_a_team_gets_one_release_and_the_rights_end_with_the_platforms(installed: Teams) -> None:
    team = installed.teams[0]
    second = Release(installed.plane, team.namespace, team.values, name="another")
    with pytest.raises(HelmError, match="the release coding-agent already serves its AgentTasks"):
        second.install({"metrics": {"prometheusRule": {"enabled": False}}})
    operator = Access(installed.access(), installed.plane.plane.binaries["kubectl"])

    def allowed(namespace: str) -> bool:
        try:
            return operator.kubectl("-n", namespace, "auth", "can-i", "create", "jobs").strip() == "yes"
        except KubectlError:
            return False

    for served in (team.namespace, installed.platform.namespace):
        until("the rights are known", lambda served=served: allowed(served) or None, timeout=60)  # type: ignore[misc]
    assert not allowed("default")
    installed.platform.upgrade({"operator": {"namespaces": [installed.teams[1].namespace]}})
    until("the rights are gone", lambda: not allowed(team.namespace) or None, timeout=60)
    assert team.get("deployment", "coding-agent-receiver"), "the team's release is whole"

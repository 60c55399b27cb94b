"""One release's operator for the namespaces of others: what the one names is what the others make."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.helm import CHART, one, render

# Time for helm, which may have to be built first.
pytestmark = [pytest.mark.timeout(900), pytest.mark.xdist_group("rendered-chart")]

PLATFORM, TEAM, EVERYWHERE = (
    CHART / "ci" / f"{name}-values.yaml" for name in ("platform", "team", "cluster-wide")
)
ROLE = Path(__file__).parents[3] / "operator" / "deploy" / "role.yaml"


def job_template(objects: list[dict[str, Any]]) -> dict[str, Any]:
    config = yaml.safe_load(one(objects, "ConfigMap", "coding-agent")["data"]["config.yaml"])
    return dict(config["operator"]["job"])


def test_what_the_operator_names_is_in_the_teams_release() -> None:
    job = job_template(render(PLATFORM, namespace="platform"))
    assert job == job_template(render(EVERYWHERE, namespace="platform"))
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

"""Install, upgrade, roll back, uninstall on a real API server: what stays, what changes, what is refused."""

import base64
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.helm import CHART, HelmError
from tests.chart.release import CRD, Release
from tests.fixtures.cluster import PlaneUnderTest
from tests.fixtures.crd import until_served

# Time for helm, which may have to be built.
pytestmark = pytest.mark.timeout(900)

REQUIRED = yaml.safe_load((CHART / "ci" / "required-values.yaml").read_text())
FIRST = CHART.parents[1] / "tests" / "chart" / "first-values.yaml"
TAKE_FIELDS = ("--force-conflicts",)
"""Other tests on the same control plane put the CRD there with kubectl."""
TASK = {
    "apiVersion": "coding-agent.dev/v1alpha1",
    "kind": "AgentTask",
    "metadata": {"name": "kept"},
    "spec": {
        "source": {
            "platform": "github",
            "host": "github.com",
            "repository": "acme/pricing",
            "kind": "issue",
            "number": 1,
        },
        "trigger": {"origin": "manual", "receivedAt": "2026-01-02T03:04:05Z"},
    },
}


@pytest.fixture
def release(control_plane: PlaneUnderTest, namespace: str) -> Iterator[Release]:
    """A release that is not installed yet, and has the CRD if it is there."""
    made = Release(control_plane, namespace, REQUIRED)
    made.take_crd()
    yield made
    until_served(control_plane)  # for the tests that follow


def older_chart(folder: Path) -> Path:
    """The chart as it could have been: its CRD lacks a column and a field, and its values many keys."""
    chart = folder / "older"
    shutil.copytree(CHART, chart)  # follows the links
    shutil.copy(FIRST, chart / "values.yaml")
    file = chart / "files" / "crds" / "agenttask.yaml"
    crd = yaml.safe_load(file.read_text())
    version = crd["spec"]["versions"][0]
    version["additionalPrinterColumns"] = [
        column for column in version["additionalPrinterColumns"] if column["name"] != "Cost"
    ]
    del version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["title"]
    for rule in version["schema"]["openAPIV3Schema"]["properties"]["spec"]["x-kubernetes-validations"]:
        rule["rule"] = rule["rule"].replace("self.title == oldSelf.title && ", "")
    file.write_text(yaml.safe_dump(crd))
    return chart


def columns(release: Release) -> list[str]:
    crd: dict[str, Any] = release.cluster.get("crd", CRD)
    return [column["name"] for column in crd["spec"]["versions"][0]["additionalPrinterColumns"]]


def webhook_secret(release: Release) -> str:
    data = release.get("secret", "coding-agent-webhook")["data"]["github"]
    return base64.b64decode(data).decode()


def upgrade_as_documented(release: Release, *flags: str) -> None:
    """Without the values files, as an administrator does who wants to change one value."""
    release.helm("upgrade", release.name, str(release.chart), *flags)


def test_an_upgrade_brings_the_newer_crd_and_keeps_tasks_and_the_webhook_secret(
    release: Release, tmp_path: Path
) -> None:
    newer, release.chart = release.chart, older_chart(tmp_path)
    said = release.install(None, *TAKE_FIELDS)
    assert "Cost" not in columns(release)
    until_served(release.cluster)
    release.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(TASK))
    secret = webhook_secret(release)
    assert len(secret) == 48
    [command] = [line for line in said.splitlines() if "get secret" in line]
    arguments = command.split("kubectl ", 1)[1].split(" | ")[0].replace("'", "").split()
    assert base64.b64decode(release.cluster.kubectl(*arguments)).decode() == secret, "as the notes say"

    release.chart = newer
    release.upgrade({"receiver": {"podAnnotations": {"round": "2"}}})
    assert "Cost" in columns(release)
    assert [task["metadata"]["name"] for task in release.tasks()] == ["kept"]
    assert webhook_secret(release) == secret

    release.helm("rollback", release.name, "1")
    assert "Cost" not in columns(release)
    assert [task["metadata"]["name"] for task in release.tasks()] == ["kept"]
    assert webhook_secret(release) == secret
    pods = release.get("deployment", "coding-agent-receiver")["spec"]["template"]["metadata"]
    assert "round" not in pods["annotations"]

    release.upgrade()
    assert "Cost" in columns(release)


def test_a_second_release_is_refused_in_the_same_namespace_and_told_whose_the_crd_is_in_another(
    release: Release, new_namespace: Callable[[str], str]
) -> None:
    release.install()
    beside = Release(release.cluster, release.namespace, REQUIRED, name="another")
    with pytest.raises(HelmError, match="the release coding-agent already serves its AgentTasks"):
        beside.install({"crds": {"install": False}})
    release.upgrade()  # itself it does not mind
    second = Release(release.cluster, new_namespace("restricted"), REQUIRED)
    with pytest.raises(HelmError, match=f"belongs to release coding-agent in namespace {release.namespace}"):
        second.install()
    second.install({"crds": {"install": False}})
    assert second.get("deployment", "coding-agent-receiver")
    second.helm("uninstall", second.name)
    assert release.get("deployment", "coding-agent-receiver"), "the first is still whole"
    assert "Cost" in columns(release)

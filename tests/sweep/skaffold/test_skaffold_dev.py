"""What `skaffold dev` puts into a cluster works."""

import json
from typing import Any

import httpx2
import pytest
from coding_agent_testbed.cluster.quick_start import configuration, manifests
from coding_agent_testbed.until import NotReadyError, until

from tests.chart.release import Release
from tests.fixtures.cluster import ClusterUnderTest
from tests.fixtures.system import ROOT

# Time for what may have to be built first.
pytestmark = [pytest.mark.needs_node, pytest.mark.needs_root, pytest.mark.timeout(1500)]

CONFIG = configuration()
REPOSITORY = "/api/v3/repos/acme/pricing"
ISSUE = f"{REPOSITORY}/issues/1"


def built(images: dict[str, str]) -> dict[str, str]:
    """The images as skaffold would have built and tagged them, by their names in skaffold.yaml."""
    return {f"coding-agent-{program}": name for program, name in images.items()}


def release_arguments(images: dict[str, str]) -> list[str]:
    """The release's name, chart and values, as skaffold gives them to Helm."""
    [release] = CONFIG["deploy"]["helm"]["releases"]
    arguments = [release["name"], str(ROOT / release["chartPath"])]
    for file in release["valuesFiles"]:
        arguments += ["--values", str(ROOT / file)]
    for key, template in release["setValueTemplates"].items():
        name = next(name for name in images if f"_{name.replace('-', '_')}}}" in template)
        repository, _, tag = images[name].rpartition(":")
        arguments += ["--set-string", f"{key}={repository if 'IMAGE_REPO' in template else tag}"]
    return arguments


def deploy(release: Release, images: dict[str, str]) -> None:
    """Raw manifests with the images put in, then the chart with the values that name them."""
    for text in manifests(CONFIG, images):
        if "kind: Namespace" not in text:  # the test has one of its own, of the same Pod Security level
            release.kubectl("apply", "-f", "-", stdin=text)
    release.take_crd()
    release.helm("install", *release_arguments(images), "--wait", "--timeout=240s")


def deliveries(person: httpx2.Client) -> list[dict[str, Any]]:
    """What the repository's one webhook was sent, newest first."""
    [hook] = person.get(f"{REPOSITORY}/hooks").json()
    sent: list[dict[str, Any]] = person.get(f"{REPOSITORY}/hooks/{hook['id']}/deliveries").json()
    return sent


def wait_for_the_webhook(person: httpx2.Client) -> None:
    """Ping until a ping arrives: a Service leads to a ready pod only a moment after the pod is ready.

    A forge sends once; a person, too, looks for the green tick first.
    """

    def arrived() -> bool:
        [hook] = person.get(f"{REPOSITORY}/hooks").json()
        known = {delivery["id"] for delivery in deliveries(person)}
        person.post(f"{REPOSITORY}/hooks/{hook['id']}/pings").raise_for_status()
        ended = until(
            "the ping's end",
            lambda: [entry for entry in deliveries(person) if entry["id"] not in known],
            timeout=20,
        )
        if ended[0]["status"] != "OK":
            raise ValueError(f"the ping: {ended[0]['status']}")
        return True

    until("a ping arrives", arrived, timeout=120, interval=0.5, transient=(NotReadyError,))


def test_a_label_in_the_sandbox_becomes_a_pull_request(
    cluster: ClusterUnderTest, namespace: str, project_images: dict[str, str], enforced_policies: None
) -> None:
    release = Release(cluster, namespace)
    deploy(release, built(project_images))
    release.kubectl("rollout", "status", "deployment/forge", "deployment/model", "--timeout=110s")
    address = release.get("service", "forge")["spec"]["clusterIP"]
    person = httpx2.Client(
        base_url=f"http://{address}:8080",
        headers={"Authorization": "Bearer alice-sandbox-token"},
        timeout=20,
        trust_env=False,
    )
    with person:
        # The same Service of the forge: this is the first packet to it.
        page = until("the forge answers", lambda: person.get("/").raise_for_status().text, timeout=60)
        assert "acme/pricing" in page
        wait_for_the_webhook(person)
        person.post(f"{ISSUE}/labels", json={"labels": ["coding agent"]}).raise_for_status()

        def labels() -> set[str]:
            return {label["name"] for label in person.get(ISSUE).json()["labels"]}

        def done() -> bool:
            return "coding agent done" in labels()

        try:
            until("the label `coding agent done`", done, timeout=180, interval=0.5)
        except Exception as error:
            tasks: Any = [task.get("status") for task in release.tasks()]
            sent = [
                (delivery["event"], delivery["action"], delivery["status"]) for delivery in deliveries(person)
            ]
            pytest.fail(f"{error}; labels {labels()}; sent {sent}; tasks {json.dumps(tasks)[:3000]}")
        [change] = person.get(f"{REPOSITORY}/pulls").json()
    assert change["head"]["ref"] == "coding-agent/issue-1"
    [task] = release.tasks()
    assert task["status"]["phase"] == "Succeeded"

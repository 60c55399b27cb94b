"""helm install, a label, a pull or merge request, under restricted Pod Security with all traffic denied."""

import json
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from coding_agent_testbed.forge.model import Kind
from coding_agent_testbed.model.script import Script
from coding_agent_testbed.until import until

from tests.chart.edge import Edge, forwarder
from tests.chart.place import DENY_ALL, Place, place
from tests.chart.release import Release
from tests.e2e.pods import job_end
from tests.fixtures.cluster import ClusterUnderTest
from tests.fixtures.system import BOT, BOT_TOKEN, DONE, MODEL_KEY, REPOSITORY, SECRET, over
from tests.integration.main_job.changes import open_change
from tests.integration.main_job.scripts import finish, fixes_the_bug, write

# Time for what may have to be built first.
pytestmark = [pytest.mark.needs_node, pytest.mark.needs_root, pytest.mark.timeout(1500)]

FLOW = {BOT, "coding agent processing", DONE}


def ended(world: Place) -> dict[str, Any] | None:
    tasks = world.release.tasks()
    assert len(tasks) <= 1, [task["metadata"]["name"] for task in tasks]
    done = [t for t in tasks if t.get("status", {}).get("phase") in ("Succeeded", "Failed", "Cancelled")]
    return done[0] if done else None


def wait_for_the_change(world: Place) -> dict[str, Any]:
    task: dict[str, Any] = until("end of the task", lambda: ended(world), timeout=270, interval=0.5)
    assert task["status"]["phase"] == "Succeeded", json.dumps(task["status"], indent=1)
    until("the label", lambda: world.labels() & FLOW == {DONE}, timeout=90, interval=0.2)
    [change] = world.changes()
    assert change.head == "coding-agent/issue-1"
    return task


def test_a_signed_webhook_through_the_ingress_ends_as_a_pull_request(
    cluster: ClusterUnderTest,
    namespace: str,
    project_images: dict[str, str],
    enforced_policies: None,
    edge: Edge,
    stack: ExitStack,
    tmp_path: Path,
) -> None:
    of_changes = Script(match="A feature", turns=(write("notes.md", "hello\n"), finish("Added notes.")))
    scripts = [of_changes, *fixes_the_bug()]
    world = place(stack, cluster, namespace, project_images, tmp_path, "github", scripts)
    release = world.release
    release.kubectl("apply", "-f", "-", stdin=json.dumps(DENY_ALL))
    edge.provide(release)
    commands = {"config": {"webhook": {"commands": {"enabled": True}}}}
    release.install(over(edge.values(), commands), "--wait", "--timeout", "240s")
    assert "Phase:          Succeeded" in release.helm("test", release.name, "--timeout", "180s")
    assert release.tasks() == [], "helm test has removed its task"

    edge.wait()
    hook = stack.enter_context(forwarder(edge))
    world.forge.add_hook(REPOSITORY, f"{hook}/webhook/github", SECRET)
    world.forge.add_label(REPOSITORY, 1, BOT)
    task = wait_for_the_change(world)
    [comment] = world.comments()
    assert "done" in comment
    assert task["spec"]["trigger"]["origin"] == "webhook"
    row = release.kubectl("get", "agenttasks", "--no-headers")
    assert "Succeeded" in row
    assert [attempt["outcome"] for attempt in task["status"]["attempts"]] == ["Succeeded"]

    # Commands: the receiver stores them, the reporter asks the forge who wrote them, and executes them.
    world.forge.comment(REPOSITORY, 1, "/retry", by="alice")
    until("an answer", lambda: world.reactions() == {"eyes"}, timeout=90, interval=0.2)

    # A change is worked on in its own branch.
    change = open_change(world)  # type: ignore[arg-type] # a place has what it needs of a system
    world.forge.add_label(REPOSITORY, change, BOT, kind=Kind.CHANGE)
    done = lambda: world.forge.labels(REPOSITORY, change, Kind.CHANGE) & FLOW == {DONE}  # noqa: E731
    until("the change's label", done, timeout=180, interval=0.2)
    assert len(world.changes()) == 2, "no third one is opened"

    everything = release.kubectl("get", "configmaps,deployments,jobs,pods,agenttasks", "-o", "json")
    pods = release.get("pods", "-l", "batch.kubernetes.io/job-name")["items"]
    logs = [release.kubectl("logs", pod["metadata"]["name"], "--all-containers") for pod in pods]
    assert any("starts" in log for log in logs)
    everything += "".join(logs)
    for secret in (BOT_TOKEN, MODEL_KEY, SECRET):
        assert secret not in everything

    release.helm("uninstall", release.name, "--wait", "--timeout", "120s")
    left = {entry["metadata"]["name"] for entry in release.tasks()}
    assert task["metadata"]["name"] in left
    assert len(left) == 2, "tasks outlive the release"


def poll(release: Release) -> None:
    """Have the forge polled now, as a person would, who does so again when that fails.

    The CronJob tries once: its next run is the second try. Ours may come before the node knows what the
    policies say about its pod.
    """
    for number in (1, 2, 3):
        name = f"poll-{number}"
        release.kubectl("create", "job", name, "--from=cronjob/coding-agent-poller-gitlab")
        how = partial(job_end, release.cluster, release.namespace, name)
        if until(f"the end of {name}", how, timeout=180, interval=0.5) == "Complete":
            return
    pytest.fail(release.kubectl("logs", f"job/{name}"))


def test_the_poller_finds_what_no_webhook_brought_on_a_forge_of_a_private_authority(
    cluster: ClusterUnderTest,
    namespace: str,
    project_images: dict[str, str],
    enforced_policies: None,
    stack: ExitStack,
    tmp_path: Path,
) -> None:
    """Poller, reporter, the attempt's requests and its git trust it; the person has settings of their own."""
    scripts = fixes_the_bug()
    world = place(stack, cluster, namespace, project_images, tmp_path, "gitlab", scripts, "authorities")
    assert world.forge.api_url.startswith("https://")
    release = world.release
    prompt = "You fix prices."
    more = {
        "polling": {"enabled": True, "schedule": "0 0 1 1 *"},
        "userConfig": {"enabled": True, "users": {"gitlab": {"alice": {"system_prompt": prompt}}}},
    }
    release.values = over(release.values, more)
    release.install(None, "--wait", "--timeout", "240s")
    world.forge.add_label(REPOSITORY, 1, BOT)
    poll(release)
    task = wait_for_the_change(world)
    assert task["spec"]["trigger"]["origin"] == "poll"
    assert prompt in json.dumps(world.model.requests[0])

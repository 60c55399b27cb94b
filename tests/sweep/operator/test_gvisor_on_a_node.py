"""Attempts in gVisor on a real node: from label to pull request, and a removed label ends the pod."""

import pytest
from coding_agent_testbed.cluster import gvisor
from coding_agent_testbed.cluster.cluster import Cluster

from tests.fixtures.system import DONE, PROCESSING, REPOSITORY
from tests.fixtures.system_in_pods import StartPods
from tests.integration.main_job.scripts import finish, run, script, write

# Time for what may have to be built first.
pytestmark = [pytest.mark.needs_node, pytest.mark.needs_root, pytest.mark.timeout(1500)]

CLASSES = {"runtime_classes": {"trusted": gvisor.RUNTIME_CLASS, "untrusted": gvisor.RUNTIME_CLASS}}


def test_from_label_to_pull_request_with_a_kernel_of_its_own(
    own_cluster: Cluster, start_pods: StartPods
) -> None:
    gvisor.enable(own_cluster)
    kernel = run("dmesg | head -1; git status --short; python3 -c 'print(6 * 7)'")
    system = start_pods("github", script(kernel, write("answer.md", "42\n"), finish()), job=CLASSES)
    system.put_label(1)
    system.wait_for_phase("Succeeded")
    [pod] = system.pods()
    assert pod["spec"]["runtimeClassName"] == gvisor.RUNTIME_CLASS
    said = str(system.model.requests[1]["messages"][-1]["content"])
    assert "gVisor" in said, "the command ran on gVisor's kernel"
    assert "42" in said
    assert system.file_at("coding-agent/issue-1", "answer.md") == "42\n"
    system.wait("the label", lambda: DONE in system.labels(1), 60)


def test_a_removed_label_ends_the_pod_and_what_a_command_started(
    own_cluster: Cluster, start_pods: StartPods
) -> None:
    gvisor.enable(own_cluster)
    hangs = run("echo started > begun; sleep 3600 & sleep 3600")
    system = start_pods("github", script(hangs, finish()), job=CLASSES)
    system.put_label(1)
    system.wait_for_requests(1)
    [pod] = system.pods()
    system.wait_for_file(pod["metadata"]["name"], "begun")
    system.wait_for_label(1, PROCESSING)
    system.forge.remove_label(REPOSITORY, 1, PROCESSING)
    system.wait_for_phase("Cancelled")
    system.wait("no pod", lambda: not system.pods(), 60)

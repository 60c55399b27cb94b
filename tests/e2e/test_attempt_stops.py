"""Attempts that are stopped on a real node: by a person, by the cluster, by time. Work so far is pushed."""

import os
import re
import signal
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.fixtures.cluster import Chaos
from tests.fixtures.system import BOT, DONE, PROCESSING
from tests.fixtures.system_in_pods import PodSystem, StartPods
from tests.fixtures.watcher import Object, Watcher
from tests.integration.main_job.scripts import finish, run, script, write

pytestmark = [pytest.mark.needs_node, pytest.mark.timeout(1500)]

BRANCH = "coding-agent/issue-1"
GRACE = 20.0
LONG = "sleep 600"
ONCE = f"if test -e begun.md; then echo again; else echo begun > begun.md; {LONG}; fi"
"""Hangs the first time; a pod that continues finds what the first one pushed."""


def test_a_cancelled_attempt_is_gone_in_time_and_has_pushed_its_work(start_pods: StartPods) -> None:
    system = start_pods("github", script(write("begun.md", "begun\n"), run(LONG), finish()))
    system.put_label(1)
    system.wait_for_requests(2)
    system.wait_for_label(1, PROCESSING)
    with Deletions(system) as deletions:
        system.forge.remove_label("acme/pricing", 1, PROCESSING)
        system.wait("the pod is gone", lambda: deletions.seconds, 2 * GRACE)
    [took] = deletions.seconds
    assert took < GRACE + 5
    assert system.pods() == []
    task = system.wait_for_phase("Cancelled")
    assert task["status"]["attempts"][0]["outcome"] == "Cancelled"
    assert system.file_at(BRANCH, "begun.md") == "begun\n"
    assert system.changes() == []
    assert task["status"]["result"]["usage"]["requests"] == 2, "its last words are kept"
    assert BRANCH in system.wait_for_comment(1, "Coding agent: cancelled"), "where its work is"
    assert not system.labels(1) & {BOT, PROCESSING, DONE}
    assert len(system.comments(1)) == 1


def test_an_evicted_attempt_goes_on_in_another_pod_and_does_not_count(start_pods: StartPods) -> None:
    system = start_pods("github", script(run(ONCE), finish()))
    system.put_label(1)
    system.wait_for_requests(1)
    [pod] = system.pods()
    system.wait_for_file(str(pod["metadata"]["name"]), "begun.md")
    eviction = {"metadata": {"name": pod["metadata"]["name"], "namespace": system.namespace}}
    system.cluster.core.create_namespaced_pod_eviction(
        pod["metadata"]["name"], system.namespace, eviction, _request_timeout=60
    )
    task = system.wait_for_phase("Succeeded")
    assert task["status"]["attempt"] == "1/3"
    [attempt] = task["status"]["attempts"]
    assert (attempt["outcome"], attempt["counted"]) == ("Succeeded", True), "a pod of the same Job went on"
    assert system.file_at(BRANCH, "begun.md") == "begun\n", "pushed within the grace time"
    assert [change.head for change in system.changes()] == [BRANCH]


def test_a_restarted_node_does_not_cost_an_attempt(start_pods: StartPods, chaos: Chaos) -> None:
    # Nothing can be pushed at the end: what the first pod's first step left was pushed after it.
    turns = (
        run("if test -e begun.md; then echo seen > seen.md; else echo begun > begun.md; fi"),
        run(f"test -e seen.md || {LONG}"),
        finish(),
    )
    system = start_pods("github", script(*turns), consumer={"checkpoint_interval": 1e-9})
    system.put_label(1)
    system.wait_for_requests(2)
    [pod] = system.pods()
    for part in ("kubelet", "containerd"):
        chaos.kill(part)
    assert end_with_the_node(pod["metadata"]["uid"])
    for part in ("containerd", "kubelet"):
        chaos.start(part)
    task = system.wait_for_phase("Succeeded", 120)
    first, *_ = task["status"]["attempts"]
    assert (first["outcome"], first["counted"]) == ("Disrupted", False)
    assert task["status"]["attempt"] == "1/3"
    assert system.file_at(BRANCH, "seen.md") == "seen\n", "it went on from what was pushed"
    assert len(system.changes()) == 1


def test_the_time_limit_is_reported_as_such(start_pods: StartPods) -> None:
    turns = (write("begun.md", "begun\n"), run(LONG), finish())
    system = start_pods("github", script(*turns), consumer={"timeout_seconds": 30})
    system.put_label(1)
    task = system.wait_for_phase("Failed")
    [attempt] = task["status"]["attempts"]
    assert (attempt["outcome"], attempt["reason"]) == ("Failed", "DeadlineExceeded")
    assert "did not finish within" in attempt["message"]
    assert task["status"]["result"]["branch"] == BRANCH
    assert system.file_at(BRANCH, "begun.md") == "begun\n"
    assert "DeadlineExceeded" in system.wait_for_comment(1, "Coding agent: failed")


class Deletions(Watcher):
    """The seconds that each pod took to be gone since it was deleted, give or take one: the API server
    tells no parts of seconds."""

    def __init__(self, system: PodSystem) -> None:
        super().__init__(system.cluster.core.list_namespaced_pod, system.namespace)
        self.seconds: list[float] = []

    def see(self, kind: str, found: Object) -> None:
        if kind != "DELETED":
            return
        # The timestamp is the end of the grace period, which the last word on a pod sets to nothing.
        meta = found["metadata"]
        grace = timedelta(seconds=meta["deletionGracePeriodSeconds"])
        began = datetime.fromisoformat(meta["deletionTimestamp"]) - grace
        self.seconds.append((datetime.now(UTC) - began).total_seconds())


def end_with_the_node(uid: str) -> int:
    """Kill a pod's processes and the shims that would tell of their end; how many shims there were.

    The shims are those of the containers whose control groups lie below the pod's.
    """
    mine = processes_of(uid)
    containers = {found for pid in mine for found in re.findall(r"[0-9a-f]{64}", groups_of(pid))}
    shims = [
        pid
        for pid in map(int, filter(str.isdigit, os.listdir("/proc")))
        if "containerd-shim" in (command := read(pid, "cmdline"))
        and any(container in command for container in containers)
    ]
    kill(shims)
    while mine:  # again: a shell may have started another process while we looked
        kill(mine)
        mine = processes_of(uid)
    return len(shims)


def processes_of(uid: str) -> list[int]:
    """The living processes of a pod: one that has ended has no command line."""
    pids = map(int, filter(str.isdigit, os.listdir("/proc")))
    return [pid for pid in pids if uid in groups_of(pid) and read(pid, "cmdline")]


def kill(pids: list[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def groups_of(pid: int) -> str:
    return read(pid, "cgroup")


def read(pid: int, file: str) -> str:
    try:
        return Path(f"/proc/{pid}/{file}").read_text(errors="replace")
    except OSError:
        return ""

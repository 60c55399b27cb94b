"""Attempts as processes: started once, ended with all they have started, whoever was killed when."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from coding_agent_core.kubernetes.transport import ApiError
from coding_agent_core.task.agenttask import KIND
from coding_agent_core.task_file.objects import ObjectFile
from coding_agent_core.task_file.tasks import FileTasks
from coding_agent_operator.cluster.observed import ACTIVE, Job, Pod
from coding_agent_operator.one_machine import supervise
from coding_agent_operator.one_machine.attempts import ProcessAttempts
from coding_agent_operator.one_machine.processes import Processes, State
from coding_agent_testbed.until import until_async

SCRIPT = """
import os, signal, subprocess, sys, time
folder, what = sys.argv[1], os.environ["WHAT"]
open(f"{folder}/begun", "a").write("x")
if what == "end":
    open(os.environ["TERMINATION_LOG"], "w").write("the outcome")
    sys.exit(65)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
child = subprocess.Popen(["sleep", "600"], start_new_session=True)
open(f"{folder}/child", "w").write(str(child.pid))
time.sleep(600)  # not a wait
"""
DEADLINE_S = 60


class Machine:
    """The file, and the attempts of one process after the other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.objects = ObjectFile(folder / "tasks.sqlite")
        self.task = self.objects.create(KIND, {"metadata": {"name": "issue-1"}, "spec": {}})

    def attempts(self) -> ProcessAttempts:
        command = [sys.executable, "-c", SCRIPT, str(self.folder)]
        processes = Processes(self.folder / "attempts", command, self.folder)
        return ProcessAttempts(self.objects, FileTasks(self.objects), processes, lambda: datetime.now(UTC))

    def manifest(
        self,
        what: str,
        *,
        time_limit: float = 600,
        grace: int = 1,  # meant to expire
    ) -> dict[str, Any]:
        assert self.task is not None
        owner = {"kind": KIND, "name": "issue-1", "uid": self.task["metadata"]["uid"], "controller": True}
        pod = {
            "terminationGracePeriodSeconds": grace,
            "containers": [{"name": "agent", "env": [{"name": "WHAT", "value": what}]}],
        }
        labels = {"coding-agent.dev/active": "true"}
        return {
            "metadata": {"name": "issue-1-1", "labels": labels, "ownerReferences": [owner]},
            "spec": {
                "activeDeadlineSeconds": time_limit,
                "template": {"metadata": {"labels": {}}, "spec": pod},
            },
        }

    @property
    def begun(self) -> int:
        """How many times the attempt has begun."""
        file = self.folder / "begun"
        return len(file.read_text()) if file.exists() else 0

    @property
    def child(self) -> int:
        """A process that the attempt has started in a session of its own."""
        file = self.folder / "child"
        return int(file.read_text() or 0) if file.exists() else 0


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@asynccontextmanager
async def running(attempts: ProcessAttempts) -> AsyncIterator[ProcessAttempts]:
    work = asyncio.create_task(attempts.run())
    try:
        yield attempts
    finally:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)


async def ended(attempts: ProcessAttempts) -> tuple[Job | None, Pod]:
    """The Job, if it was not deleted, and its pod when it is over."""

    async def over() -> Pod | None:
        [pod] = await attempts.pods_of("issue-1-1")
        return pod if pod.over else None

    pod = await until_async("the pod is over", over, timeout=DEADLINE_S)
    return await attempts.get_job("issue-1-1"), pod


async def test_the_outcome_and_the_exit_code_are_read_from_what_the_attempt_left(machine: Machine) -> None:
    async with running(machine.attempts()) as attempts:
        await attempts.create_job(machine.manifest("end"))
        job, pod = await ended(attempts)
        with pytest.raises(ApiError) as refused:
            await attempts.create_job(machine.manifest("end"))
    assert refused.value.status == 409
    assert job is not None
    assert (job.failure, job.ready) == ("BackoffLimitExceeded", 0)
    assert (pod.phase, pod.exit_code, pod.log) == ("Failed", 65, "the outcome")


async def test_an_attempt_whose_start_was_cut_off_is_started_by_the_next_process(machine: Machine) -> None:
    killed = machine.attempts()
    killed._start = lambda body: None  # type: ignore[method-assign]  # killed between the record and the start
    await killed.create_job(machine.manifest("end"))
    async with running(machine.attempts()) as attempts:
        _, pod = await ended(attempts)
    assert pod.exit_code == 65
    assert machine.begun == 1


async def test_an_attempt_that_runs_is_found_again_and_not_started_twice(machine: Machine) -> None:
    await machine.attempts().create_job(machine.manifest("hang"))
    others = [machine.attempts() for _ in range(3)]
    for other in others:  # none of them knows that a start is under way
        other._start(machine.objects.list("Job")[0][0])
    await until_async("it works", lambda: machine.child, timeout=DEADLINE_S)
    async with running(others[0]) as attempts:
        [job] = (await attempts.list_jobs(ACTIVE))[0]
        deleting = await attempts.delete_job(job)
        assert deleting is not None
        assert deleting.deleting
        left, pod = await ended(attempts)
    assert left is None, "the Job is gone with its pod"
    assert pod.exit_code == 137, "it did not end on SIGTERM"
    assert machine.begun == 1
    assert supervise.start_time(machine.child) is None, "nothing that it has started lives on"


async def test_an_attempt_ends_at_its_time_limit_though_nobody_watches(machine: Machine) -> None:
    await machine.attempts().create_job(machine.manifest("hang", time_limit=2))
    async with running(machine.attempts()) as attempts:
        _, pod = await ended(attempts)
    assert (pod.reason, pod.exit_code) == ("DeadlineExceeded", 137)


async def test_an_attempt_that_was_stopped_before_it_began_never_begins(machine: Machine) -> None:
    killed = machine.attempts()
    killed._start = lambda body: None  # type: ignore[method-assign]
    job = await killed.create_job(machine.manifest("end"))
    async with running(machine.attempts()) as attempts:
        await attempts.delete_job(job)
        left, _ = await ended(attempts)
        late = machine.attempts()
        late._processes.start(f"issue-1-1.{job.uid[:8]}", {"WHAT": "end"}, 10, 1)
        await until_async(
            "its supervisor ends",
            lambda: all(child.poll() is not None for child in late._processes._children.values()),
            timeout=DEADLINE_S,
        )
    assert left is None
    assert machine.begun == 0


async def test_the_attempt_of_a_deleted_task_is_ended(machine: Machine) -> None:
    async with running(machine.attempts()) as attempts:
        await attempts.create_job(machine.manifest("hang"))
        await until_async("it works", lambda: machine.child, timeout=DEADLINE_S)
        assert machine.objects.delete(KIND, "issue-1")
        left, _ = await ended(attempts)
    assert left is None


async def test_another_process_with_the_recorded_id_is_left_alone(machine: Machine) -> None:
    stranger = subprocess.Popen(["sleep", "600"])
    try:
        folder = machine.folder / "attempts" / "x.1"
        folder.mkdir(parents=True)
        record = f'{{"pid": {stranger.pid}, "started": "1", "boot": "{supervise.boot_id()}"}}'
        (folder / "process").write_text(record)
        processes = Processes(machine.folder / "attempts", ["true"], machine.folder)
        assert processes.state("x.1") is State.ENDED
        processes.terminate("x.1")
        processes.kill("x.1")
        assert processes.exit_of("x.1").code == 137
        assert not processes.exit_of("x.1").lost
        (folder / "process").write_text(record.replace(supervise.boot_id(), "an earlier one"))
        assert processes.exit_of("x.1").lost, "it ended with the machine"
        assert stranger.poll() is None
    finally:
        os.kill(stranger.pid, 9)
        stranger.wait(60)

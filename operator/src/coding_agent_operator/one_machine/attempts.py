"""Attempts as processes: `Attempts` of one machine, with what Job controller and kubelet do on Kubernetes.

A Job and its pod are records in the file of the tasks. What a killed process of ours has left half done is
done by the next one: it compares the records with the processes, again and again.

1. `create_job` stores Job and pod, and then starts the process. After a kill in between, `_advance` does so.
2. An attempt that has recorded itself is never started again. If it no longer runs, it has ended.
3. How it ended is in its own records, so nobody has to be there when it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from coding_agent_core.kubernetes.transport import ApiError, Body
from coding_agent_core.runtime.background import forever
from coding_agent_core.task.agenttask import KIND, LABEL_ACTIVE
from coding_agent_core.task.model import parse_time
from coding_agent_core.task.objects import Metadata, controller_of
from coding_agent_core.task_file.objects import NAMESPACE, ObjectFile
from coding_agent_core.task_file.tasks import FileTasks, merged

from coding_agent_operator.cluster.observed import (
    AGENT_CONTAINER,
    JOB_NAME_LABEL,
    JOB_UID_LABEL,
    Job,
    Pod,
    read_job,
    read_pod,
    read_pods,
)
from coding_agent_operator.one_machine.processes import Processes, State

_logger = logging.getLogger("operator.attempts")

_JOB, _POD = "Job", "Pod"
_CHECK_S = 0.2
"""Between two looks at the processes that run. A look reads one small file of each."""
_PURGE_S = 60.0
_OVERDUE = timedelta(seconds=10)
"""A supervisor that has not ended an attempt this long after its grace time is killed with it."""
_POD_KEPT = timedelta(days=1)
"""How long the pod of a deleted Job is kept, for the reconcile that records its report."""


class ProcessAttempts:
    """The attempts of one machine. `Attempts` describes the methods that it also has.

    Args:
        objects: the file with the Jobs and pods, which also has the tasks.
    """

    def __init__(
        self, objects: ObjectFile, tasks: FileTasks, processes: Processes, now: Callable[[], datetime]
    ) -> None:
        self.namespace = NAMESPACE
        self.tasks = tasks
        self._objects = objects
        self._processes = processes
        self._now = now
        self._wake = asyncio.Event()
        self._terminated: set[str] = set()
        self._replayed = False

    async def run(self) -> None:
        """Keep Jobs and processes in agreement until cancelled."""
        clock = asyncio.get_running_loop().time
        purge_due = clock()

        async def once() -> float:
            nonlocal purge_due
            self._wake.clear()
            unfinished, _ = self._objects.list(_JOB, "", "status.completionTime=")
            for body in unfinished:
                await self._advance(body)
            if clock() >= purge_due:
                purge_due = clock() + _PURGE_S
                await self._purge()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CHECK_S if unfinished else _PURGE_S):
                    await self._wake.wait()
            return 0.0

        await forever("attempts", once)

    async def probe(self) -> None:
        await self.tasks.probe()

    async def missing_runtime_classes(self, names: Iterable[str]) -> list[str]:
        return list(names)  # a process has none

    async def list_jobs(self, labels: str) -> tuple[list[Job], int]:
        found, version = self._objects.list(_JOB, labels)
        return [read_job(body) for body in found], version

    async def watch_jobs(self, labels: str, version: int, seconds: float) -> AsyncIterator[tuple[str, Job]]:
        """Yield the type and the Job of each change after a version, for some seconds."""
        async for kind, body in self._objects.watch(_JOB, labels, "", version, seconds):
            yield kind, read_job(body)

    async def get_job(self, name: str) -> Job | None:
        body = self._objects.get(_JOB, name)
        return None if body is None else read_job(body)

    async def create_job(self, manifest: Body) -> Job:
        name, template = manifest["metadata"]["name"], manifest["spec"]["template"]
        with self._objects.transaction():
            body = self._objects.create(_JOB, manifest)
            if body is None:
                raise ApiError(f"the Job {name} exists", 409)
            uid = body["metadata"]["uid"]
            metadata = template["metadata"]
            pod = {
                "metadata": {
                    **metadata,
                    "name": _process_of(body),
                    "labels": {**metadata["labels"], JOB_UID_LABEL: uid, JOB_NAME_LABEL: name},
                },
                "status": {"phase": "Pending"},
            }
            self._objects.create(_POD, pod)
        self._start(body)
        self._wake.set()
        return read_job(body)

    async def delete_job(self, job: Job) -> Job | None:
        grace = timedelta(seconds=0)

        def mark(body: Body) -> Body | None:
            nonlocal grace
            if Metadata.of(body).uid != job.uid:
                return None
            if Metadata.of(body).deleting:
                return body
            grace = _grace(body)
            return merged(body, {"metadata": {"deletionTimestamp": self._stamp(timedelta())}})

        with self._objects.transaction():
            body = self._objects.change(_JOB, job.name, mark)
            if body is None:
                return None
            if read_job(body).finished:
                self._objects.delete(_JOB, job.name)
                return None
            gone_by = {"metadata": {"deletionTimestamp": self._stamp(grace)}}
            self._objects.change(
                _POD,
                _process_of(body),
                lambda pod: pod if Metadata.of(pod).deleting else merged(pod, gone_by),
            )
        self._wake.set()
        return read_job(body)

    async def release_job(self, job: Job, keep_seconds: int) -> Job | None:
        patch = {
            "metadata": {"labels": {LABEL_ACTIVE: None}},
            "spec": {"ttlSecondsAfterFinished": keep_seconds},
        }
        body = self._objects.change(
            _JOB, job.name, lambda body: merged(body, patch) if Metadata.of(body).uid == job.uid else None
        )
        return None if body is None else read_job(body)

    async def pods_of(self, job: str) -> tuple[Pod, ...]:
        return read_pods(self._objects.list(_POD, f"{JOB_NAME_LABEL}={job}")[0])

    async def setup_failures(self, pod: str) -> list[str]:
        return []

    async def list_running_pods(self, labels: str) -> tuple[Sequence[Pod], str]:
        found, version = self._objects.list(_POD, labels, "status.phase!=Succeeded,status.phase!=Failed")
        # The first watch also shows the pods that ended while nobody watched, for their reports.
        first, self._replayed = not self._replayed, True
        return read_pods(found), "0" if first else str(version)

    async def watch_pods(self, labels: str, version: str, seconds: int) -> AsyncIterator[tuple[str, Pod]]:
        async for kind, body in self._objects.watch(_POD, labels, "", int(version), seconds):
            yield kind, read_pod(body)

    async def list_workloads(self) -> list[Body]:
        raise ApiError("there is no Kueue on one machine", 404)

    async def _advance(self, body: Body) -> None:
        """Bring one Job and its process one step closer to each other."""
        job, process = read_job(body), _process_of(body)
        if not job.deleting and self._is_orphan(body):
            await self.delete_job(job)  # as the garbage collector deletes the Job of a deleted task
            return
        match self._processes.state(process):
            case State.ABSENT if job.deleting:
                self._processes.refuse(process)
            case State.ABSENT:
                self._start(body)
            case State.RUNNING:
                self._show_running(body)
                if job.deleting:
                    self._stop(body)
            case State.ENDED:
                await self._finish(body)

    def _is_orphan(self, body: Body) -> bool:
        owner = controller_of(body)
        task = self._objects.get(KIND, str(owner.get("name")))
        return task is None or Metadata.of(task).uid != owner.get("uid")

    def _start(self, body: Body) -> None:
        template = body["spec"]["template"]["spec"]
        [agent] = template["containers"]
        variables = {entry["name"]: entry["value"] for entry in agent["env"]}
        try:
            self._processes.start(
                _process_of(body), variables, body["spec"]["activeDeadlineSeconds"], _grace(body).seconds
            )
        except OSError as error:
            _logger.warning("%s cannot be started yet: %s", body["metadata"]["name"], error)

    def _stop(self, body: Body) -> None:
        process = _process_of(body)
        if process not in self._terminated:
            self._terminated.add(process)
            self._processes.terminate(process)
            return
        asked = parse_time(body["metadata"]["deletionTimestamp"])
        if asked is not None and self._now() > asked + _grace(body) + _OVERDUE:
            self._processes.kill(process)

    def _show_running(self, body: Body) -> None:
        if (body.get("status") or {}).get("ready"):
            return
        running = [{"name": AGENT_CONTAINER, "state": {"running": {"startedAt": self._stamp(timedelta())}}}]
        status = {"status": {"phase": "Running", "containerStatuses": running}}
        with self._objects.transaction():
            self._objects.change(_POD, _process_of(body), lambda pod: merged(pod, status))
            self._objects.change(_JOB, body["metadata"]["name"], lambda job: merged(job, _READY))

    async def _finish(self, body: Body) -> None:
        """Record how an attempt ended. Its Job is deleted then, if somebody asked for it."""
        name, process = body["metadata"]["name"], _process_of(body)
        ended, at = self._processes.exit_of(process), self._stamp(timedelta())
        terminated = {
            "exitCode": ended.code,
            # As containerd says of a container that ran when its machine went down.
            "reason": "Unknown" if ended.lost else "Completed" if ended.code == 0 else "Error",
            "message": self._processes.message_of(process),
        }
        status = {
            "phase": "Failed" if ended.code or ended.late else "Succeeded",
            "reason": "DeadlineExceeded" if ended.late else None,
            "containerStatuses": [{"name": AGENT_CONTAINER, "state": {"terminated": terminated}}],
        }
        succeeded = status["phase"] == "Succeeded"
        condition = {
            "type": "Complete" if succeeded else "Failed",
            "status": "True",
            "reason": "" if succeeded else "BackoffLimitExceeded",
            "lastTransitionTime": at,
        }
        with self._objects.transaction():
            self._objects.change(_POD, process, lambda pod: merged(pod, {"status": status}))
            over = {"status": {"ready": 0, "completionTime": at, "conditions": [condition]}}
            job = self._objects.change(_JOB, name, lambda stored: merged(stored, over))
            if job is not None and Metadata.of(job).deleting:
                self._objects.delete(_JOB, name)
        self._terminated.discard(process)
        await asyncio.to_thread(self._processes.clean, process)

    async def _purge(self) -> None:
        """Delete the records and folders of attempts that ended long ago."""
        now, kept = self._now(), set()
        for body in self._objects.list(_JOB)[0]:
            ttl, ended = body["spec"].get("ttlSecondsAfterFinished"), read_job(body).finished_at
            old = ttl is not None and ended is not None and ended + timedelta(seconds=ttl) < now
            if old or (ended is not None and self._is_orphan(body)):
                self._objects.delete(_JOB, body["metadata"]["name"])
            else:
                kept.add(body["metadata"]["uid"])
        for body in self._objects.list(_POD)[0]:
            pod = read_pod(body)
            if pod.job_uid not in kept and pod.over and pod.created + _POD_KEPT < now:
                await asyncio.to_thread(self._processes.forget, pod.name)
                self._objects.delete(_POD, pod.name)

    def _stamp(self, later: timedelta) -> str:
        return (self._now() + later).strftime("%Y-%m-%dT%H:%M:%SZ")


_READY: Mapping[str, Any] = {"status": {"ready": 1}}


def _process_of(job: Mapping[str, Any]) -> str:
    """Return the name of a Job's pod and of its process's folder; a later Job of its name has another."""
    return f"{job['metadata']['name']}.{job['metadata']['uid'][:8]}"


def _grace(job: Mapping[str, Any]) -> timedelta:
    return timedelta(seconds=job["spec"]["template"]["spec"]["terminationGracePeriodSeconds"])

"""Watches the pods of attempts: which pods still run, and what deleted pods reported."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from coding_agent_core.kubernetes.transport import ApiError
from coding_agent_core.runtime.background import forever
from coding_agent_core.runtime.retry import backoff

from coding_agent_operator.cluster.attempts import Attempts
from coding_agent_operator.cluster.observed import TASK_PODS, Job, Pod

_logger = logging.getLogger("operator.attempt_pods")

_KEPT = 1000
"""The reports of this many Jobs are kept: far more than can end between two reconciles."""
_WATCH_S = 300
_RETRY_FIRST_S, _RETRY_MAX_S = 1.0, 60.0


class AttemptPods:
    """Lists and watches the attempts' pods of a namespace.

    Running pods count against the limits even if nothing else shows them. For example, `kubectl delete
    agenttask` deletes in the background: task and Job are gone at once, and the pod continues to work for its
    grace time.

    The last reports of agents whose pods were deleted are kept too. The kubelet writes how a container ended
    and lets the pod go within a fraction of a second, so a reconcile may come too late to read it. A watch
    misses nothing: the event of a deletion contains the object's last version.

    Args:
        ended: called with the uid of a Job when the agent of one of its pods has ended.
        gone: called when a pod no longer runs.
    """

    def __init__(self, cluster: Attempts, ended: Callable[[str], None], gone: Callable[[], None]) -> None:
        self._cluster = cluster
        self._ended = ended
        self._gone = gone
        self._running: dict[str, Pod] = {}
        self._failures = 0
        self._reports: OrderedDict[str, dict[str, Pod]] = OrderedDict()
        self.listed = asyncio.Event()
        """Set once all pods were listed. Until then, `running` may lack pods that run."""

    @property
    def running(self) -> list[Pod]:
        """The pods that have not ended, including pods that wait to start or are being deleted."""
        return list(self._running.values())

    def added_to(self, job: Job, pods: tuple[Pod, ...]) -> tuple[Pod, ...]:
        """Return a Job's existing pods together with its remembered deleted ones, oldest first."""
        known = {pod.name for pod in pods}
        gone = [pod for name, pod in self._reports.get(job.uid, {}).items() if name not in known]
        return tuple(sorted([*pods, *gone], key=lambda pod: (pod.created, pod.name))) if gone else pods

    def of(self, job: str, since: datetime) -> tuple[Pod, ...]:
        """Return the remembered pods of a Job that is gone, oldest first.

        Args:
            since: pods created earlier are left out, because an older Job may have had the same name.
        """
        pods = [pod for known in self._reports.values() for pod in known.values()]
        found = [pod for pod in pods if pod.job_name == job and pod.created >= since.replace(microsecond=0)]
        return tuple(sorted(found, key=lambda pod: (pod.created, pod.name)))

    def take(self, kind: str, pod: Pod) -> None:
        """Process a watch event of a pod."""
        if kind == "DELETED" or pod.over:
            if self._running.pop(pod.uid, None) is not None:
                self._gone()
        else:
            self._running[pod.uid] = pod
        if pod.exit_code is None or not pod.job_uid:
            return
        if kind == "DELETED":
            pod = replace(pod, phase="Failed" if pod.exit_code else "Succeeded")
        self._reports.setdefault(pod.job_uid, {})[pod.name] = pod
        self._reports.move_to_end(pod.job_uid)
        if len(self._reports) > _KEPT:
            self._reports.popitem(last=False)
        self._ended(pod.job_uid)

    async def run(self) -> None:
        """List the pods, then watch them, until cancelled.

        While this fails, the operator learns how an attempt ended only if a reconcile reads the pod in time,
        and it counts only the pods of the last list.
        """
        await forever("pods", self._list_and_watch)

    async def _list_and_watch(self) -> float:
        clock = asyncio.get_running_loop().time
        began, problem = clock(), "the API server ended the watch at once"
        try:
            pods, version = await self._cluster.list_running_pods(TASK_PODS)
            self._running = {pod.uid: pod for pod in pods}
            self.listed.set()
            self._gone()
            async for kind, pod in self._cluster.watch_pods(TASK_PODS, version, _WATCH_S):
                self.take(kind, pod)
        except ApiError as error:
            problem = str(error)
        if clock() - began > _RETRY_MAX_S:
            self._failures = 0  # the watch has worked; the next one starts at once to miss little
            return 0.0
        self._failures += 1
        wait = backoff(self._failures, _RETRY_FIRST_S, _RETRY_MAX_S)
        _logger.warning("Pods cannot be watched: %s; next try in %.0f s", problem, wait)
        return wait

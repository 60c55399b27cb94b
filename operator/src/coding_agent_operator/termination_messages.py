"""What the agents of deleted pods said last.

The kubelet writes how a container ended and lets the pod go within a fraction of a second, sooner than
anybody looks. A watch has it for certain: the event of a deletion carries the object as it was at last.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from coding_agent_core.kubernetes.transport import ApiError

from coding_agent_operator.cluster import Cluster
from coding_agent_operator.observed import ATTEMPTS, Job, Pod, read_pod

_logger = logging.getLogger("operator.termination_messages")
_KEPT = 1000
"""Jobs whose pods are remembered: far more than end between two looks."""
_WATCH_S = 300
_RETRY_FIRST_S, _RETRY_MAX_S = 1.0, 60.0


class TerminationMessages:
    """The ended pods of attempts, as long as their ends are news; what was before the start is not in it."""

    def __init__(self, cluster: Cluster, told: Callable[[str], None]) -> None:
        self._cluster = cluster
        self._told = told
        self._pods: OrderedDict[str, dict[str, Pod]] = OrderedDict()

    def added_to(self, job: Job, pods: tuple[Pod, ...]) -> tuple[Pod, ...]:
        """The pods that are there, and those that have gone meanwhile, oldest first."""
        known = {pod.name for pod in pods}
        gone = [pod for name, pod in self._pods.get(job.uid, {}).items() if name not in known]
        return tuple(sorted([*pods, *gone], key=lambda pod: (pod.created, pod.name))) if gone else pods

    def take(self, kind: str, body: Mapping[str, Any]) -> None:
        """A watch event of a pod."""
        pod = read_pod(body)
        if pod.exit_code is None or not pod.job_uid:
            return
        if kind == "DELETED":
            pod = replace(pod, phase="Failed" if pod.exit_code else "Succeeded")
        self._pods.setdefault(pod.job_uid, {})[pod.name] = pod
        self._pods.move_to_end(pod.job_uid)
        if len(self._pods) > _KEPT:
            self._pods.popitem(last=False)
        self._told(pod.job_uid)

    async def forever(self) -> None:
        """Watch. While that fails an end is known only if a look comes in time."""
        clock, wait = asyncio.get_running_loop().time, _RETRY_FIRST_S
        while True:
            began, problem = clock(), "the API server ended the watch at once"
            try:
                async for event in self._cluster.watch_pods(ATTEMPTS, _WATCH_S):
                    self.take(event["type"], event["object"])
            except ApiError as error:
                problem = str(error)
            if clock() - began > _RETRY_MAX_S:
                wait = _RETRY_FIRST_S  # it has worked; the next begins at once, so that little is missed
                continue
            _logger.warning("Pods cannot be watched: %s; again in %.0f s", problem, wait)
            await asyncio.sleep(wait)
            wait = min(_RETRY_MAX_S, 2 * wait)

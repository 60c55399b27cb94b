"""Counts active Jobs from a watch of the test's own, never from the operator's word."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

from coding_agent_core.agenttask import LABEL_REPOSITORY
from kubernetes import client, watch

from tests.integration.operator.world import World


class JobCount:
    """How many Jobs were active at a time at the most, in all and of one repository."""

    def __init__(self, world: World) -> None:
        self._api = client.BatchV1Api(world.plane.api_client)
        self._namespace = world.namespace
        self._active: dict[str, str] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._version = world.plane.batch.list_namespaced_job(world.namespace).metadata.resource_version
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.most = 0
        self.most_of_one = 0
        self.order: list[str] = []
        self.repositories: list[str] = []

    def __enter__(self) -> JobCount:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)

    def _run(self) -> None:
        version = self._version
        while not self._stop.is_set():
            stream = watch.Watch().stream(  # type: ignore[no-untyped-call]
                self._api.list_namespaced_job,
                self._namespace,
                resource_version=version,
                timeout_seconds=1,
                _request_timeout=5,
            )
            for event in stream:
                version = event["object"].metadata.resource_version
                self._see(event["type"], event["object"])

    def _see(self, kind: str, job: Any) -> None:
        over = any(
            c.type in ("Complete", "Failed") and c.status == "True" for c in job.status.conditions or []
        )
        uid, repository = job.metadata.uid, job.metadata.labels.get(LABEL_REPOSITORY, "")
        with self._lock:
            if kind == "DELETED" or over:
                self._active.pop(uid, None)
                return
            if uid not in self._active:
                self.order.append(job.metadata.name)
                self.repositories.append(repository)
            self._active[uid] = repository
            self.most = max(self.most, len(self._active))
            self.most_of_one = max(self.most_of_one, *Counter(self._active.values()).values())

"""The interfaces behind which attempts run: Jobs of a cluster, or processes of one machine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

from coding_agent_core.kubernetes.transport import Body

from coding_agent_operator.cluster.observed import Job, Pod

if TYPE_CHECKING:
    from coding_agent_core.task.task_store import TaskStore


class Attempts(Protocol):
    """Starts, stops and reads the attempts of one namespace, and has the store of its tasks.

    An attempt is a Job, and what runs for it is a pod; on one machine, both are records of a process. Names
    follow from the task, so the second of two starts of one attempt is refused. Every method raises
    `ApiError` if something is refused or there is no answer.
    """

    @property
    def namespace(self) -> str: ...

    @property
    def tasks(self) -> TaskStore: ...

    async def probe(self) -> None:
        """Check that attempts can be read here.

        Raises:
            ApiError: this namespace cannot be served.
        """
        ...

    async def missing_runtime_classes(self, names: Iterable[str]) -> list[str]:
        """Return the names of the given RuntimeClasses that do not exist."""
        ...

    async def list_jobs(self, labels: str) -> tuple[list[Job], int]:
        """Return a consistent list of Jobs and its version."""
        ...

    async def get_job(self, name: str) -> Job | None: ...

    async def create_job(self, manifest: Body) -> Job:
        """Start an attempt.

        Raises:
            ApiError: 409 if its name is taken; status `None` if it is unknown whether it was started.
        """
        ...

    async def delete_job(self, job: Job) -> Job | None:
        """Stop exactly this Job; it stays until its pods have ended.

        Returns:
            The Job, which is now being deleted; `None` if it is gone.
        """
        ...

    async def release_job(self, job: Job, keep_seconds: int) -> Job | None:
        """Stop watching an ended Job, to be deleted after `keep_seconds`; return `None` if it is gone."""
        ...

    async def pods_of(self, job: str) -> tuple[Pod, ...]:
        """Return the pods of a Job, oldest first."""
        ...

    async def setup_failures(self, pod: str) -> list[str]:
        """Return why a pod's containers cannot be created yet (a volume, the runtime); the newest is last."""
        ...

    async def list_running_pods(self, labels: str) -> tuple[Sequence[Pod], str]:
        """Return the pods that have not ended and the list's version."""
        ...

    def watch_pods(self, labels: str, version: str, seconds: int) -> AsyncIterator[tuple[str, Pod]]:
        """Yield the type and the pod of each watch event since a version, for some seconds."""
        ...

    async def list_workloads(self) -> list[Body]:
        """Return Kueue's Workloads.

        Raises:
            ApiError: 404 if Kueue is not installed.
        """
        ...


class Leadership(Protocol):
    """Ensures that only one process acts on the tasks of a namespace."""

    @property
    def was_read(self) -> bool:
        """Whether it is known who leads."""
        ...

    def held(self) -> bool:
        """Whether this process leads and may write."""
        ...

    async def acquire(self) -> None:
        """Wait until this process leads."""
        ...

    async def keep(self) -> None:
        """Stay the leader until cancelled.

        Raises:
            LeaseLostError: another process has taken over.
        """
        ...

    async def release(self) -> None:
        """Let another process take over at once."""
        ...

"""The pods of a namespace."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from random import Random
from typing import Any

from coding_agent_testbed.cluster.access import Access
from coding_agent_testbed.until import NotReadyError, until

from tests.chaos.world import NothingToBreakError, WorldError

REQUEST_SECONDS = 10.0
SERVES_SECONDS = 240.0
"""Within it a broken part serves again, on a machine that does other things too."""
_COMPONENT = "app.kubernetes.io/component"


@dataclass(frozen=True)
class PodSeen:
    """A pod.

    Attributes:
        containers: id of each running container, by name.
        ready: it serves, and is not about to go.
        backing_off: a container of it is only started after a while, because it has ended too often.
    """

    name: str
    component: str
    address: str
    phase: str
    containers: dict[str, str]
    ready: bool
    leaving: bool
    backing_off: bool


class Pods:
    """The pods of one namespace."""

    def __init__(self, access: Access, namespace: str) -> None:
        self._access = access
        self._namespace = namespace

    def seen(self, *components: str) -> list[PodSeen]:
        """The pods of these components; none given: all.

        Raises:
            Exception: of the client, if the API server does not answer.
        """
        found = self._access.core.list_namespaced_pod(self._namespace, _request_timeout=REQUEST_SECONDS)
        pods = [_seen(pod) for pod in found.items]
        return [pod for pod in pods if not components or pod.component in components]

    def targets(self, *components: str) -> list[PodSeen]:
        """The same pods, for a fault that is about to begin.

        Raises:
            NothingToBreakError: the API server does not answer.
        """
        try:
            return self.seen(*components)
        except Exception as error:
            raise NothingToBreakError(f"the API server does not answer: {error!r}") from error

    def one(self, component: str, random: Random, *, container: str = "") -> PodSeen:
        """A pod of the component that works, with this container running; any container if none is named.

        For a moment after its last container has ended, a pod's phase is still `Running`.

        Raises:
            NothingToBreakError: there is none.
        """
        able = [
            pod
            for pod in self.targets(component)
            if not pod.leaving
            and pod.phase == "Running"
            and (container in pod.containers if container else pod.containers)
        ]
        if not able:
            raise NothingToBreakError(f"no pod of {component} works now")
        return random.choice(sorted(able, key=lambda pod: pod.name))

    def delete(self, pod: PodSeen) -> None:
        """Delete a pod as a person does; whatever owns it makes another."""
        with suppress(Exception):  # the caller waits for a pod that serves, and calls this again
            self._access.core.delete_namespaced_pod(
                pod.name, self._namespace, grace_period_seconds=1, _request_timeout=REQUEST_SECONDS
            )

    def wait_until_serving(self, component: str, count: int, alive: Callable[[], None]) -> None:
        """Wait until so many pods of a Deployment are ready, and no other is there.

        A pod whose container the kubelet starts only after a while is deleted: how long Kubernetes waits is
        not what a run is to show.

        Raises:
            WorldError: they are not, in time.
        """

        def serving() -> bool:
            pods = self.seen(component)
            for pod in pods:
                if pod.backing_off and not pod.leaving:
                    self.delete(pod)
            return len(pods) == count and all(pod.ready for pod in pods)

        wait(f"{component} serves", serving, alive=alive)

    def wait_until_ended(self, pod: PodSeen, alive: Callable[[], None]) -> None:
        """Wait until the pod of an attempt has ended.

        Raises:
            WorldError: it has not, in time.
        """

        def ended() -> bool:
            left = [one for one in self.seen() if one.name == pod.name]
            return not left or left[0].phase in ("Succeeded", "Failed")

        wait(f"the end of {pod.name}", ended, alive=alive)


def wait(
    what: str,
    probe: Callable[[], Any],
    *,
    seconds: float = SERVES_SECONDS,
    alive: Callable[[], None] = lambda: None,
) -> None:
    """Wait for it; an API server that is away is borne.

    Raises:
        WorldError: it is not so, in time.
    """
    try:
        until(what, lambda: bool(probe()), timeout=seconds, interval=0.3, alive=alive)
    except NotReadyError as error:
        raise WorldError(str(error)) from error


def _seen(pod: Any) -> PodSeen:
    # The workspace is a sidecar: an init container that goes on.
    statuses = [*(pod.status.container_statuses or []), *(pod.status.init_container_statuses or [])]
    waiting = [one.state.waiting for one in statuses if one.state and one.state.waiting]
    conditions = {one.type: one.status for one in pod.status.conditions or []}
    leaving = pod.metadata.deletion_timestamp is not None
    return PodSeen(
        name=pod.metadata.name,
        component=(pod.metadata.labels or {}).get(_COMPONENT, ""),
        address=pod.status.pod_ip or "",
        phase=pod.status.phase,
        containers={
            one.name: one.container_id.rpartition("/")[2]
            for one in statuses
            if one.state and one.state.running and one.container_id
        },
        ready=conditions.get("Ready") == "True" and not leaving,
        leaving=leaving,
        backing_off=any(one.reason == "CrashLoopBackOff" for one in waiting),
    )

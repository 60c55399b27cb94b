"""What can be broken of the system on Kubernetes, by kind."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from random import Random
from typing import TYPE_CHECKING

from coding_agent_testbed.cluster.access import KubectlError
from coding_agent_testbed.cluster.pki import NODE_NAME
from coding_agent_testbed.errors import TestbedError
from kubernetes.client import ApiException
from urllib3.exceptions import HTTPError

from tests.chaos.api_proxy import Action, Failpoint
from tests.chaos.full_node import fill, without_place
from tests.chaos.kubernetes_network import network_faults
from tests.chaos.pods import SERVES_SECONDS, PodSeen, wait
from tests.chaos.processes import children_of, ended, fingerprints, kill, processes_of, stop, stopped
from tests.chaos.world import Effect, NothingToBreakError, StartFault, Undo, WorldError
from tests.chart.helm import HelmError

if TYPE_CHECKING:
    from tests.chaos.kubernetes_world import KubernetesWorld

_REQUESTS = {"receiver": 3, "operator": 15, "reporter": 8}
"""Programs, and the last request after which one is killed: as many as it sends while a fault lasts."""
_STARTED_BY_A_SHELL = ("kube-controller-manager", "kube-scheduler", "kubelet")
_PLANE = ("kube-apiserver", "etcd", "kube-controller-manager", "kube-scheduler")
_NODE = ("kubelet", "containerd")
_ONE_AT_A_TIME = ({"kube-apiserver", "etcd"}, {"kubelet", "containerd"})
"""Parts that are only ready together: of each set one is broken at a time."""
_CHECK_SECONDS = 30.0
"""The reporter compares the labels of every active task with it within these seconds."""
_TARGET_SECONDS = 25.0
"""How long a fault waits for an attempt to hit."""
_upgrades = count(1)


def faults(world: KubernetesWorld) -> dict[str, StartFault]:
    """Every kind of fault of the world."""
    made: dict[str, StartFault] = {}
    for program, most in _REQUESTS.items():
        made[f"kill {program}"] = _kill(world, program)
        made[f"stop {program}"] = _stop(world, program)
        made[f"kill {program} after a request"] = _kill_after(world, program, most)
    for container in ("agent", "workspace"):
        made[f"kill {container}"] = _kill(world, "attempt", container)
        made[f"stop {container}"] = _stop(world, "attempt", container)
    made["kill poller"] = _kill(world, "poller")
    made["stop poller"] = _stop(world, "poller")
    for part in (*_PLANE, *_NODE):
        made[f"kill {part}"] = _kill_part(world, part)
        made[f"stop {part}"] = _stop_part(world, part)
    made |= world.sandboxes.faults()
    made |= world.sandboxes.delivery_faults(lambda: _let_it_look(world))
    made |= network_faults(world, lambda random: _agent(world, random), lambda *of: _guarded(world, *of))
    made |= _api(world)
    made["pod evicted"] = _evict(world)
    made["node full"] = fill(world)
    made["node cordoned"] = _cordon(world)
    made["upgrade of the release"] = _upgrade(world)
    return {kind: _until_whole(world, start) for kind, start in made.items()}


def _until_whole(world: KubernetesWorld, start: StartFault) -> StartFault:
    """A fault ends when every program serves.

    Nothing helps the system to find what webhooks failed to say: labels wait for the next poll. What people
    have taken back waits for the reporter, which compares each item with its task.
    """

    def begin(random: Random) -> Undo:
        failed = world.sandboxes.deliveries.failed
        undo = start(random)

        def end() -> Effect:
            effect = undo()
            world.whole()
            if world.sandboxes.deliveries.failed > failed:
                world.resend_comments()
                _let_it_look(world)
            return effect

        return end

    return begin


def _let_it_look(world: KubernetesWorld) -> None:
    """Wait until the reporter has compared each item with its task."""
    end = time.monotonic() + _CHECK_SECONDS
    wait("the reporter has looked", lambda: time.monotonic() > end, alive=world.check)


def _target(world: KubernetesWorld, component: str, random: Random, container: str = "") -> PodSeen:
    """A pod to break; waits a while for an attempt, because there is not always one, and begins a poll."""
    if component not in ("attempt", "poller"):
        return world.pods.one(component, random)
    end = time.monotonic() + _TARGET_SECONDS
    found: list[PodSeen] = []
    polls: list[str] = []

    def there() -> bool:
        if component == "poller" and not polls:
            polls.append(world.start_poll())
        with suppress(NothingToBreakError):
            found.append(world.pods.one(component, random, container=container))
        return bool(found) or time.monotonic() > end

    wait(f"a pod of {component}", there, alive=world.check)
    if not found:
        raise NothingToBreakError(f"no pod of {component} has worked lately")
    return found[0]


def _processes(pod: PodSeen, container: str) -> list[int]:
    name = container or next(iter(pod.containers))
    found = processes_of(pod.containers[name])
    if not found:
        raise NothingToBreakError(f"{name} of {pod.name} has just ended")
    return found


def _kill(world: KubernetesWorld, component: str, container: str = "") -> StartFault:
    def start(random: Random) -> Undo:
        pod = _target(world, component, random, container)
        count_ended = kill(_processes(pod, container)[:1])

        def undo() -> Effect:
            if component in ("attempt", "poller"):
                world.pods.wait_until_ended(pod, world.check)
            return count_ended()

        return undo

    return start


def _stop(world: KubernetesWorld, component: str, container: str = "") -> StartFault:
    def start(random: Random) -> Undo:
        pod = _target(world, component, random, container)
        return stop(_processes(pod, container))

    return start


def _kill_after(world: KubernetesWorld, component: str, most: int) -> StartFault:
    """Whichever pod of the program sends the n-th request is killed before it gets the answer."""

    def start(random: Random) -> Undo:
        world.pods.one(component, random)
        pods = {pod.address: pod for pod in world.pods.targets(component) if pod.address and pod.containers}
        number = random.randint(1, most)
        fired: list[Undo] = []

        def strike(source: str) -> None:
            fired.append(kill(processes_of(next(iter(pods[source].containers.values())))[:1]))

        failpoint = Failpoint("kill", frozenset(pods), count=number, on_kill=strike)
        unplant = world.proxy.plant(failpoint)

        def undo() -> Effect:
            unplant()
            if fired:
                return Effect(fired[0]().count, f"process ended after request {number}")
            return Effect(0, f"processes ended: {failpoint.hits} of {number} requests came")

        return undo

    return start


def _agent(world: KubernetesWorld, random: Random) -> tuple[str, int]:
    """The address of an attempt's pod, and the process of its agent."""
    pod = _target(world, "attempt", random, "agent")
    return pod.address, _processes(pod, "agent")[0]


@contextmanager
def _alone(part: str) -> Iterator[None]:
    group = next((one for one in _ONE_AT_A_TIME if part in one), {part})
    lock = _locks.setdefault(min(group), threading.Lock())
    if not lock.acquire(blocking=False):
        raise NothingToBreakError(f"another fault has broken {' or '.join(sorted(group))}")
    try:
        yield
    finally:
        lock.release()


_locks: dict[str, threading.Lock] = {}


def _kill_part(world: KubernetesWorld, part: str) -> StartFault:
    def strike(_: Random) -> Undo:
        before = fingerprints(_of_part(world, part))
        world.cluster.kill(part)
        return lambda: ended(before)

    return _guarded(world, part, strike)


def _stop_part(world: KubernetesWorld, part: str) -> StartFault:
    def strike(_: Random) -> Undo:
        pids = _of_part(world, part)
        world.cluster.processes.send(part, signal.SIGSTOP)

        def undo() -> Effect:
            effect = stopped(pids)
            world.cluster.processes.send(part, signal.SIGCONT)
            return effect

        return undo

    return _guarded(world, part, strike)


def _of_part(world: KubernetesWorld, part: str) -> list[int]:
    """The processes of a part: itself, or a shell that starts it again and itself."""
    if (pid := world.cluster.processes.pid(part)) is None:
        raise NothingToBreakError(f"{part} does not run")
    return [pid, *children_of(pid)] if part in _STARTED_BY_A_SHELL else [pid]


def _guarded(world: KubernetesWorld, part: str, strike: StartFault) -> StartFault:
    """A fault of a part of the cluster that is broken alone; it ends when the part serves."""

    def start(random: Random) -> Undo:
        with ExitStack() as stack:
            stack.enter_context(_alone(part))
            stack.enter_context(world.breaking(part))
            undo = strike(random)
            held = stack.pop_all()

        def end() -> Effect:
            with held:
                effect = undo()
                try:
                    world.cluster.start(part)  # one that runs is only waited for
                except TestbedError as error:
                    raise WorldError(f"{part} does not serve again: {error}") from error
                return effect

        return end

    return start


def _api(world: KubernetesWorld) -> Mapping[str, StartFault]:
    def plant(action: Action, *, share: float = 1.0, status: int = 500, seconds: float = 0.0) -> StartFault:
        def start(random: Random) -> Undo:
            return world.proxy.plant(
                Failpoint(action, status=status, share=share, seconds=seconds, draw=random.random)
            )

        return start

    return {
        "API server answers 409": plant("status", status=409, share=0.6),
        "API server answers 429": plant("status", status=429, share=0.6),
        "API server answers 500": plant("status", status=500, share=0.6),
        "API server loses answers": plant("lose", share=0.5),
        "API server is slow": plant("delay", seconds=1.5),
        "watches end with 410": plant("gone"),
        "watches are silent": plant("silent"),
    }


def _evict(world: KubernetesWorld) -> StartFault:
    def start(random: Random) -> Undo:
        pod = _target(world, "attempt", random, "agent")
        processes = fingerprints(_processes(pod, "agent")[:1])
        body = {"metadata": {"name": pod.name, "namespace": world.namespace}}
        try:
            world.cluster.access.core.create_namespaced_pod_eviction(
                pod.name, world.namespace, body, _request_timeout=10
            )
        except ApiException as error:
            if error.status < 500:
                raise NothingToBreakError(f"{pod.name} was not evicted: {error.reason}") from error
        except HTTPError:
            pass  # another fault keeps the API server from answering; it may evict the pod later

        def undo() -> Effect:
            world.pods.wait_until_ended(pod, world.check)
            return ended(processes)

        return undo

    return start


def _cordon(world: KubernetesWorld) -> StartFault:
    def kubectl(verb: str) -> None:
        def done() -> bool:
            world.cluster.access.kubectl(verb, NODE_NAME, timeout=20)
            return True

        wait(f"{verb} of the node", done, alive=world.check)

    def start(_: Random) -> Undo:
        kubectl("cordon")

        def undo() -> Effect:
            waiting = without_place(world, "unschedulable")
            kubectl("uncordon")
            return Effect(waiting, "pods had no place because of the cordon")

        return undo

    return start


def _upgrade(world: KubernetesWorld) -> StartFault:
    """Every program is replaced, as by a new version."""

    def start(_: Random) -> Undo:
        before = {pod.name for pod in world.pods.targets(*_REQUESTS)}
        notes = {"podAnnotations": {"chaos/upgrade": str(next(_upgrades))}}
        values = dict.fromkeys(("receiver", "operator", "reporter"), notes)
        done = threading.Event()
        errors: list[Exception] = []

        def upgrade() -> bool:
            try:
                world.release.upgrade(values, "--timeout", "60s")
            except (HelmError, KubectlError, OSError) as error:
                errors.append(error)
                return False
            return True

        def first() -> None:
            upgrade()
            done.set()

        threading.Thread(target=first, daemon=True).start()

        def undo() -> Effect:
            if not done.wait(SERVES_SECONDS):
                raise WorldError("helm does not end")
            if errors:  # the API server was away: a person runs it again
                wait("helm upgrade", upgrade, alive=world.check)
            world.whole()
            after = {pod.name for pod in world.pods.seen(*_REQUESTS)}
            return Effect(len(after - before), "new pods of programs")

        return undo

    return start

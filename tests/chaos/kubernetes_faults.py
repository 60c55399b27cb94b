"""What can be broken of the system on Kubernetes, by kind."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from random import Random
from typing import TYPE_CHECKING

from coding_agent_cluster.access import KubectlError
from coding_agent_cluster.errors import ClusterError
from coding_agent_cluster.pki import NODE_NAME

from tests.chaos.api_proxy import Action, Failpoint
from tests.chaos.pods import SERVES_SECONDS, PodSeen, processes_of, send, wait
from tests.chaos.world import NothingToBreakError, StartFault, Undo, WorldError
from tests.chart.helm import HelmError

if TYPE_CHECKING:
    from tests.chaos.kubernetes_world import KubernetesWorld

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
    for program in ("receiver", "operator", "reporter"):
        made[f"kill {program}"] = _kill(world, program)
        made[f"stop {program}"] = _stop(world, program)
        made[f"kill {program} after a request"] = _kill_after(world, program)
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
    made |= _network(world)
    made |= _api(world)
    made["pod evicted"] = _evict(world)
    made["node full"] = _cordon(world)
    made["upgrade of the release"] = _upgrade(world)
    return {kind: _until_whole(world, start) for kind, start in made.items()}


def _until_whole(world: KubernetesWorld, start: StartFault) -> StartFault:
    """A fault ends when every program serves, and what webhooks failed to say is known."""

    def begin(random: Random) -> Undo:
        failed = world.sandboxes.deliveries.failed
        undo = start(random)

        def end() -> None:
            undo()
            world.whole()
            if world.sandboxes.deliveries.failed > failed:
                world.find_missed()

        return end

    return begin


def _let_it_look(world: KubernetesWorld) -> None:
    """Wait until the reporter has compared each item with its task."""
    end = time.monotonic() + _CHECK_SECONDS
    wait("the reporter has looked", lambda: time.monotonic() > end, alive=world.check)


def _target(world: KubernetesWorld, component: str, random: Random, container: str = "") -> PodSeen:
    """A pod to break; waits a while for an attempt or a poll, because there is not always one."""
    if component not in ("attempt", "poller"):
        return world.pods.one(component, random)
    end = time.monotonic() + _TARGET_SECONDS * (3 if component == "poller" else 1)
    found: list[PodSeen] = []

    def there() -> bool:
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
        send(signal.SIGKILL, _processes(pod, container)[:1])
        if component in ("attempt", "poller"):
            return lambda: world.pods.wait_until_ended(pod, world.check)
        return lambda: None

    return start


def _stop(world: KubernetesWorld, component: str, container: str = "") -> StartFault:
    def start(random: Random) -> Undo:
        pod = _target(world, component, random, container)
        pids = _processes(pod, container)
        send(signal.SIGSTOP, pids)
        return lambda: send(signal.SIGCONT, pids)

    return start


def _kill_after(world: KubernetesWorld, component: str) -> StartFault:
    def start(random: Random) -> Undo:
        pod = world.pods.one(component, random)

        def kill() -> None:
            send(signal.SIGKILL, processes_of(next(iter(pod.containers.values())))[:1])

        return world.proxy.plant(
            Failpoint("kill", frozenset({pod.address}), count=random.randint(1, 25), on_kill=kill)
        )

    return start


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
    def again() -> None:
        try:
            world.cluster.start(part)
        except ClusterError as error:
            raise WorldError(f"{part} does not serve again: {error}") from error

    return _break_part(world, part, lambda: world.cluster.kill(part), again)


def _stop_part(world: KubernetesWorld, part: str) -> StartFault:
    def again() -> None:
        world.cluster.processes.send(part, signal.SIGCONT)
        try:
            world.cluster.start(part)  # it runs: this waits until it is ready
        except ClusterError as error:
            raise WorldError(f"{part} does not serve again: {error}") from error

    return _break_part(world, part, lambda: world.cluster.processes.send(part, signal.SIGSTOP), again)


def _break_part(
    world: KubernetesWorld, part: str, strike: Callable[[], None], again: Callable[[], None]
) -> StartFault:
    def start(_: Random) -> Undo:
        with ExitStack() as stack:
            stack.enter_context(_alone(part))
            stack.enter_context(world.breaking(part))
            strike()
            held = stack.pop_all()

        def end() -> None:
            with held:
                again()

        return end

    return start


def _network(world: KubernetesWorld) -> Mapping[str, StartFault]:
    network, proxy = world.cluster.network, world.proxy
    here = network.host_address
    forge, model = world.forge.port, int(world.sandboxes.model.url.rsplit(":", 1)[1])

    def cut(component: str, port: int) -> StartFault:
        def start(random: Random) -> Undo:
            source = world.pods.one(component, random).address if component else network.pods
            return _drop(world, ["-s", source, "-d", here, "-p", "tcp", "--dport", str(port)])

        return start

    def cut_receiver(random: Random) -> Undo:
        receiver = world.pods.one("receiver", random).address
        return _drop(world, ["-s", here, "-d", receiver, "-p", "tcp", "--dport", "8000"])

    return {
        **{
            f"cut {name} from API server": cut(name, proxy.port)
            for name in ("receiver", "operator", "reporter")
        },
        "cut every pod from API server": cut("", proxy.port),
        "cut reporter from forge": cut("reporter", forge),
        "cut every pod from forge": cut("", forge),
        "cut attempts from model": cut("", model),
        "cut forge from a receiver": cut_receiver,
    }


def _drop(world: KubernetesWorld, match: list[str]) -> Undo:
    """Drop what the node would pass on of this, on connections that are there as well."""
    rule = ["FORWARD", *match, "-j", "DROP"]
    world.inside("iptables", "-w", "10", "-I", *rule)

    def undo() -> None:
        world.inside("iptables", "-w", "10", "-D", *rule)

    return undo


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
        "lists are stale": plant("stale"),
    }


def _evict(world: KubernetesWorld) -> StartFault:
    def start(random: Random) -> Undo:
        pod = _target(world, "attempt", random, "agent")
        body = {"metadata": {"name": pod.name, "namespace": world.namespace}}
        world.cluster.access.core.create_namespaced_pod_eviction(
            pod.name, world.namespace, body, _request_timeout=10
        )
        return lambda: world.pods.wait_until_ended(pod, world.check)

    return start


def _cordon(world: KubernetesWorld) -> StartFault:
    def kubectl(verb: str) -> None:
        def done() -> bool:
            world.cluster.access.kubectl(verb, NODE_NAME, timeout=20)
            return True

        wait(f"{verb} of the node", done, alive=world.check)

    def start(_: Random) -> Undo:
        kubectl("cordon")
        return lambda: kubectl("uncordon")

    return start


def _upgrade(world: KubernetesWorld) -> StartFault:
    """Every program is replaced, as by a new version."""

    def start(_: Random) -> Undo:
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

        def undo() -> None:
            if not done.wait(SERVES_SECONDS):
                raise WorldError("helm does not end")
            if errors:  # the API server was away: a person runs it again
                wait("helm upgrade", upgrade, alive=world.check)

        return undo

    return start

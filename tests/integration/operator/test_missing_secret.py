"""A task whose Secrets are not there yet waits, says which they are, and goes on once they are created."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.integration.operator.pod_driver import DONE, CannotMount, PodDriver
from tests.integration.operator.world import ACCOUNT, QUICK, OperatorProcess, World

KUBELET = (
    'MountVolume.SetUp failed for volume "credentials" : [secret "coding-agent-github" not found, '
    'secret "coding-agent-model" not found]'
)
FAST: dict[str, Any] = {**QUICK["policy"], "pod_check_interval": 0.2}
Start = Callable[..., OperatorProcess]


def test_it_names_the_secrets_and_goes_on_once_they_are_there(
    world: World, pods: PodDriver, operator: Start
) -> None:
    pods.script = lambda _: CannotMount(KUBELET)
    operator(operator={"policy": FAST})
    name = world.create(1)
    status = world.until(
        "says what it waits for",
        lambda: found if (found := world.status(name)).get("reason") == "SecretMissing" else None,
    )
    assert status["phase"] == "Starting"
    assert status["conditions"][0]["message"] == (
        "Attempt 1 has not started yet. The attempt is waiting for a Secret that does not exist. "
        "Missing: coding-agent-github, coding-agent-model. If this lasts for 900 s, another attempt starts."
    )
    pods.script = lambda _: DONE
    assert world.until_phase(name, "Succeeded")["attempt"] == "1/3"


def test_waiting_does_not_count_as_attempts(world: World, pods: PodDriver, operator: Start) -> None:
    pods.script = lambda _: CannotMount(KUBELET)
    # A Job whose pod is not there by then has another attempt too.
    operator(operator={"policy": {**FAST, "unschedulable_after": 2, "max_disruptions": 40}})
    name = world.create(2, maxAttempts=1)
    world.until("a second attempt", lambda: len(world.status(name).get("attempts") or ()) > 1 or None)
    pods.script = lambda _: DONE
    assert world.until_phase(name, "Succeeded")["attempt"] == "1/1"


def test_without_the_right_to_read_events_the_pod_is_given_up_as_any_other(
    world: World, pods: PodDriver, operator: Start
) -> None:
    pods.script = lambda _: CannotMount(KUBELET)
    process = operator(operator={"policy": {**FAST, "image_after": 1.0}})
    role = world.plane.get("-n", world.namespace, "role", ACCOUNT)
    role["rules"] = [rule for rule in role["rules"] if rule["resources"] != ["events"]]
    world.plane.apply(role)
    name = world.create(3)
    world.until(
        "it is given up",
        lambda: [
            a for a in world.status(name).get("attempts") or () if a.get("reason") == "PodNotReadyToStart"
        ],
    )
    assert "cannot be read" in process.log()

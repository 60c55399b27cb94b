"""A task whose Secrets are not there yet waits, says which they are, and goes on once they are created."""

from collections.abc import Callable
from typing import Any

from tests.integration.operator.pod_driver import DONE, CannotMount, PodDriver
from tests.integration.operator.world import QUICK, OperatorProcess, World

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

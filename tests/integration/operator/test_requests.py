"""What a task's whole life costs the operator in requests, by the API server's audit log."""

from collections.abc import Callable

from coding_agent_core.task.agenttask import LABEL_ACTIVE

from tests.fixtures.audit import requests
from tests.integration.operator.pod_driver import PodDriver
from tests.integration.operator.world import ACCOUNT, OperatorProcess, World

START = ["create jobs", "patch agenttasks/status"]
END = ["patch agenttasks/status", "create events", "patch jobs"]
RARELY = {
    "relist_interval": 3600,
    "sweep_interval": 3600,
    "pod_check_interval": 3600,
}
"""However long an attempt takes, nothing is read only because time has passed."""


def test_a_task_costs_two_requests_at_its_start_and_three_at_its_end(
    world: World, pods: PodDriver, operator: Callable[..., OperatorProcess]
) -> None:
    operator(development=RARELY)

    def asked() -> list[str]:
        return [str(request) for request in requests(world.plane, world.namespace, ACCOUNT)]

    def live(number: int) -> int:
        """Let the task of that number live; how many requests there are then."""
        name = world.create(number)
        assert "keptSince" in world.until_phase(name, "Succeeded")
        job = f"{name}-1"
        world.until("released", lambda: LABEL_ACTIVE not in world.jobs()[job].metadata.labels)
        # What a request has done is there before the request is in the log.
        world.until("the log has it", lambda: asked().count(END[-1]) >= number)
        return len(asked())

    before = live(1)  # beside it the operator starts
    for number in (2, 3, 4):
        wanted = before + len(START + END)
        assert live(number) == wanted
        assert asked()[before:wanted] == START + END
        before = wanted

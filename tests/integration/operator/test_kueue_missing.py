"""`queue.engine: kueue` in a cluster without Kueue: nobody admits the Jobs, and the tasks say so."""

from collections.abc import Callable

from coding_agent_operator.observed import KUEUE_NOT_INSTALLED

from tests.integration.operator.pod_driver import PodDriver
from tests.integration.operator.world import OperatorProcess, World

Start = Callable[..., OperatorProcess]


def test_it_is_said_and_going_back_is_as_documented(world: World, pods: PodDriver, operator: Start) -> None:
    process = operator(queue={"engine": "kueue"}, operator={"relist_interval": 0.5})
    name = world.create(1)

    def said() -> bool | None:
        conditions = world.status(name).get("conditions", [])
        return any(condition["message"] == KUEUE_NOT_INSTALLED for condition in conditions) or None

    world.until("the reason", said)
    status = world.status(name)
    assert (status["phase"], status["reason"]) == ("Queued", "WaitingForKueue")
    assert "Kueue is not installed" in world.plane.kubectl("-n", world.namespace, "describe", "agt", name)
    assert process.stop() == 0
    operator(queue={"engine": "native"})
    world.plane.kubectl("-n", world.namespace, "delete", "job", f"{name}-1")
    world.until_phase(name, "Succeeded")

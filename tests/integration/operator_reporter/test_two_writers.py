"""Operator and reporter write the status of one task at the same time: neither loses the other's."""

from contextlib import AsyncExitStack
from datetime import UTC, datetime

import pytest
from coding_agent_core.kubernetes.agenttask_client import AgentTasks
from coding_agent_core.kubernetes.transport import Access, ApiError, ApiServer
from coding_agent_core.task.agenttask import Condition
from coding_agent_operator.cluster.requests import Cluster
from coding_agent_operator.reporter.report import labels_shown, unreported

from tests.integration.operator_reporter.world import World


@pytest.mark.parametrize("flavour", ["github"])
async def test_no_write_is_lost(world: World) -> None:
    name, now = world.task(world.issue()), datetime.now(UTC)
    mine = Condition(type="Succeeded", status="Unknown", reason="Running", last_transition_time=now)
    async with AsyncExitStack() as stack:
        access = Access(str(world.plane.kubeconfig))
        servers = [await ApiServer.connect(access, 10, role="a test") for _ in range(2)]
        for server in servers:
            stack.push_async_callback(server.aclose)
        operator = Cluster(servers[0], world.namespace)
        reporter = AgentTasks(servers[1], world.namespace, "test")
        read = await operator.tasks.get(name)
        assert read is not None
        # Each writes on what it has read before the other's write.
        assert await reporter.set_conditions(read, (labels_shown(""),), now)
        with pytest.raises(ApiError) as refused:
            await operator.tasks.set_status(read, read.status.model_copy(update={"conditions": (mine,)}))
        assert refused.value.conflict
        newest = await operator.tasks.get(name)
        assert newest is not None
        conditions = (mine, *newest.status.conditions)
        await operator.tasks.set_status(newest, newest.status.model_copy(update={"conditions": conditions}))
        assert await reporter.set_conditions(newest, (unreported("ForgeUnavailable", "away"),), now)
    found = {kind: world.condition(name, kind)["status"] for kind in ("Succeeded", "LabelsShown", "Reported")}
    assert found == {"Succeeded": "Unknown", "LabelsShown": "True", "Reported": "False"}

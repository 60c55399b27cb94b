"""What the operator says about the schema that the API server publishes."""

from copy import deepcopy
from typing import Any

import pytest
from coding_agent_core.kubernetes.transport import ApiError
from coding_agent_core.task.agenttask_schema import wanted_schema
from coding_agent_operator.cluster.schema import SchemaCheck

RULES = "x-kubernetes-validations"


class Server:
    """Publishes a schema, or refuses to."""

    def __init__(self) -> None:
        self.schema: dict[str, Any] = deepcopy(dict(wanted_schema()))
        self.refusal: ApiError | None = None

    async def request(self, method: str, path: str) -> dict[str, Any]:
        assert (method, path) == ("GET", "/openapi/v3/apis/coding-agent.dev/v1alpha1")
        if self.refusal is not None:
            raise self.refusal
        return {"components": {"schemas": {"dev.coding-agent.v1alpha1.AgentTask": self.schema}}}


async def test_a_change_is_logged_once_and_only_what_is_lost_or_refused_is_a_problem(
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = Server()
    check = SchemaCheck(server)  # type: ignore[arg-type]
    caplog.set_level("INFO")

    async def checked(*, level: str | None) -> str | None:
        caplog.clear()
        await check.once()
        await check.once()
        assert [record.levelname for record in caplog.records] == ([] if level is None else [level])
        assert check.done
        return check.problem

    assert not check.done
    assert await checked(level=None) is None
    spec = server.schema["properties"]["spec"]
    title = spec["properties"].pop("title")
    problem = await checked(level="ERROR")
    assert problem is not None
    assert "1 field is missing (spec.title). Apply crds/agenttask.yaml" in problem
    assert "1 field is missing (spec.title)" in caplog.text
    assert "kubectl apply --server-side --force-conflicts -f crds/agenttask.yaml" in caplog.text
    spec["properties"]["title"] = title
    rules = spec.pop(RULES)
    assert await checked(level="WARNING") is None
    spec[RULES] = rules
    assert await checked(level="INFO") is None
    server.refusal = ApiError("forbidden", 403)
    assert await checked(level="WARNING") is None
    server.refusal = ApiError("not found", 404)
    assert await checked(level=None) is None

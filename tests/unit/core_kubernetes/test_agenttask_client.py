"""The client's writes: for exactly the version that was read, and none while the fence is closed."""

from datetime import UTC, datetime
from typing import Any

import pytest
from coding_agent_core.agenttask import AgentTask, Event
from coding_agent_core.kubernetes.agenttask_client import AgentTasks
from coding_agent_core.kubernetes.transport import ApiError

TASK = AgentTask.of({"metadata": {"name": "a", "uid": "u", "resourceVersion": "10"}})


class Server:
    """Keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, Any]] = []

    async def merge(self, path: str, patch: Any) -> Any:
        self.sent.append((path, patch))

    async def request(self, method: str, path: str, *, body: Any = None, **_: Any) -> Any:
        self.sent.append((f"{method} {path}", body))


async def test_a_patch_names_the_version_that_was_read() -> None:
    server = Server()
    tasks = AgentTasks(server, "ns", "me")  # type: ignore[arg-type]
    await tasks.patch(TASK, {"metadata": {"labels": {"x": "y"}}, "spec": {"cancel": True}})
    assert server.sent == [
        (
            "/apis/coding-agent.dev/v1alpha1/namespaces/ns/agenttasks/a",
            {"metadata": {"labels": {"x": "y"}, "resourceVersion": "10"}, "spec": {"cancel": True}},
        )
    ]


async def test_nothing_is_written_behind_a_closed_fence() -> None:
    server = Server()

    def closed() -> None:
        raise ApiError("closed", None)

    tasks = AgentTasks(server, "ns", "me", fence=closed)  # type: ignore[arg-type]
    for write in (
        tasks.create({}),
        tasks.patch(TASK, {}),
        tasks.set_labels(TASK, {}),
        tasks.delete(TASK),
    ):
        with pytest.raises(ApiError, match="closed"):
            await write
    assert server.sent == []


async def test_an_event_that_cannot_be_written_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    class Refusing(Server):
        async def request(self, method: str, path: str, **_: Any) -> Any:
            raise ApiError("refused", 403)

    tasks = AgentTasks(Refusing(), "ns", "me")  # type: ignore[arg-type]
    await tasks.emit(Event("Warning", "Refused", "m"), TASK, datetime(2026, 1, 1, tzinfo=UTC))
    assert "Event Refused of a could not be written: refused" in caplog.text

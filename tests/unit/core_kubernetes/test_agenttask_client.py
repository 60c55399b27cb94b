"""The client's writes: for exactly the version that was read, and none while the fence is closed."""

from datetime import UTC, datetime
from typing import Any

import pytest
from coding_agent_core.kubernetes.agenttask_client import AgentTasks
from coding_agent_core.kubernetes.task_sink import temporary
from coding_agent_core.kubernetes.transport import ApiError, ApiServer
from coding_agent_core.task.agenttask import AgentTask, Event

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
    for write in (tasks.create({}), tasks.patch(TASK, {}), tasks.set_labels(TASK, {}), tasks.delete(TASK)):
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


async def test_every_page_is_asked_for_with_the_token_of_the_one_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tokens: list[str | None] = []

    async def request(_self: ApiServer, _method: str, _path: str, *, query: Any) -> dict[str, Any]:
        assert ("limit", "2") in query
        tokens.append(dict(query).get("continue"))
        start = int(tokens[-1] or 0)
        rest = {"continue": str(start + 2)} if start + 2 < 5 else {}
        return {
            "metadata": {"resourceVersion": "9", **rest},
            "items": [{"n": n} for n in range(5)[start : start + 2]],
        }

    monkeypatch.setattr(ApiServer, "request", request)
    server = object.__new__(ApiServer)
    pages = [[entry["n"] for entry in page.items] async for page in server.pages("/api/v1/pods", [], 2)]
    assert pages == [[0, 1], [2, 3], [4]]
    assert tokens == [None, "2", "4"]


class Expiring:
    """An API server with three pages, whose tokens expire in the first lists."""

    def __init__(self, expired: int) -> None:
        self.expired = expired
        self.asked: list[str | None] = []

    async def request(self, _method: str, _path: str, *, query: Any) -> dict[str, Any]:
        token = dict(query).get("continue")
        self.asked.append(token)
        if token == "2" and self.expired:
            self.expired -= 1
            raise ApiError("The provided continue parameter is too old", 410)
        at = int(token or 0)
        rest = {"continue": str(at + 1)} if at < 2 else {}
        return {"metadata": {"resourceVersion": "9", **rest}, "items": [{"n": at}]}


async def test_a_list_whose_token_expires_begins_again_a_few_times(monkeypatch: pytest.MonkeyPatch) -> None:
    server = object.__new__(ApiServer)
    answers = Expiring(1)
    monkeypatch.setattr(server, "request", answers.request)
    found, version = await server.read_all("/api/v1/pods", [], lambda body: body["n"])
    assert (found, version) == ([0, 1, 2], "9"), "nothing twice"
    assert answers.asked == [None, "1", "2", None, "1", "2"]
    monkeypatch.setattr(server, "request", Expiring(99).request)
    with pytest.raises(ApiError, match="too old"):
        await server.read_all("/api/v1/pods", [], lambda body: body["n"])


@pytest.mark.parametrize(
    ("status", "retried"),
    [
        (None, True),
        (429, True),
        (500, True),
        (503, True),
        (400, False),
        (403, False),
        (404, False),
        (422, False),
    ],
)
def test_table(status: int | None, retried: bool) -> None:
    assert temporary(ApiError("sentence", status)) is retried

"""The sandbox's log of requests: an answer is in it before the client has the answer."""

from collections import deque
from typing import Any

from coding_agent_testbed.forge.requestlog import Logged, RequestLog
from starlette.types import Message, Receive, Scope, Send

SCOPE: dict[str, Any] = {"type": "http", "method": "GET", "path": "/api/v3/user", "query_string": b""}


async def test_an_answer_in_parts_is_logged_as_soon_as_its_text_is_whole() -> None:
    """A client that knows the length reads no further, so the last part, which is empty, may come later."""
    log: deque[Logged] = deque()
    seen: list[Any] = []

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for text, more in ((b'{"id"', True), (b": 1}", True), (b"", False)):
            await send({"type": "http.response.body", "body": text, "more_body": more})

    async def receive() -> Message:
        raise AssertionError("nothing reads the request")

    async def send(message: Message) -> None:
        if message["type"] == "http.response.body":
            seen.append(log[0].response)

    await RequestLog(app, log)(SCOPE, receive, send)
    assert seen == [None, {"id": 1}, {"id": 1}]

"""The issue's *Bad input* list over real HTTP: each with its status and a plain reason (S1, S3, S6)."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from coding_agent_testbed.until import until_async

from tests.fixtures.deliveries import (
    SECRET,
    RecordingSink,
    encode,
    github_headers,
    github_issue,
    gitlab_issue,
    settings,
)
from tests.fixtures.receiver import Receiver, receiving

pytestmark = pytest.mark.asyncio(loop_scope="module")

BODY = encode(github_issue())


CASES = {
    "cut short": (BODY[: len(BODY) // 2], 400, "not JSON or was cut short"),
    "a list": (b"[]", 422, "not an object"),
    "a missing field": (encode(github_issue(number=None)), 422, "issue.number"),
}


def refusal(response: Any, status: Any) -> Any:
    """The reason of a refusal, checked for its form."""
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/json"
    answer = response.json()
    assert answer["status"] == "error"
    assert "Traceback" not in response.text
    assert SECRET not in response.text
    return answer["reason"]


@pytest.mark.parametrize("name", CASES)
async def test_a_signed_body_that_cannot_be_used_is_refused_with_a_reason(
    receiver: Receiver, sink: RecordingSink, name: str
) -> None:
    body, status, reason = CASES[name]
    assert reason in refusal(await receiver.github(body), status)
    assert sink.submitted == []


async def test_a_signed_request_without_an_event_header_is_400(receiver: Receiver) -> None:
    assert "X-GitHub-Event" in refusal(await receiver.github(github_issue(), event=""), 400)
    assert "X-Gitlab-Event" in refusal(await receiver.gitlab(gitlab_issue(), event=""), 400)


async def test_the_largest_body_that_github_sends_is_taken(receiver: Receiver) -> None:
    payload = github_issue()
    payload["padding"] = "x" * (25 * 1024 * 1024 - len(encode(payload | {"padding": ""})))
    body = encode(payload)
    assert len(body) == 25 * 1024 * 1024
    assert (await receiver.github(body)).json()["status"] == "success"


async def test_a_body_above_the_limit_is_413_announced_or_not(sink: RecordingSink) -> None:
    async def chunks() -> AsyncIterator[Any]:
        yield b" " * 60
        yield b" " * 41

    async with receiving(settings(max_body_bytes=100), sink) as receiver:
        for content in (b" " * 101, chunks()):
            headers = github_headers(b" " * 101)
            response = await receiver.http.post("/webhook/github", content=content, headers=headers)
            assert refusal(response, 413) == "the body is larger than 100 bytes"
        refusal(await receiver.github(b" " * 100), 400)


async def test_a_body_that_does_not_come_is_408(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coding_agent_receiver.app.BODY_GRACE", 0.05)  # meant to expire
    answer = await exchange(receiver, BODY, announced=len(BODY) + 10)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"did not arrive" in answer


async def test_a_sender_that_hangs_up_in_the_middle_leaves_no_task_and_no_error(
    receiver: Receiver, sink: RecordingSink, caplog: pytest.LogCaptureFixture
) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", receiver.port)
    writer.write(head(BODY, announced=len(BODY) + 10) + BODY)
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    await until_async("it is logged", lambda: "closed the connection" in caplog.text)
    assert "Traceback" not in caplog.text
    assert sink.submitted == []
    assert (await receiver.github(github_issue())).status_code == 200


async def test_other_methods_and_paths_are_refused_plainly(receiver: Receiver) -> None:
    answer = await receiver.http.get("/webhook/github")
    assert refusal(answer, 405)
    assert answer.headers["Allow"] == "POST"  # RFC 9110, section 15.5.6
    assert refusal(await receiver.http.post("/webhook/bitbucket"), 404)


def head(body: Any, announced: Any) -> Any:
    lines = [f"{name}: {value}" for name, value in github_headers(body).items()]
    lines += ["Host: x", f"Content-Length: {announced}"]
    return ("POST /webhook/github HTTP/1.1\r\n" + "\r\n".join(lines) + "\r\n\r\n").encode()


async def exchange(receiver: Receiver, body: Any, announced: Any) -> Any:
    """Send a request whose body is shorter than announced; what is answered."""
    reader, writer = await asyncio.open_connection("127.0.0.1", receiver.port)
    writer.write(head(body, announced) + body)
    async with asyncio.timeout(60):
        answer = await reader.readuntil(b"\r\n\r\n")
        answer += await reader.read(4096)
    writer.close()
    return answer

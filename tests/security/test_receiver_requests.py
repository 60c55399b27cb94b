"""Wall: the receiver. Only the forge makes a task, whatever else a request claims or how it is framed."""

import asyncio
from typing import Any

import pytest

from tests.fixtures.deliveries import (
    RecordingSink,
    encode,
    github_headers,
    github_issue,
    gitlab_headers,
    gitlab_issue,
    settings,
    sign,
)
from tests.fixtures.receiver import Receiver, receiving
from tests.integration.receiver.test_bad_input import BODY, refusal

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize(
    "signature", [None, "", sign(BODY, "another secret"), sign(BODY + b" "), "sha256=" + "é" * 64, "\xff\xfe"]
)
async def test_a_signature_that_is_missing_wrong_malformed_or_not_ascii_is_401(
    receiver: Receiver, sink: RecordingSink, signature: str | None
) -> None:
    headers = github_headers(BODY)
    del headers["X-Hub-Signature-256"]
    sent = [(name.encode(), value.encode()) for name, value in headers.items()]
    if signature is not None:
        sent.append((b"X-Hub-Signature-256", signature.encode("latin-1")))
    for content in (BODY, BODY[:9]):  # nothing is parsed before
        response = await receiver.http.post("/webhook/github", content=content, headers=sent)
        assert refusal(response, 401) == "the signature is missing or wrong"
    assert sink.submitted == []


@pytest.mark.parametrize("token", [None, "", "wrong", "\xff\xfe"])
async def test_a_gitlab_token_that_is_missing_or_wrong_is_401(
    receiver: Receiver, sink: RecordingSink, token: str | None
) -> None:
    headers = gitlab_headers()
    del headers["X-Gitlab-Token"]
    sent = [(name.encode(), value.encode()) for name, value in headers.items()]
    if token is not None:
        sent.append((b"X-Gitlab-Token", token.encode("latin-1")))
    response = await receiver.http.post("/webhook/gitlab", content=encode(gitlab_issue()), headers=sent)
    assert refusal(response, 401) == "the token is missing or wrong"
    assert sink.submitted == []


async def test_a_forge_without_a_secret_is_always_answered_401(sink: RecordingSink) -> None:
    only_github = settings(gitlab={"token": ""})
    async with receiving(only_github, sink) as receiver:
        refusal(await receiver.gitlab(gitlab_issue(), **{"X-Gitlab-Token": ""}), 401)
        refusal(await receiver.gitlab(gitlab_issue()), 401)
        assert (await receiver.github(github_issue())).json()["status"] == "success"


FRAMES = {
    "both lengths": "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
    "both lengths, in the other order": "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
    "two lengths": "Content-Length: 4\r\nContent-Length: 5\r\n",
    "a list of lengths": "Content-Length: 4, 5\r\n",
    "a signed length": "Content-Length: +4\r\n",
    "a hexadecimal length": "Content-Length: 0x4\r\n",
    "a space before the colon": "Content-Length : 4\r\n",
    "a folded header": "Transfer-Encoding:\r\n chunked\r\n",
    "chunked, but not last": "Transfer-Encoding: chunked, identity\r\n",
    "not quite chunked": "Transfer-Encoding: xchunked\r\n",
}
"""Headers that two servers in a row may read in two ways, so that one takes the rest for another request."""


def request(framing: Any, body: Any = b"0\r\n\r\n", headers: Any = None) -> Any:
    lines = "".join(f"{name}: {value}\r\n" for name, value in (headers or github_headers(b"")).items())
    return f"POST /webhook/github HTTP/1.1\r\nHost: x\r\n{lines}{framing}\r\n".encode() + body


LAST = "Connection: close\r\n"


async def answers(receiver: Receiver, sent: Any) -> Any:
    """The status codes of all answers until the receiver closes the connection: `sent` ends with a `LAST`."""
    reader, writer = await asyncio.open_connection("127.0.0.1", receiver.port)
    writer.write(sent)
    try:
        async with asyncio.timeout(60):
            received = await reader.read()
    finally:
        writer.close()
    return [int(part[:3]) for part in received.split(b"HTTP/1.1 ")[1:]]


AUTHENTIC = request(f"Content-Length: {len(BODY)}\r\n{LAST}", BODY, github_headers(BODY))


@pytest.mark.parametrize("framing", FRAMES)
async def test_behind_a_request_of_two_readings_nothing_is_taken_for_a_request(
    receiver: Receiver, sink: RecordingSink, framing: str
) -> None:
    codes = await answers(receiver, request(FRAMES[framing]) + AUTHENTIC)
    assert codes == [400]
    assert sink.submitted == []


async def test_a_request_behind_a_plain_one_is_taken(receiver: Receiver, sink: RecordingSink) -> None:
    health = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
    assert await answers(receiver, health + AUTHENTIC) == [200, 200]
    assert len(sink.submitted) == 1


@pytest.mark.parametrize("name", ["X-Hub-Signature-256", "X-GitHub-Event"])
async def test_of_a_header_that_comes_twice_no_forged_one_helps(
    receiver: Receiver, sink: RecordingSink, name: str
) -> None:
    forged = github_headers(BODY) | {"X-Hub-Signature-256": sign(BODY, "another secret")}
    once = request(f"Content-Length: {len(BODY)}\r\n{LAST}", BODY, forged)
    twice = once.replace(b"\r\n\r\n", f"\r\n{name}: {forged[name]}\r\n\r\n".encode(), 1)
    assert await answers(receiver, twice) in ([400], [401])
    assert sink.submitted == []

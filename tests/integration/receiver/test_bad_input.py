"""The issue's *Bad input* list over real HTTP: each with its status and a plain reason (S1, S3, S6)."""

import asyncio

import pytest

from tests.fixtures.deliveries import (
    SECRET,
    encode,
    github_headers,
    github_issue,
    gitlab_issue,
    settings,
)
from tests.fixtures.receiver import receiving

pytestmark = pytest.mark.asyncio(loop_scope="module")

BODY = encode(github_issue())


def refusal(response, status):
    """The reason of a refusal, checked for its form."""
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/json"
    answer = response.json()
    assert answer["status"] == "error"
    assert "Traceback" not in response.text
    assert SECRET not in response.text
    return answer["reason"]


CASES = {
    "cut short": (BODY[: len(BODY) // 2], 400, "not JSON or was cut short"),
    "empty": (b"", 400, "not JSON or was cut short"),
    "not JSON": (b"<xml/>", 400, "not JSON"),
    "a list": (b"[]", 422, "not an object"),
    "null": (b"null", 422, "not an object"),
    "invalid UTF-8": (BODY.replace(b"broken", b"\xff\xfe"), 400, "not UTF-8"),
    "deep nesting": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, 400, "nested too deeply"),
    "NaN": (b'{"action": NaN}', 400, "NaN"),
    "a huge integer": (b'{"action": ' + b"1" * 10_000 + b"}", 400, "too long"),
    "null where an object belongs": (
        encode(github_issue() | {"issue": None}),
        422,
        "issue: must not be null",
    ),
    "a text where an object belongs": (
        encode(github_issue() | {"repository": "x"}),
        422,
        "repository: must be",
    ),
    "a missing field": (encode(github_issue(number=None)), 422, "issue.number"),
}


@pytest.mark.parametrize("name", CASES)
async def test_a_signed_body_that_cannot_be_used_is_refused_with_a_reason(receiver, sink, name):
    body, status, reason = CASES[name]
    assert reason in refusal(await receiver.github(body), status)
    assert sink.submitted == []


@pytest.mark.parametrize("name", [name for name in CASES if "action" not in name and "NaN" not in name])
async def test_the_same_without_a_valid_signature_is_401_for_nothing_is_parsed_before(receiver, name):
    body, _, _ = CASES[name]
    refusal(await receiver.github(body, **{"X-Hub-Signature-256": "sha256=" + "0" * 64}), 401)


async def test_null_where_an_object_belongs_is_422_on_gitlab_too(receiver):
    payload = gitlab_issue() | {"project": None}
    assert refusal(await receiver.gitlab(payload), 422) == "project: must not be null"


async def test_a_form_encoded_body_is_415_with_advice(receiver):
    body = b"payload=%7B%22action%22%3A%22labeled%22%7D"
    response = await receiver.github(body, **{"Content-Type": "application/x-www-form-urlencoded"})
    assert "choose it in the settings of the webhook" in refusal(response, 415)


async def test_of_duplicate_keys_the_last_wins(receiver, sink):
    body = BODY.replace(b'{"action": "labeled"', b'{"action": "opened", "action": "labeled"', 1)
    assert (await receiver.github(body)).json()["status"] == "success"
    body = BODY.replace(b'{"action": "labeled"', b'{"action": "labeled", "action": "opened"', 1)
    assert (await receiver.github(body, delivery="d-2")).json()["status"] == "ignored"


@pytest.mark.parametrize("event", ["watch", "workflow_run", "no such event", "a" * 4000])
async def test_an_unknown_event_is_ignored_whatever_is_in_it(receiver, event):
    response = await receiver.github({"issue": None}, event)
    assert (response.status_code, response.json()["status"]) == (200, "ignored")
    assert len(response.text) < 300


async def test_a_signed_request_without_an_event_header_is_400(receiver):
    assert "X-GitHub-Event" in refusal(await receiver.github(github_issue(), event=""), 400)
    assert "X-Gitlab-Event" in refusal(await receiver.gitlab(gitlab_issue(), event=""), 400)


async def test_30_megabytes_are_413_announced_or_not(receiver, sink):
    body = BODY + b" " * (30 * 1024 * 1024)
    headers = github_headers(body)

    async def chunks():
        for start in range(0, len(body), 1024 * 1024):
            yield body[start : start + 1024 * 1024]

    for content in (body, chunks()):
        response = await receiver.http.post("/webhook/github", content=content, headers=headers)
        assert refusal(response, 413) == "the body is larger than 26214400 bytes"
    assert sink.submitted == []
    assert (await receiver.github(github_issue())).status_code == 200


async def test_the_largest_body_that_github_sends_is_taken(receiver):
    payload = github_issue()
    payload["padding"] = "x" * (25 * 1024 * 1024 - len(encode(payload | {"padding": ""})))
    body = encode(payload)
    assert len(body) == 25 * 1024 * 1024
    assert (await receiver.github(body)).json()["status"] == "success"


async def test_the_limit_is_a_setting(sink):
    async with receiving(settings(max_body_bytes=100), sink) as receiver:
        assert "100 bytes" in refusal(await receiver.github(github_issue()), 413)
        refusal(await receiver.github(b" " * 101), 413)
        refusal(await receiver.github(b" " * 100), 400)


async def test_a_body_that_does_not_come_is_408(receiver, monkeypatch):
    monkeypatch.setattr("coding_agent_receiver.app.BODY_GRACE", 0.05)
    answer = await exchange(receiver, BODY, announced=len(BODY) + 10)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"did not arrive" in answer


async def test_a_sender_that_hangs_up_in_the_middle_leaves_no_task_and_no_error(receiver, sink, caplog):
    _, writer = await asyncio.open_connection("127.0.0.1", receiver.port)
    writer.write(head(BODY, announced=len(BODY) + 10) + BODY)
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    async with asyncio.timeout(60):
        while "closed the connection" not in caplog.text:
            await asyncio.sleep(0.01)
    assert "Traceback" not in caplog.text
    assert sink.submitted == []
    assert (await receiver.github(github_issue())).status_code == 200


@pytest.mark.parametrize(
    "raw",
    [
        b"nonsense\r\n\r\n",
        b"POST /webhook/github HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /webhook/github HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n",
        b"POST /webhook/github HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
async def test_what_is_not_http_is_refused_by_the_server(receiver, raw):
    reader, writer = await asyncio.open_connection("127.0.0.1", receiver.port)
    writer.write(raw)
    async with asyncio.timeout(60):
        answer = await reader.read()
    writer.close()
    assert answer.split(b" ")[1] in (b"400", b"401")


async def test_other_methods_and_paths_are_refused_plainly(receiver):
    answer = await receiver.http.get("/webhook/github")
    assert refusal(answer, 405)
    assert answer.headers["Allow"] == "POST"  # RFC 9110, section 15.5.6
    assert refusal(await receiver.http.post("/webhook/bitbucket"), 404)


def head(body, announced):
    lines = [f"{name}: {value}" for name, value in github_headers(body).items()]
    lines += ["Host: x", f"Content-Length: {announced}"]
    return ("POST /webhook/github HTTP/1.1\r\n" + "\r\n".join(lines) + "\r\n\r\n").encode()


async def exchange(receiver, body, announced):
    """Send a request whose body is shorter than announced; what is answered."""
    reader, writer = await asyncio.open_connection("127.0.0.1", receiver.port)
    writer.write(head(body, announced) + body)
    async with asyncio.timeout(60):
        answer = await reader.readuntil(b"\r\n\r\n")
        answer += await reader.read(4096)
    writer.close()
    return answer

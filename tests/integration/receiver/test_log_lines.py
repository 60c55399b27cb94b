"""S12: what the receiver says about a request, and what it never says."""

import io
import json
import logging
import re
from collections.abc import Iterator
from typing import Any

import pytest
from coding_agent_core.runtime.telemetry import configure
from coding_agent_core.settings.reading import Logging

from tests.fixtures.deliveries import SECRET, TOKEN, RecordingSink, github_issue, gitlab_issue, settings, sign
from tests.fixtures.receiver import receiving


@pytest.fixture
def logged() -> Iterator[Any]:
    """What is logged, as a program would write it; call it with the logging settings."""
    root = logging.getLogger()
    level, before, stream = root.level, list(root.handlers), io.StringIO()

    def start(**chosen: Any) -> Any:
        configure(Logging.model_validate({"level": "DEBUG", **chosen}), stream=stream)
        return stream

    yield start
    root.handlers[:] = before
    root.setLevel(level)


def said(stream: Any, level: Any = None) -> Any:
    """The receiver's lines without their time stamp."""
    lines = [re.sub(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", "", line) for line in stream.getvalue().splitlines()]
    return [
        line for line in lines if "[webhook.server]" in line and (level is None or line.startswith(level))
    ]


@pytest.mark.parametrize("form", ["text", "json"])
async def test_no_secret_token_or_body_is_ever_logged_and_no_header_breaks_a_line(
    logged: Any, form: str
) -> None:
    body_text = "the-private-body-of-the-issue"
    hostile = "x\x85forged"  # the server itself refuses ASCII control characters
    github, gitlab = github_issue(body=body_text), gitlab_issue(description=body_text)
    sink = RecordingSink()
    async with receiving(settings(), sink) as receiver:
        stream = logged(format=form)
        for broken in (None, RuntimeError("a defect")):
            sink.broken = broken
            await receiver.github(github)
            await receiver.gitlab(gitlab)
        await receiver.github(github | {"repository": None})
        await receiver.github(github, **{"X-Hub-Signature-256": sign(b"", SECRET)})
        await receiver.http.post(
            "/webhook/github",
            content=b"{}",
            headers=[
                (b"X-GitHub-Event", hostile.encode("latin-1")),
                (b"X-GitHub-Delivery", hostile.encode("latin-1")),
            ],
        )
    written = stream.getvalue()
    assert "Traceback" in written
    for never in (SECRET, TOKEN, body_text, sign(b"", SECRET), "\x85"):
        assert never not in written
    assert "x\\x85forged" in written if form == "text" else "x\\\\x85forged" in written
    if form == "json":
        entries = [json.loads(line) for line in written.splitlines()]
        assert {
            entry["delivery"]
            for entry in entries
            if entry["logger"] == "webhook.server" and "delivery" in entry
        }


async def test_a_flood_of_forged_requests_does_not_flood_the_log(logged: Any) -> None:
    async with receiving(settings(rate_limit={"failed": "3/minute"}), RecordingSink()) as receiver:
        stream = logged(level="INFO")
        for _ in range(20):
            await receiver.github(github_issue(), **{"X-Hub-Signature-256": "forged"})
    assert len(said(stream, "ERROR")) == 3

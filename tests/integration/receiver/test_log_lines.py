"""S12: what the receiver says about a request, and what it never says."""

import io
import json
import logging
import re

import pytest
from coding_agent_core.settings.model import Logging
from coding_agent_core.telemetry import configure

from tests.fixtures.deliveries import (
    SECRET,
    TOKEN,
    RecordingSink,
    github_issue,
    github_pull_request,
    gitlab_issue,
    gitlab_merge_request,
    settings,
    sign,
)
from tests.fixtures.receiver import receiving


@pytest.fixture
def logged():
    """What is logged, as a program would write it; call it with the logging settings."""
    root = logging.getLogger()
    level, before, stream = root.level, list(root.handlers), io.StringIO()

    def start(**chosen):
        configure(Logging.model_validate({"level": "DEBUG", **chosen}), stream=stream)
        return stream

    yield start
    root.handlers[:] = before
    root.setLevel(level)


def said(stream, level=None):
    """The receiver's lines without their time stamp."""
    lines = [re.sub(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", "", line) for line in stream.getvalue().splitlines()]
    return [
        line for line in lines if "[webhook.server]" in line and (level is None or line.startswith(level))
    ]


async def test_an_accepted_event_is_one_line_and_its_steps_are_for_debugging(logged):
    async with receiving(settings(), RecordingSink()) as receiver:
        stream = logged()
        answer = await receiver.github(github_issue(), delivery="72d3162e")
    lines = [line for line in said(stream) if line.endswith(" delivery=72d3162e")]
    item = "TaskGitHubIssue(owner=octo-org, repo=octo-repo, issue=7)"
    assert lines == [
        f"{level} [webhook.server] {message} delivery=72d3162e"
        for level, message in (
            ("DEBUG", "Received GitHub webhook: event=issues, action=labeled"),
            ("DEBUG", "Signature validation successful"),
            ("DEBUG", "Label matched: coding agent"),
            ("INFO", f"Task queued successfully: {answer.json()['task']}: {item}"),
        )
    ]


@pytest.mark.parametrize(
    ("send", "payload", "event", "task"),
    [
        ("github", github_pull_request(), "pull_request",
         "TaskGitHubPullRequest(owner=octo-org, repo=octo-repo, pull_request=7)"),
        ("gitlab", gitlab_issue(), "Issue Hook", "TaskGitLabIssue(project_id=14, issue_iid=23)"),
        ("gitlab", gitlab_merge_request(), "Merge Request Hook",
         "TaskGitLabMergeRequest(project_id=14, mr_iid=23)"),
    ],
)  # fmt: skip
async def test_the_task_is_named_by_its_class(logged, send, payload, event, task):
    async with receiving(settings(), RecordingSink()) as receiver:
        stream = logged()
        await getattr(receiver, send)(payload, event)
    assert f": {task}" in stream.getvalue()


async def test_each_line_has_the_level_that_it_deserves(logged):
    sink = RecordingSink()
    async with receiving(settings(), sink) as receiver:
        stream = logged()
        await receiver.github(github_issue("opened"))
        await receiver.github(github_issue("closed"))
        await receiver.github(github_issue(state="closed"))
        await receiver.github(github_issue(), **{"X-Hub-Signature-256": "forged"})
        await receiver.gitlab(gitlab_issue(), **{"X-Gitlab-Token": "forged"})
        await receiver.github(b"nonsense")
        await receiver.github(github_issue() | {"repository": None})
        sink.down = True
        await receiver.github(github_issue())
    ordinary, unexpected = said(stream, "INFO"), said(stream, "WARNING")
    assert any("Ignored: not a labeled action: opened" in line for line in ordinary)
    assert any("Ignored: the issue was closed, but the item has no task" in line for line in ordinary)
    assert len(unexpected) == 1
    assert "Ignored: the item is closed; reopen it" in unexpected[0]
    errors = "\n".join(said(stream, "ERROR"))
    assert "Signature validation failed for a GitHub webhook: event=issues, client=127.0.0.1" in errors
    assert "Token validation failed for a GitLab webhook: event=Issue Hook" in errors
    assert "Cannot read the GitHub payload: the body is not JSON" in errors
    assert "Cannot use the payload: repository: must not be null" in errors
    assert "Task not queued: the broker" in errors


@pytest.mark.parametrize("form", ["text", "json"])
async def test_no_secret_token_or_body_is_ever_logged_and_no_header_breaks_a_line(logged, form):
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


async def test_a_flood_of_forged_requests_does_not_flood_the_log(logged):
    async with receiving(settings(rate_limit={"failed": "3/minute"}), RecordingSink()) as receiver:
        stream = logged(level="INFO")
        for _ in range(20):
            await receiver.github(github_issue(), **{"X-Hub-Signature-256": "forged"})
    assert len(said(stream, "ERROR")) == 3

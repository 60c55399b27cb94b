"""B3: comments as commands, from both forges' webhooks."""

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest
from coding_agent_core.settings.model import Settings
from coding_agent_core.task.commands import IssueCommand
from coding_agent_core.task.model import CommandName
from coding_agent_forges.github import webhook as github
from coding_agent_forges.gitlab import webhook as gitlab
from coding_agent_forges.webhooks.events import Commanded, Delivery, Ignored, Meaning
from coding_agent_forges.webhooks.payload import FieldError

from tests.fixtures.deliveries import NOW, github_issue, gitlab_issue, settings

AT = datetime(2026, 11, 25, 11, 59, 30, tzinfo=UTC)
ON = settings(commands={"enabled": True})


def github_comment(body: str = "/run", action: str = "created", **issue: Any) -> dict[str, Any]:
    payload = github_issue(action, None, **issue)
    comment = {
        "id": 99,
        "body": body,
        "user": {"login": "alice", "id": 1},
        "created_at": "2026-11-25T11:59:30Z",
    }
    return payload | {"comment": comment}


def gitlab_note(body: str = "/run", noteable: str = "Issue", **note: Any) -> dict[str, Any]:
    issue = gitlab_issue()
    kind = "issue" if noteable == "Issue" else "merge_request"
    attributes = {
        "id": 99,
        "note": body,
        "noteable_type": noteable,
        "created_at": "2026-11-25 11:59:30 UTC",
        "updated_at": "2026-11-25 11:59:30 UTC",
        "system": False,
        "action": "create",
        "url": f"https://gitlab.com/gitlabhq/gitlab-test/-/{kind}s/23#note_99",
        **note,
    }
    return {
        "object_kind": "note",
        "event_type": "note",
        "user": {"id": 1, "name": "Alice", "username": "alice"},
        "project": issue["project"],
        "object_attributes": attributes,
        kind: {"iid": 23, "title": "New API", "labels": []},
    }


def of_github(payload: dict[str, Any], configured: Settings = ON) -> Meaning:
    return github.interpret(Delivery("issue_comment", "d-1"), payload, configured, NOW)


def of_gitlab(payload: dict[str, Any], configured: Settings = ON, event: str = "Note Hook") -> Meaning:
    return gitlab.interpret(Delivery(event, "k-1"), payload, configured, NOW)


def command(meaning: Meaning) -> IssueCommand:
    assert isinstance(meaning, Commanded)
    return meaning.command


def test_a_command_on_github_is_read_whole() -> None:
    found = command(of_github(github_comment("/cancel\r\nplease")))
    assert (found.name, found.user, found.comment) == (CommandName.CANCEL, "alice", "99")
    assert (found.at, found.delivery_id, found.received_at) == (AT, "d-1", NOW)
    assert (found.item.display, found.item.host) == ("octo-org/octo-repo#7", "github.com")
    assert (found.title, found.url) == ("It is broken", "https://github.com/octo-org/octo-repo/issues/7")


@pytest.mark.parametrize("event", ["Note Hook", "Confidential Note Hook", "System Hook"])
@pytest.mark.parametrize(
    ("noteable", "type_"), [("Issue", "gitlab_issue"), ("MergeRequest", "gitlab_merge_request")]
)
def test_a_command_on_gitlab_is_read_whole(event: str, noteable: str, type_: str) -> None:
    found = command(of_gitlab(gitlab_note(noteable=noteable), event=event))
    assert (found.name, found.user, found.comment) == (CommandName.RUN, "alice", "99")
    assert (found.at, found.delivery_id) == (AT, "k-1")
    assert (found.item.key["type"], found.item.number, found.item.repository) == (
        type_,
        23,
        "gitlabhq/gitlab-test",
    )
    assert found.title == "New API"
    assert found.url.endswith("/23"), "the item's page, without the note's anchor"


def test_a_gitlab_before_16_11_does_not_say_what_happened() -> None:
    assert isinstance(of_gitlab(gitlab_note(action=None)), Commanded)
    edited = gitlab_note(action=None, updated_at="2026-11-25 12:00:30 UTC")
    assert isinstance(of_gitlab(edited), Ignored)


@pytest.mark.parametrize(
    "payload",
    [
        github_comment("Please /run it"),
        github_comment("/run", "edited"),
        github_comment("/run\n<!-- coding-agent:status {} -->"),
        github_comment(html_url="https://evil.example/octo-org/octo-repo/issues/7"),
    ],
)
def test_other_comments_on_github_are_ignored(payload: dict[str, Any]) -> None:
    assert isinstance(of_github(payload), Ignored)


@pytest.mark.parametrize(
    "payload",
    [
        gitlab_note("run"),
        gitlab_note(action="update"),
        gitlab_note(system=True),
        gitlab_note(noteable="Commit"),
        gitlab_note("/run\n<!-- coding-agent:status {} -->"),
        gitlab_note(url="https://evil.example/gitlabhq/gitlab-test/-/issues/23#note_99"),
    ],
)
def test_other_comments_on_gitlab_are_ignored(payload: dict[str, Any]) -> None:
    assert isinstance(of_gitlab(payload), Ignored)


def test_nothing_is_a_command_unless_enabled_and_allowed() -> None:
    for configured in (settings(), settings(commands={"enabled": True, "allowed": ["cancel"]})):
        assert isinstance(of_github(github_comment(), configured), Ignored)
        assert isinstance(of_gitlab(gitlab_note(), configured), Ignored)
    only = settings(commands={"enabled": True, "allowed": ["cancel"]})
    assert isinstance(of_github(github_comment("/cancel"), only), Commanded)


def without(payload: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    *parents, last = path.split(".")
    target = payload
    for name in parents:
        target[name] = dict(target[name])
        target = target[name]
    target[last] = value
    return payload


@pytest.mark.parametrize(
    ("of", "paths"),
    [
        (lambda change: of_github(change(github_comment())), ("comment.id", "comment.user.login", "issue")),
        (lambda change: of_gitlab(change(gitlab_note())), ("object_attributes.id", "user.username", "issue")),
    ],
)
def test_a_command_must_have_its_fields(of: Callable[..., Meaning], paths: tuple[str, ...]) -> None:
    for path in paths:
        for value in (None, 7.5, True, "https://x/\n"):
            with pytest.raises(FieldError) as caught:
                of(partial(without, path=path, value=value))
            assert caught.value.field.startswith(path)

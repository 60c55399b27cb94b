"""Whether an event shows that neither a fork nor a stranger wrote the item. The unknown is not trusted."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.task.model import Item, Origin, TaskRequest, Trust
from coding_agent_forges.github import webhook as github
from coding_agent_forges.gitlab import webhook as gitlab
from coding_agent_forges.webhooks.events import Accepted, Delivery, accept
from coding_agent_forges.webhooks.payload import Fields

from tests.fixtures.deliveries import NOW, github_issue, github_pull_request, gitlab_issue, settings
from tests.fixtures.deliveries import gitlab_merge_request as merge_request


def on_github(payload: dict[str, Any], event: str, **repository: Any) -> bool:
    return request_of(payload, event, **repository).trusted


def request_of(payload: dict[str, Any], event: str, account: str = "", **repository: Any) -> TaskRequest:
    """What asks for the task; `account` is our own, as the settings name it."""
    payload["repository"] |= {"id": 1, **repository}
    chosen: Any = settings()
    chosen = chosen.model_copy(update={"github": chosen.github.model_copy(update={"account": account})})
    found = github.interpret(Delivery(event, "d-1"), payload, chosen, NOW)
    assert isinstance(found, Accepted)
    return found.request


def on_gitlab(payload: dict[str, Any], event: str, **project: Any) -> bool:
    payload["project"] |= project
    if project.get("visibility_level", 0) is None:
        del payload["project"]["visibility_level"]
    found = gitlab.interpret(Delivery(event, "k-1"), payload, settings(), NOW)
    assert isinstance(found, Accepted)
    return found.request.trusted


@pytest.mark.parametrize(
    ("association", "repository", "trusted"),
    [
        ("OWNER", {}, True),
        ("COLLABORATOR", {"private": False}, True),
        ("CONTRIBUTOR", {"private": False}, False),
        (None, {"private": False}, False),
        ("NONE", {"private": True}, True),
        (None, {"private": True}, True),
    ],
)
def test_an_issue_on_github(association: str | None, repository: dict[str, Any], trusted: bool) -> None:
    payload = github_issue(author_association=association)
    assert on_github(payload, "issues", **repository) is trusted


@pytest.mark.parametrize(
    ("head", "association", "private", "trusted"),
    [
        ({"repo": {"id": 1}}, "OWNER", False, True),
        ({"repo": {"id": 1}}, "NONE", True, True),
        ({"repo": {"id": 1}}, "NONE", False, False),
        ({"repo": {"id": 2}}, "OWNER", True, False),
        ({"repo": {}}, "OWNER", True, False),
    ],
)
def test_a_pull_request(head: object, association: str, private: bool, trusted: bool) -> None:
    payload = github_pull_request(head=head, author_association=association)
    assert on_github(payload, "pull_request", private=private) is trusted


@pytest.mark.parametrize(
    ("branch", "author", "account", "private", "trusted", "answers"),
    [
        ("feature", "alice", "coding-bot", False, True, None),
        # The agent's own work is at most as trusted as the issue, whoever opened the pull request for it.
        ("coding-agent/issue-5", "coding-bot", "coding-bot", False, False, 5),
        ("coding-agent/issue-5-r2", "coding-bot", "", False, False, 5),
        ("coding-agent/issue-5", "alice", "coding-bot", False, False, 5),
        # It is not known which issue it answers.
        ("feature", "Coding-Bot", "coding-bot", False, False, None),
        ("coding-agent/issue-5/more", "alice", "", False, False, None),
        # Strangers do not see the repository.
        ("coding-agent/issue-5", "coding-bot", "coding-bot", True, True, 5),
    ],
)
def test_a_pull_request_with_the_agents_own_work(
    branch: str, author: str, account: str, private: bool, trusted: bool, answers: int | None
) -> None:
    payload = github_pull_request(
        head={"ref": branch, "repo": {"id": 1}}, user={"login": author}, author_association="COLLABORATOR"
    )
    request = request_of(payload, "pull_request", account, private=private)
    assert request.trusted is trusted
    assert (request.answers.number if request.answers else None) == answers
    if request.answers is not None:
        assert request.answers.kind is ItemKind.ISSUE
        assert request.answers.repository == request.item.repository


def test_a_forks_branch_with_the_agents_prefix_answers_no_issue() -> None:
    payload = github_pull_request(
        head={"ref": "coding-agent/issue-5", "repo": {"id": 2}}, author_association="OWNER"
    )
    request = request_of(payload, "pull_request")
    assert (request.trusted, request.answers) == (False, None)


@pytest.mark.parametrize("account", ["coding-bot", ""])
def test_an_issue_that_our_own_account_opened(account: str) -> None:
    """Its text can be other people's. Without the setting the receiver does not know its account."""
    payload = github_issue(user={"login": "coding-bot"}, author_association="COLLABORATOR")
    assert request_of(payload, "issues", account, private=False).trusted is (not account)


def test_an_issues_event_about_a_pull_request_does_not_show_where_its_branch_is() -> None:
    payload = github_issue(pull_request={"url": "https://api.github.com/x"}, author_association="OWNER")
    assert not on_github(payload, "issues", private=True)


@pytest.mark.parametrize(
    ("level", "trusted"), [(0, True), (10, True), (20, False), (None, False), (5, False)]
)
def test_an_issue_on_gitlab(level: int | None, trusted: bool) -> None:
    assert on_gitlab(gitlab_issue(), "Issue Hook", visibility_level=level) is trusted


@pytest.mark.parametrize(("source", "level", "trusted"), [(14, 0, True), (14, 20, False), (None, 0, False)])
def test_a_merge_request(source: int | None, level: int, trusted: bool) -> None:
    payload = merge_request(source_project_id=source, target_project_id=14)
    assert on_gitlab(payload, "Merge Request Hook", visibility_level=level) is trusted


ITEM = Item(platform=Platform.GITHUB, host="github.com", repository="o/r", kind=ItemKind.ISSUE, number=7)
LABELED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("age", "origin"),
    [(-30, Origin.WEBHOOK), (2, Origin.WEBHOOK), (60, Origin.WEBHOOK), (61, Origin.REDELIVERY)],
)
def test_origin(age: float, origin: Origin) -> None:
    subject = Fields({"updated_at": LABELED.isoformat()}, "issue")
    accepted = accept(
        ITEM,
        subject,
        user="alice",
        url="",
        trust=Trust(trusted=False),
        runner=None,
        delivered=Delivery("issues", "d"),
        received_at=LABELED + timedelta(seconds=age),
    )
    assert accepted.request.trigger.origin is origin

"""S3, S4, B2, B3: what Gitea's events mean. None of them says which label was applied or removed."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.settings.model import Settings
from coding_agent_core.task.model import Origin, WithdrawalCause
from coding_agent_core.task.runners import RunnerName
from coding_agent_forges.gitea.webhook import delivery, interpret, verification
from coding_agent_forges.webhooks.events import Accepted, Commanded, Delivery, Ignored, Rescan, Withdrawn
from coding_agent_forges.webhooks.payload import FieldError

from tests.fixtures.deliveries import NOW, SECRET, encode, sign

BOT, PROCESSING, DONE = "coding agent", "coding agent processing", "coding agent done"
CODEX = f"{BOT}: codex"
HOST = "code.example.net"
UPDATED = datetime(2026, 11, 25, 11, 59, tzinfo=UTC)
SETTINGS: dict[str, Any] = {
    "gitea": {"api_url": f"https://{HOST}", "account": "coding-agent"},
    "webhook": {"gitea": {"secret": SECRET}, "commands": {"enabled": True}},
    "rounds": {"enabled": True},
}


def payload(action: str, *labels: str, change: bool = False, branch: str = "fix", **more: Any) -> Any:
    """An event as Gitea 1.27 sends it, shortened to what is read."""
    number, noun = (8, "pulls") if change else (7, "issues")
    subject: dict[str, Any] = {
        "number": number,
        "title": "Prices are wrong",
        "state": "open",
        "html_url": f"https://{HOST}/acme/pricing/{noun}/{number}",
        "labels": [{"id": 3, "name": label} for label in labels],
        "updated_at": "2026-11-25T12:59:00+01:00",
        "user": {"login": "alice"},
    }
    if change:
        subject["base"] = {"ref": "main", "repo_id": 1}
        subject["head"] = {"ref": branch, "repo_id": 1, "repo": {"full_name": "acme/pricing"}}
    else:
        subject["pull_request"] = None
    return {
        "action": action,
        "number": number,
        "pull_request" if change else "issue": subject | more.pop("subject", {}),
        "repository": {
            "name": "pricing",
            "full_name": "acme/pricing",
            "html_url": f"https://{HOST}/acme/pricing",
            "private": False,
            "owner": {"login": "acme"},
        },
        "sender": {"login": "alice"},
    } | more


def meaning(found: Any, event: str = "", **settings: Any) -> Any:
    kind = "pull_request" if "pull_request" in found else "issues"
    configured = Settings.model_validate(SETTINGS | settings)
    return interpret(Delivery(event or kind, "d-1"), found, configured, NOW)


@pytest.mark.parametrize("change", [False, True])
def test_a_shown_label_is_a_request_that_the_item_has_to_confirm(change: bool) -> None:
    result = meaning(payload("label_updated", "bug", CODEX, change=change))
    assert isinstance(result, Accepted)
    request = result.request
    assert request.item.kind is (ItemKind.CHANGE if change else ItemKind.ISSUE)
    assert (request.item.host, request.item.repository) == (HOST, "acme/pricing")
    assert (request.user, request.title, request.runner) == ("alice", "Prices are wrong", RunnerName.CODEX)
    trigger = request.trigger
    assert (trigger.origin, trigger.labeled_at) == (Origin.LABELS, UPDATED)
    assert trigger.delivery_id is None, "a redelivery has another one"


@pytest.mark.parametrize(
    ("found", "settings"),
    [
        pytest.param(payload("label_updated", "bug"), {}, id="removed, or never there"),
        pytest.param(payload("label_updated", DONE), {}, id="done"),
        pytest.param(payload("label_updated"), {}, id="the last one removed, or all replaced"),
        pytest.param(payload("label_cleared", BOT, "bug"), {}, id="cleared: these are the labels before"),
        pytest.param(payload("label_updated", "bug", change=True), {}, id="of a pull request"),
    ],
)
def test_a_label_that_is_not_shown_is_a_withdrawal_that_the_item_has_to_confirm(
    found: Any, settings: Any
) -> None:
    result = meaning(found, **settings)
    assert isinstance(result, Withdrawn)
    assert result.withdrawal.cause is WithdrawalCause.UNLABELED
    assert (result.withdrawal.at, result.withdrawal.confirmed) == (None, False)


@pytest.mark.parametrize(
    ("action", "more", "what"),
    [
        ("closed", {}, "was closed"),
        ("deleted", {}, "was deleted"),
        ("closed", {"change": True, "subject": {"merged": True}}, "was closed"),
    ],
)
def test_a_closed_item_withdraws_its_task_at_its_time(action: str, more: Any, what: str) -> None:
    result = meaning(payload(action, BOT, **more))
    assert isinstance(result, Withdrawn)
    assert result.withdrawal.cause is WithdrawalCause.CLOSED
    assert result.withdrawal.at == UPDATED
    assert what in result.withdrawal.reason


OURS: dict[str, Any] = {"sender": {"login": "Coding-Agent"}}
NO_ACCOUNT: dict[str, Any] = {"gitea": {"api_url": f"https://{HOST}"}}


@pytest.mark.parametrize(
    ("found", "settings", "reason", "unexpected"),
    [
        (payload("label_updated", BOT, PROCESSING, **OURS), {}, "own account", False),
        (payload("label_updated", DONE, **OURS), {}, "own account", False),
        (payload("label_updated", PROCESSING), {}, "does not have the target label", False),
        (payload("label_updated", BOT, PROCESSING), NO_ACCOUNT, "gitea.account", False),
        (payload("label_updated", BOT, subject={"state": "closed"}), {}, "is closed", True),
        (payload("opened", BOT), {}, "not an action of labels", False),
        (payload("edited", BOT), {}, "not an action of labels", False),
        (payload("label_updated", BOT), {"gitea": {}}, "gitea.api_url points to gitea.com", True),
    ],
)
def test_what_asks_for_nothing(found: Any, settings: Any, reason: str, unexpected: bool) -> None:
    result = meaning(found, **settings)
    assert isinstance(result, Ignored)
    assert reason in result.reason
    assert result.unexpected is unexpected


def test_a_person_may_apply_the_label_again_while_the_task_runs() -> None:
    assert isinstance(meaning(payload("label_updated", BOT, PROCESSING)), Accepted)


@pytest.mark.parametrize(
    "broken",
    [
        {"repository": {"name": "..", "owner": {"login": "acme"}, "html_url": f"https://{HOST}/x"}},
        {"issue": None},
        {"issue": {"number": 0, "html_url": f"https://{HOST}/acme/pricing/issues/0"}},
    ],
)
def test_a_field_that_is_wrong_is_named(broken: Any) -> None:
    with pytest.raises(FieldError):
        meaning(payload("label_updated", BOT) | broken, "issues")


def commented(body: str, *, change: bool = False, **more: Any) -> Any:
    found = payload("created", change=change, branch="agent/issue-3")
    issue = found["pull_request"] if change else found["issue"]
    comment = {"id": 41, "body": body, "user": {"login": "alice"}, "created_at": "2026-11-25T11:59:00Z"}
    shown = {"issue": issue | {"pull_request": {"merged": False} if change else None}}
    return found | shown | {"comment": comment, "is_pull": change} | more


def test_a_comment_is_a_command() -> None:
    for change in (False, True):
        result = meaning(commented("/cancel", change=change), "issue_comment")
        assert isinstance(result, Commanded)
        assert (result.command.comment, result.command.user, result.command.at) == ("41", "alice", UPDATED)
        assert result.command.item.kind is (ItemKind.CHANGE if change else ItemKind.ISSUE)
    assert isinstance(meaning(commented("/cancel") | {"action": "edited"}, "issue_comment"), Ignored)


AGENTS: dict[str, Any] = {"change": True, "branch": "coding-agent/issue-3"}
FORK: dict[str, Any] = {
    "head": {"ref": "coding-agent/issue-3", "repo_id": 2, "repo": {"full_name": "eve/pricing"}}
}
SAID: dict[str, Any] = {"issue": {"number": 8}, "comment": {"body": "Hm."}, "is_pull": True}
MENTION: dict[str, Any] = {"comment": {"body": "@coding-agent look"}}
RUN: dict[str, Any] = {"action": "completed", "workflow_run": {"head_branch": "coding-agent/issue-3"}}


@pytest.mark.parametrize(
    ("found", "event", "numbers"),
    [
        (payload("reviewed", **AGENTS), "pull_request_approved", {8, 3}),
        (payload("reviewed", **AGENTS), "pull_request_rejected", {8, 3}),
        (payload("reviewed", **AGENTS), "pull_request_comment", {8, 3}),
        (payload("synchronized", **AGENTS), "pull_request", {8, 3}),
        (payload("", **AGENTS) | RUN, "workflow_run", {3}),
        (payload("created", **AGENTS) | SAID, "issue_comment", {8, 3}),
        (payload("created") | SAID, "issue_comment", set()),
        (payload("created") | SAID | MENTION, "issue_comment", {8}),
        (payload("reviewed", **AGENTS, **OURS), "pull_request_comment", set()),
        (payload("reviewed", change=True), "pull_request_comment", set()),
        (payload("reviewed", **AGENTS, subject=FORK), "pull_request_comment", set()),
        (payload("reviewed", **AGENTS, subject={"head": None}), "pull_request_comment", set()),
        (payload("") | {"state": "failure", "context": "ci"}, "status", set()),
    ],
)
def test_what_happens_on_our_changes_causes_a_look(found: Any, event: str, numbers: set[int]) -> None:
    result = meaning(found, event)
    shown = {item.number for item in result.items} if isinstance(result, Rescan) else set[int]()
    assert shown == numbers, result
    if isinstance(result, Rescan):
        wrote = event.startswith("pull_request_") or event == "issue_comment"
        assert result.author == (found["sender"]["login"] if wrote else "")


def test_headers_and_proof() -> None:
    body = encode(payload("label_updated", BOT))
    headers = {
        "x-gitea-event": "issues",
        "x-gitea-event-type": "issue_label",
        "x-gitea-delivery": "d-1",
        "x-github-event": "issues",
        "x-hub-signature-256": sign(body),
    }
    assert delivery(headers) == Delivery("issues", "d-1")
    check = verification(headers, [SECRET])
    assert check is not None
    check.update(body)
    assert check.valid()
    assert verification({"x-gitea-signature": sign(body)}, [SECRET]) is None


RECORDED = json.loads(Path(__file__).with_name("gitea_recorded.json").read_text())
"""What Gitea 1.27.3 sent when people did something, each with the fields that are read."""
ASKED, GONE, CLOSED, LOOKED = "accepted", "unlabeled", "closed", "rescan"
MEANINGS = {
    "comment_created": [None],
    "issue_closed": [CLOSED],
    "issue_edited": [None],
    "issue_opened": [None],
    "issue_opened_with_label": [None, ASKED],
    "issue_reopened": [None],
    "label_added": [ASKED],
    "label_added_again": [ASKED],
    "label_added_redelivered": [ASKED],
    "label_put_back": [ASKED],
    "label_removed": [GONE],
    "label_removed_again": [GONE],
    "labels_cleared": [GONE],
    "labels_replaced": [GONE],
    "line_commented": [LOOKED],
    "line_replied": [LOOKED],
    "pull_closed": [CLOSED],
    "pull_comment_created": [LOOKED],
    "pull_labeled": [ASKED],
    "pull_merged": [CLOSED, CLOSED, None],
    "pull_opened": [None],
    "pull_reopened": [LOOKED],
    "pull_synchronized": [None, None],
    "review_approved": [LOOKED],
    "review_comment": [LOOKED],
    "review_rejected": [LOOKED],
    "second_label_added": [ASKED],
    "status_failure": [None],
}


@pytest.mark.parametrize(("step", "expected"), MEANINGS.items(), ids=MEANINGS)
def test_what_a_real_gitea_sends(step: str, expected: list[str | None]) -> None:
    section = {"api_url": "http://127.0.0.1:3000", "account": "coding-agent-bot"}
    settings = {"gitea": section, "consumer": {"branch_prefix": "agent/"}}
    found: list[str | None] = []
    for sent in RECORDED[step]:
        result = meaning(sent["body"], sent["event"], **settings)
        match result:
            case Withdrawn():
                found.append(result.withdrawal.cause.value)
            case Accepted() | Rescan():
                found.append(type(result).__name__.lower())
            case _:
                assert not result.unexpected
                found.append(None)
    assert found == expected


def test_a_redelivery_and_the_event_of_another_label_are_known_by_their_times() -> None:
    section = {"api_url": "http://127.0.0.1:3000"}
    steps = ("label_added", "label_added_redelivered", "second_label_added")
    first, again, later = (
        meaning(RECORDED[step][0]["body"], "issues", gitea=section).request.trigger for step in steps
    )
    assert first == again
    assert later.labeled_at >= first.labeled_at

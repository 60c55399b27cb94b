"""S2, S6, B3: what GitHub's events mean."""

from datetime import UTC, datetime
from typing import Any

import pytest
from coding_agent_core.settings.model import Settings
from coding_agent_core.task.model import Origin
from coding_agent_core.task.runners import RunnerName
from coding_agent_forges.github.webhook import delivery, interpret
from coding_agent_forges.webhooks.events import Accepted, Delivery, Ignored, Withdrawn
from coding_agent_forges.webhooks.payload import FieldError

from tests.fixtures.deliveries import NOW, github_issue, github_pull_request, settings

BOT, PROCESSING, DONE = "coding agent", "coding agent processing", "coding agent done"
CODEX = f"{BOT}: codex"


def meaning(payload: Any, event: Any = "issues", configured: Any = None) -> Any:
    return interpret(Delivery(event, "d-1"), payload, configured or settings(), NOW)


def labels(*names: Any) -> Any:
    return [{"name": name} for name in names]


def test_a_labeled_issue_is_a_task() -> None:
    result = meaning(github_issue())
    assert isinstance(result, Accepted)
    request = result.request
    assert request.item.key == {"type": "github_issue", "owner": "octo-org", "repo": "octo-repo", "number": 7}
    assert (request.item.host, request.item.repository) == ("github.com", "octo-org/octo-repo")
    assert (request.user, request.title) == ("octocat", "It is broken")
    assert request.url == "https://github.com/octo-org/octo-repo/issues/7"
    assert request.trigger.origin is Origin.WEBHOOK
    assert request.trigger.delivery_id == "d-1"
    assert request.trigger.labeled_at == datetime(2026, 11, 25, 11, 59, tzinfo=UTC)
    assert request.trigger.received_at == NOW


@pytest.mark.parametrize(
    ("applied", "present", "runner"),
    [
        (BOT, [BOT], None),
        (BOT, [BOT, CODEX], RunnerName.CODEX),
        (CODEX, [], RunnerName.CODEX),
        (CODEX, [CODEX, f"{BOT}: claude-code"], RunnerName.CLAUDE_CODE),
        ("Coding Agent", ["Coding Agent"], None),  # for GitHub, this is the same label
        ("CODING AGENT: Codex", ["Bug"], RunnerName.CODEX),
    ],
)
@pytest.mark.parametrize("event", ["issues", "pull_request"])
def test_a_label_that_names_a_coding_agent_asks_for_its_work(
    event: str, applied: Any, present: Any, runner: Any
) -> None:
    payload = github_issue if event == "issues" else github_pull_request
    result = meaning(payload("labeled", applied, labels=labels(*present)), event)
    assert isinstance(result, Accepted)
    assert result.request.runner is runner


def test_an_issues_event_about_a_pull_request_is_about_the_pull_request() -> None:
    result = meaning(github_issue(pull_request={"url": "https://api.github.com/x"}))
    assert isinstance(result, Accepted)
    assert result.request.item.key["type"] == "github_pull_request"


@pytest.mark.parametrize(
    ("event", "payload", "reason"),
    [
        ("ping", {"zen": "Design for failure."}, "pong"),
        ("x\r\nINFO forged", {}, "unsupported event type: x\\r\\nINFO forged"),
        ("issues", github_issue("opened"), "not a labeled action: opened"),
        ("issues", github_issue("labeled", "bug"), "not the target label"),
        ("issues", github_issue("labeled", "bug") | {"issue": None}, "not the target label"),
        ("issues", github_issue(state="closed"), "closed"),
        ("issues", github_issue("unlabeled", "bug"), "not the target label"),
        ("issues", github_issue("unlabeled", BOT, labels=labels(PROCESSING)), "still has"),
        ("issues", github_issue("unlabeled", PROCESSING, labels=labels(DONE, "bug")), "still has"),
        ("issues", github_issue("unlabeled", DONE, labels=[]), "not the target label"),
        ("issues", github_issue("labeled", f"{BOT}: nobody"), "not the target label"),
        ("issues", github_issue("unlabeled", CODEX, labels=labels(BOT)), "still has"),
        ("issues", github_issue("unlabeled", BOT, labels=labels(CODEX)), "still has"),
        ("issues", github_issue("unlabeled", "Coding Agent", labels=labels(PROCESSING.title())), "still has"),
    ],
)
def test_an_event_that_does_not_concern_us_is_ignored_with_a_reason(
    event: str, payload: Any, reason: str
) -> None:
    result = meaning(payload, event)
    assert isinstance(result, Ignored)
    assert reason in result.reason


@pytest.mark.parametrize(
    ("event", "payload", "reason"),
    [
        ("issues", github_issue("unlabeled", BOT), "the issue lost the label 'coding agent'"),
        ("issues", github_issue("unlabeled", PROCESSING, labels=labels("bug")), "lost the label"),
        ("issues", github_issue("unlabeled", CODEX), "the issue lost the label 'coding agent: codex'"),
        # Its label was deleted from the repository.
        ("issues", github_issue("unlabeled", None), "lost a label that was deleted from the repository"),
        ("issues", github_issue("unlabeled", "Coding Agent"), "the issue lost the label 'coding agent'"),
        (
            "issues",
            github_issue("unlabeled", "Coding Agent Processing", labels=labels("bug")),
            "the issue lost the label 'coding agent processing'",
        ),
        # A done label that is left from an earlier run does not keep a task that still waits.
        ("issues", github_issue("unlabeled", BOT, labels=labels(DONE)), "lost the label"),
        ("issues", github_issue("closed", None), "the issue was closed"),
        ("issues", github_issue("deleted", None), "the issue was deleted"),
        ("pull_request", github_pull_request("closed"), "the pull request was closed"),
    ],
)
def test_a_person_who_takes_the_label_off_or_closes_the_item_withdraws_the_task(
    event: str, payload: Any, reason: str
) -> None:
    result = meaning(payload, event)
    assert isinstance(result, Withdrawn)
    assert reason in result.withdrawal.reason
    told = "The label was removed." if "label" in reason else f"T{result.withdrawal.reason[1:]}."
    assert result.withdrawal.message == told, "for people on the item"
    assert result.withdrawal.item.number == 7
    assert result.withdrawal.user == payload["sender"]["login"]
    assert result.withdrawal.delivery_id == "d-1"
    assert result.withdrawal.at == datetime(2026, 11, 25, 11, 59, tzinfo=UTC)


def test_events_and_actions_come_from_the_configuration() -> None:
    only_changes = settings(github={"events": ["pull_request"]})
    assert isinstance(meaning(github_issue(), "issues", only_changes), Ignored)
    assert isinstance(meaning(github_pull_request(), "pull_request", only_changes), Accepted)
    reopened = settings(github={"actions": ["reopened"]})
    assert isinstance(meaning(github_issue(), "issues", reopened), Ignored)
    assert isinstance(meaning(github_issue("reopened", None), "issues", reopened), Ignored)
    carried = github_issue("reopened", None, labels=labels(BOT))
    assert isinstance(meaning(carried, "issues", reopened), Accepted)


@pytest.mark.parametrize(
    ("api_url", "html_url", "accepted"),
    [
        ("https://api.github.com", "https://GitHub.com/octo-org/octo-repo/issues/7", True),
        ("https://ghe.example.com/api/v3", "https://ghe.example.com/octo-org/octo-repo/issues/7", True),
        ("http://127.0.0.1:4567/api/v3", "http://127.0.0.1:4568/octo-org/octo-repo/issues/7", False),
        ("https://ghe.example.com/api/v3", "https://github.com/octo-org/octo-repo/issues/7", False),
        ("https://api.github.com", "https://github.com.evil.example/octo-org/octo-repo/issues/7", False),
    ],
)
def test_an_event_of_another_forge_than_the_configured_makes_no_task(
    api_url: Any, html_url: Any, accepted: Any
) -> None:
    configured: Any = Settings.model_validate({"github": {"api_url": api_url}})
    result = meaning(github_issue(html_url=html_url), "issues", configured)
    assert isinstance(result, Accepted if accepted else Ignored)
    if isinstance(result, Accepted):
        assert result.request.item.host == configured.github.host
    else:
        assert isinstance(result, Ignored)
        assert "github.api_url" in result.reason


def changed(path: Any, value: Any) -> Any:
    payload = github_issue()
    target = payload
    *parents, last = path.split(".")
    for name in parents:
        target = target[name]
    if value == "absent":
        del target[last]
    else:
        target[last] = value
    return payload


@pytest.mark.parametrize(
    ("path", "values"),
    [
        *((path, ("absent", None, 7, []))
          for path in ("action", "label.name", "issue", "repository.owner.login", "sender.login")),
        ("issue.number", ("absent", None, "7", 0, 7.0, True, 2**60)),
        ("repository.name", ("", "..", "a/b", "a\nb", "ä", "\ud800", "x" * 101)),
        ("issue.html_url", ("", "javascript://github.com/x", "https://[::1/x", "https://github.com:x/")),
        ("issue.html_url", ("https://github.com/a b", "https://")),
    ],
)  # fmt: skip
def test_a_field_that_is_needed_is_named_if_it_is_wrong(path: str, values: tuple[object, ...]) -> None:
    for value in values:
        with pytest.raises(FieldError) as caught:
            meaning(changed(path, value))
        assert caught.value.field == path
        assert str(caught.value).startswith(f"{path}: ")


def test_what_is_not_needed_may_be_absent_and_odd_text_is_made_printable() -> None:
    payload = github_issue(title="a\x00b\ud800" + "x" * 2000, state=None, labels=None, updated_at=None)
    payload["sender"]["login"] = "we\nird[bot]"
    result = meaning(payload)
    assert isinstance(result, Accepted)
    assert result.request.title.startswith("a b?xx")
    assert len(result.request.title) == 1024
    assert result.request.user == "we ird[bot]"
    assert result.request.trigger.labeled_at is None


def test_the_delivery_is_read_from_the_headers_bounded_and_without_control_characters() -> None:
    assert delivery({"x-github-event": "issues", "x-github-delivery": "72d3"}) == Delivery("issues", "72d3")
    assert delivery({}) == Delivery("", None)
    long = delivery({"x-github-delivery": "x" * 500}).id
    assert long is not None
    assert len(long) == 128


OCTOCAT_ID = 583231


@pytest.mark.parametrize(
    ("own", "ignored"),
    [
        ({}, False),
        ({"account": "Octocat"}, True),
        ({"account": "coding-agent-bot"}, False),
        ({"account": "its-old-name[bot]", "account_id": OCTOCAT_ID}, True),
        ({"account": "Octocat", "account_id": OCTOCAT_ID + 1}, False),
    ],
)
def test_a_label_change_of_our_own_account_means_nothing(own: dict[str, Any], ignored: bool) -> None:
    known = settings().model_dump(by_alias=True) | {"github": own}
    configured = Settings.model_validate(known)
    for payload in (github_issue(), github_issue("unlabeled"), github_issue("unlabeled", None)):
        payload["sender"]["id"] = OCTOCAT_ID
        assert isinstance(meaning(payload, configured=configured), Ignored) is ignored
    closed = meaning(github_issue("closed", None), configured=configured)
    assert isinstance(closed, Withdrawn), "a merge of ours can close an item"


def test_with_rabbitmq_commands_apply_the_label_from_our_own_account() -> None:
    known = settings(commands={"enabled": True}).model_dump(by_alias=True)
    known |= {"github": {"account": "octocat"}, "use_rabbitmq": True}
    assert isinstance(meaning(github_issue(), configured=Settings.model_validate(known)), Accepted)

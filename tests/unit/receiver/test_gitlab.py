"""S3, S4, B2, B3: what GitLab's events mean."""

from datetime import UTC, datetime
from typing import Any

import pytest
from coding_agent_core.settings.model import Settings
from coding_agent_core.task.model import Origin
from coding_agent_core.task.runners import RunnerName
from coding_agent_forges.gitlab.webhook import delivery, interpret
from coding_agent_forges.webhooks.events import Accepted, Delivery, Ignored, Withdrawn
from coding_agent_forges.webhooks.payload import FieldError

from tests.fixtures.deliveries import NOW, gitlab_issue, gitlab_labels, gitlab_merge_request, settings

BOT, PROCESSING, DONE = "coding agent", "coding agent processing", "coding agent done"
CODEX = f"{BOT}: codex"


def meaning(payload: Any, event: Any = "Issue Hook", configured: Any = None) -> Any:
    return interpret(Delivery(event, "k-1"), payload, configured or settings(), NOW)


def change(previous: Any, current: Any) -> Any:
    return {"labels": {"previous": gitlab_labels(*previous), "current": gitlab_labels(*current)}}


def test_a_label_added_to_an_issue_is_a_task() -> None:
    result = meaning(gitlab_issue(labels=("bug", BOT)))
    assert isinstance(result, Accepted)
    request = result.request
    assert request.item.key == {"type": "gitlab_issue", "project_id": 14, "issue_iid": 23}
    assert (request.item.host, request.item.repository) == ("gitlab.com", "gitlabhq/gitlab-test")
    assert (request.user, request.title) == ("root", "New API: create/update/delete file")
    assert request.url == "https://gitlab.com/gitlabhq/gitlab-test/-/issues/23"
    assert request.trigger.origin is Origin.WEBHOOK
    assert request.trigger.delivery_id == "k-1"
    assert request.trigger.labeled_at == datetime(2026, 11, 25, 11, 59, tzinfo=UTC)


@pytest.mark.parametrize(
    ("before", "now", "runner"),
    [
        ([], [BOT], None),
        (["bug"], [CODEX, "bug"], RunnerName.CODEX),
        ([], [BOT, CODEX], RunnerName.CODEX),
        ([], [CODEX, f"{BOT}: claude-code"], RunnerName.CLAUDE_CODE),
    ],
)
def test_a_label_that_names_a_coding_agent_asks_for_its_work(before: Any, now: Any, runner: Any) -> None:
    for payload, event in (
        (gitlab_issue("update", changes=change(before, now)), "Issue Hook"),
        (gitlab_merge_request("update", changes=change(before, now)), "Merge Request Hook"),
    ):
        result = meaning(payload, event)
        assert isinstance(result, Accepted)
        assert result.request.runner is runner


@pytest.mark.parametrize(
    ("payload", "event"),
    [
        (gitlab_issue("update", changes=change(["bug"], ["bug", BOT])), "Issue Hook"),
        # The label was added, whatever `labels[]` says: it is written later than the change.
        (gitlab_issue("update", labels=(), changes=change([], [BOT])), "Issue Hook"),
        (gitlab_issue("update", changes="absent"), "Issue Hook"),
        (gitlab_issue("open", changes={"labels": {"previous": [], "current": []}}), "Issue Hook"),
        (gitlab_issue("reopen", changes={"state_id": {"previous": 2, "current": 1}}), "Issue Hook"),
        (gitlab_issue(confidential=True), "Confidential Issue Hook"),
        (gitlab_issue("update", changes=change([PROCESSING], [BOT])), "Issue Hook"),
        (gitlab_merge_request("open", changes={}), "Merge Request Hook"),
        (gitlab_merge_request(), "System Hook"),
        (gitlab_issue(state=None), "Issue Hook"),
    ],
)
def test_the_label_counts_when_it_was_added(payload: Any, event: str) -> None:
    assert isinstance(meaning(payload, event), Accepted)


@pytest.mark.parametrize(
    ("payload", "event", "reason"),
    [
        # Every edit of a labeled item is an update: no task for it.
        (gitlab_issue("update", changes={}), "Issue Hook", "before this change"),
        (gitlab_issue(changes=change([BOT], [BOT, "bug"])), "Issue Hook", "before this change"),
        (gitlab_issue(labels=("bug",), changes=change([], ["bug"])), "Issue Hook", "was not added"),
        (gitlab_issue("open", labels=("bug",)), "Issue Hook", "was not added"),
        (gitlab_merge_request("approved"), "Merge Request Hook", "not an action that adds a label: approved"),
        (gitlab_issue(state="closed"), "Issue Hook", "closed"),
        (gitlab_issue(changes=change([BOT], [PROCESSING])), "Issue Hook", "was not added"),
        (gitlab_issue(changes=change([BOT, PROCESSING], [PROCESSING])), "Issue Hook", "was not added"),
        (gitlab_issue(changes=change([], [f"{BOT}: nobody"])), "Issue Hook", "was not added"),
        # For GitLab, this is another label.
        (gitlab_issue(changes=change([], ["Coding Agent"])), "Issue Hook", "was not added"),
        (gitlab_issue(changes=change([BOT, CODEX], [CODEX])), "Issue Hook", "before this change"),
        ({"object_kind": "note"}, "Note Hook", "unsupported event type: Note Hook"),
        (gitlab_issue() | {"object_kind": "work_item"}, "Issue Hook", "unsupported object kind: work_item"),
        ({"object_kind": "push", "project": None}, "System Hook", "unsupported object kind: push"),
        (gitlab_merge_request(), "Issue Hook", "unsupported object kind for Issue Hook: merge_request"),
        (gitlab_issue(url="https://gitlab.example.com/a/b/-/issues/23"), "Issue Hook", "gitlab.example.com"),
    ],
)
def test_an_event_that_does_not_concern_us_is_ignored_with_a_reason(
    payload: Any, event: str, reason: str
) -> None:
    result = meaning(payload, event)
    assert isinstance(result, Ignored)
    assert reason in result.reason


@pytest.mark.parametrize(
    ("payload", "event", "reason"),
    [
        (gitlab_issue("close", changes={}), "Issue Hook", "the issue was closed"),
        (gitlab_merge_request("merge", changes={}), "Merge Request Hook", "the merge request was merged"),
        (gitlab_issue(labels=(), changes=change([BOT], [])), "Issue Hook", "lost the label 'coding agent'"),
        (gitlab_issue(labels=(), changes=change([PROCESSING], ["bug"])), "Issue Hook", "lost the label"),
        (gitlab_issue(changes=change([BOT, DONE], [DONE])), "Issue Hook", "lost the label"),
        (
            gitlab_issue(labels=(), changes=change([CODEX], [])),
            "Issue Hook",
            "the label 'coding agent: codex'",
        ),
    ],
)
def test_a_person_who_takes_the_label_off_or_closes_the_item_withdraws_the_task(
    payload: Any, event: str, reason: str
) -> None:
    result = meaning(payload, event)
    assert isinstance(result, Withdrawn)
    assert reason in result.withdrawal.reason
    told = "The label was removed." if "label" in reason else f"T{result.withdrawal.reason[1:]}."
    assert result.withdrawal.message == told, "for people on the item"
    assert result.withdrawal.item.number == 23
    assert result.withdrawal.user == payload["user"]["username"]
    assert result.withdrawal.at == datetime(2026, 11, 25, 11, 59, tzinfo=UTC)


def test_events_come_from_the_configuration_for_system_hooks_too() -> None:
    configured = settings(gitlab={"events": ["Issue Hook"]})
    assert isinstance(meaning(gitlab_issue(), "Confidential Issue Hook", configured), Accepted)
    for event in ("Merge Request Hook", "System Hook"):
        result = meaning(gitlab_merge_request(), event, configured)
        assert isinstance(result, Ignored)
        assert "webhook.gitlab.events" in result.reason


def test_a_self_managed_gitlab_is_known_by_its_host() -> None:
    configured = Settings.model_validate({"gitlab": {"api_url": "https://gitlab.example.com:8443"}})
    result = meaning(
        gitlab_issue(url="https://gitlab.example.com:8443/a/b/-/issues/23"), configured=configured
    )
    assert isinstance(result, Accepted)
    assert result.request.item.host == "gitlab.example.com:8443"


def changed(path: Any, value: Any) -> Any:
    payload = gitlab_issue()
    target = payload
    *parents, last = path.split(".")
    for name in parents:
        target = target[name]
    if value == "absent":
        del target[last]
    else:
        target[last] = value
    return payload


def test_an_event_that_concerns_us_must_have_its_fields() -> None:
    for path in ("object_attributes.iid", "object_attributes.url", "project.id", "user"):
        for value in ("absent", None, "", True):
            with pytest.raises(FieldError) as caught:
                meaning(changed(path, value))
            assert caught.value.field == path


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        ("changes", "text", "changes"),
        ("changes.labels", [], "changes.labels"),
        ("changes.labels.current", [{"title": 7}], "changes.labels.current[0].title"),
        ("labels", "text", "labels"),
        ("object_attributes.action", 7, "object_attributes.action"),
        ("project.path_with_namespace", "alone", "project.path_with_namespace"),
    ],
)
def test_a_field_of_the_wrong_type_is_named(path: str, value: Any, field: Any) -> None:
    with pytest.raises(FieldError) as caught:
        meaning(changed(path, value))
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("headers", "identifier"),
    [
        ({"idempotency-key": "k", "x-gitlab-webhook-uuid": "w", "x-gitlab-event-uuid": "e"}, "k"),
        ({"x-gitlab-webhook-uuid": "w", "x-gitlab-event-uuid": "e"}, "w"),
        # Shared by all events of one request to GitLab: two label applications may have the same.
        ({"x-gitlab-event-uuid": "e"}, None),
    ],
)
def test_the_delivery_id_is_the_one_that_stays_when_gitlab_tries_again(
    headers: dict[str, str], identifier: Any
) -> None:
    assert delivery(headers).id == identifier


@pytest.mark.parametrize(("account", "ignored"), [("", False), ("Root", True), ("coding-agent-bot", False)])
def test_a_label_change_of_our_own_account_means_nothing(account: str, ignored: bool) -> None:
    known = settings().model_dump(by_alias=True) | {"gitlab": {"account": account}}
    configured = Settings.model_validate(known)
    for payload in (gitlab_issue(), gitlab_issue(labels=(), changes=change([BOT], []))):
        assert isinstance(meaning(payload, configured=configured), Ignored) is ignored
    closed = meaning(gitlab_issue("close", changes={}), configured=configured)
    assert isinstance(closed, Withdrawn), "a merge of ours can close an item"

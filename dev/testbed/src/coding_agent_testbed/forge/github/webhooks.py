"""GitHub's webhooks: what an event says, and the signed request. Pure.

https://docs.github.com/webhooks/webhook-events-and-payloads
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterator
from dataclasses import replace

from coding_agent_testbed.forge.deliveries import Message
from coding_agent_testbed.forge.github.items import ItemRenderer
from coding_agent_testbed.forge.github.render import Json
from coding_agent_testbed.forge.github.render_reviews import ReviewRenderer
from coding_agent_testbed.forge.model import CheckHappening, Happening, Hook, Kind, Label, User
from coding_agent_testbed.forge.timestamps import github_time

_ITEM_ACTIONS = ("opened", "edited", "labeled", "unlabeled", "closed", "reopened")
EVENTS: dict[str, tuple[str | None, ...]] = {
    "issues": _ITEM_ACTIONS,
    "pull_request": (*_ITEM_ACTIONS, "synchronize", "review_requested"),
    "issue_comment": ("created",),
    "pull_request_review": ("submitted",),
    "pull_request_review_comment": ("created",),
    "check_run": ("created", "completed"),
    "check_suite": ("completed",),
    "status": (None,),
    "ping": (None,),
}
"""Every event that the sandbox sends, with its actions. A test checks each by GitHub's description."""


def seal(hook: Hook, message: Message, guid: str) -> tuple[dict[str, str], bytes]:
    """Headers and body of a delivery, signed with the hook's secret if it has one."""
    assert message.action in EVENTS[message.event], f"list {message.event} {message.action} in EVENTS"
    body = json.dumps(message.payload, separators=(",", ":"), ensure_ascii=False).encode()
    headers = {
        "Accept": "*/*",
        "Content-Type": "application/json",
        "User-Agent": f"GitHub-Hookshot/{hook.uuid[:7]}",
        "X-GitHub-Delivery": guid,
        "X-GitHub-Event": message.event,
        "X-GitHub-Hook-ID": str(hook.id),
        "X-GitHub-Hook-Installation-Target-ID": str(message.repository_id or 0),
        "X-GitHub-Hook-Installation-Target-Type": "repository",
    }
    if hook.secret:
        key = hook.secret.encode()
        headers["X-Hub-Signature"] = "sha1=" + hmac.new(key, body, hashlib.sha1).hexdigest()
        headers["X-Hub-Signature-256"] = "sha256=" + hmac.new(key, body, hashlib.sha256).hexdigest()
    return headers, body


def messages(
    happening: Happening, renderer: ReviewRenderer, users: list[User], *, unlabeled_lists_label: bool = False
) -> Iterator[Message]:
    """The events of a happening: GitHub sends one for each label and each kind of change.

    Args:
        unlabeled_lists_label: the item of an `unlabeled` event still lists the label.
    """
    subject = _subject(happening, renderer, users)
    event = "issues" if happening.item.kind is Kind.ISSUE else "pull_request"
    frame = {
        "repository": renderer.repository(happening.repository, users) | {"custom_properties": {}},
        "sender": renderer.user(happening.actor),
    }

    def message(action: str, extra: Json, name: str = event) -> Message:
        return Message(name, action, {"action": action, **extra, **frame}, happening.repository.id)

    if happening.action == "commented":
        assert happening.comment is not None
        issue = renderer.issue(happening.repository, happening.item)
        comment = renderer.comment(happening.repository, happening.item, happening.comment)
        yield message("created", {"issue": issue, "comment": comment}, "issue_comment")
        return
    if happening.action in ("reviewed", "review_commented"):
        yield _about_review(happening, renderer, users, frame)
        return
    if happening.action == "review_requested":
        assert happening.reviewer is not None
        asked = {"requested_reviewer": renderer.user(happening.reviewer)}
        yield message("review_requested", {**subject, **asked})
    if happening.action == "opened":
        yield message("opened", subject)
    edited = _edited(happening)
    if edited:
        yield message("edited", {"changes": edited, **subject})
    for label in happening.added:
        yield message("labeled", {**subject, "label": _label(happening, renderer, label)})
    if unlabeled_lists_label and happening.removed:
        item = replace(happening.item, labels=[*happening.item.labels, *happening.removed])
        subject = _subject(replace(happening, item=item), renderer, users)
    for label in happening.removed:
        named = {} if happening.label_deleted else {"label": _label(happening, renderer, label)}
        yield message("unlabeled", {**subject, **named})
    if happening.action in ("closed", "merged"):
        yield message("closed", subject)
    if happening.action == "reopened":
        yield message("reopened", subject)
    if happening.action == "synchronized":
        moved = {"before": happening.previous_sha, "after": happening.item.tips.head_sha}
        yield message("synchronize", {**subject, **moved})


def _about_review(happening: Happening, renderer: ReviewRenderer, users: list[User], frame: Json) -> Message:
    repository, item = happening.repository, happening.item
    pull = renderer.pull(repository, item, users)
    _add_merge_settings(pull)
    subject: Json
    if happening.review is not None:
        review = renderer.review(repository, item, happening.review)
        subject = {"review": review | {"state": review["state"].lower()}}
        event, action = "pull_request_review", "submitted"
    else:
        assert happening.thread is not None
        assert happening.comment is not None
        comment = renderer.review_comment(repository, item, happening.thread, happening.comment)
        subject = {"comment": comment}
        event, action = "pull_request_review_comment", "created"
    return Message(event, action, {"action": action, **subject, "pull_request": pull, **frame}, repository.id)


def check_messages(
    happening: CheckHappening, renderer: ReviewRenderer, users: list[User]
) -> Iterator[Message]:
    """The events of a check that began or ended: hooks of repositories get no others."""
    repository, check = happening.repository, happening.check
    frame = {
        "repository": renderer.repository(repository, users) | {"custom_properties": {}},
        "sender": renderer.user(happening.actor),
    }
    if check.log is None:
        yield Message("status", None, renderer.status_event(repository, check) | frame, repository.id)
        return
    run = renderer.check_run(repository, check, users)
    suite = renderer.check_suite(happening, users)
    run |= {"check_suite": suite, "pull_requests": suite["pull_requests"]}
    for action, due in (("created", happening.began), ("completed", bool(check.result))):
        if due:
            yield Message("check_run", action, {"action": action, "check_run": run, **frame}, repository.id)
    if happening.all_ended:
        suite = suite | {
            "latest_check_runs_count": len(happening.checks),
            "check_runs_url": f"{suite['url']}/check-runs",
            "head_commit": renderer.simple_commit(check),
        }
        shown = {"action": "completed", "check_suite": suite, **frame}
        yield Message("check_suite", "completed", shown, repository.id)


def ping(hook: Hook, renderer: ItemRenderer, users: list[User]) -> Message:
    """What GitHub sends first to a new webhook."""
    payload: Json = {
        "zen": "Keep it logically awesome.",
        "hook_id": hook.id,
        "hook": hook_json(hook, renderer),
    }
    if hook.repository is not None:
        payload["repository"] = renderer.repository(hook.repository, users) | {"custom_properties": {}}
    return Message("ping", None, payload, hook.repository.id if hook.repository else None)


def hook_json(hook: Hook, renderer: ItemRenderer) -> Json:
    """A webhook as the API shows it: never its secret."""
    assert hook.repository is not None
    url = f"{renderer.repository_url(hook.repository)}/hooks/{hook.id}"
    config = {"content_type": "json", "insecure_ssl": "0", "url": hook.url}
    if hook.secret:
        config["secret"] = "********"
    return {
        "type": "Repository",
        "id": hook.id,
        "name": "web",
        "active": hook.active,
        "events": sorted(hook.events),
        "config": config,
        "updated_at": github_time(hook.created_at),
        "created_at": github_time(hook.created_at),
        "url": url,
        "test_url": f"{url}/test",
        "ping_url": f"{url}/pings",
        "deliveries_url": f"{url}/deliveries",
        "last_response": {"code": None, "status": "unused", "message": None},
    }


def _subject(happening: Happening, renderer: ItemRenderer, users: list[User]) -> Json:
    repository, item = happening.repository, happening.item
    if item.kind is Kind.ISSUE:
        return {"issue": renderer.issue(repository, item)}
    pull = renderer.full_pull(repository, item, users)
    _add_merge_settings(pull)
    return {"number": item.number, "pull_request": pull}


def _add_merge_settings(pull: Json) -> None:
    for end in ("head", "base"):
        if pull[end]["repo"] is not None:
            pull[end]["repo"] |= _MERGE_SETTINGS


def _label(happening: Happening, renderer: ItemRenderer, label: Label) -> Json:
    return renderer.label(happening.repository, label)


def _edited(happening: Happening) -> Json:
    before, item = happening.before, happening.item
    changes: Json = {}
    if before is not None and before.title != item.title:
        changes["title"] = {"from": before.title}
    if before is not None and before.body != item.body:
        changes["body"] = {"from": before.body}
    return changes


_MERGE_SETTINGS = {
    "custom_properties": {},
    "allow_auto_merge": False,
    "allow_merge_commit": True,
    "allow_rebase_merge": True,
    "allow_squash_merge": True,
    "allow_update_branch": False,
    "delete_branch_on_merge": False,
    "merge_commit_message": "PR_TITLE",
    "merge_commit_title": "MERGE_MESSAGE",
    "squash_merge_commit_message": "COMMIT_MESSAGES",
    "squash_merge_commit_title": "COMMIT_OR_PR_TITLE",
    "use_squash_pr_title_as_default": False,
}

"""Interprets Gitea's webhooks, from their headers and payload and the settings. Pure.

Shapes: `modules/structs/hook.go` in Gitea's source; what is sent when: `services/webhook/notifier.go`.

An event of labels has neither the label nor what happened to it, only the labels of the item:

- Adding and removing one label shows the labels afterwards.
- Replacing all labels shows none, as does removing the last one.
- Clearing all labels shows those before.

So an event of labels alone decides nothing. If it shows the label, it is a request, and otherwise a
withdrawal. In both cases a program with a token reads the item to confirm it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.platforms.text import safe
from coding_agent_core.rounds.mentions import mentions
from coding_agent_core.settings.model import Settings
from coding_agent_core.task.model import Head, Item, Origin, Trust, Withdrawal, trust_of

from coding_agent_forges.webhooks import events
from coding_agent_forges.webhooks.events import Accepted, Delivery, Ignored, Meaning, Rescan, RescanReason
from coding_agent_forges.webhooks.issue_payload import COMMENT_EVENT, IssuePayload
from coding_agent_forges.webhooks.payload import FieldError, Fields
from coding_agent_forges.webhooks.proof import BodySignature, Verification

EVENT_HEADER = "X-Gitea-Event"
PROOF = "signature"
_ITEM_FIELDS = {"issues": "issue", "pull_request": "pull_request"}
_ENDED = {"closed": "was closed", "deleted": "was deleted"}
_REVIEW_EVENTS = ("pull_request_approved", "pull_request_rejected", "pull_request_comment")
_CHANGE_ACTIONS = ("synchronized", "reopened", "edited", "label_updated", "label_cleared")
_PAYLOAD = IssuePayload(Platform.GITEA, re.compile(r"[A-Za-z0-9._-]{1,255}", re.ASCII))


def verification(headers: Mapping[str, str], secrets: Sequence[str]) -> Verification | None:
    return BodySignature.of(headers.get("x-hub-signature-256"), secrets)


def delivery(headers: Mapping[str, str]) -> Delivery:
    """Return the event's name and `X-Gitea-Delivery`, which is for logs: a redelivery has a new one."""
    identifier = headers.get("x-gitea-delivery", "")
    return Delivery(event=headers.get("x-gitea-event", ""), id=safe(identifier, 128) or None)


def action_of(payload: Mapping[str, Any]) -> str:
    action = payload.get("action")
    return action if isinstance(action, str) else ""


def interpret(
    delivered: Delivery, payload: Mapping[str, Any], settings: Settings, received_at: datetime
) -> Meaning:
    """Return the meaning of an authentic event.

    Raises:
        FieldError: the event could start or stop a task, but a field is missing or has the wrong type.
    """
    meaning = _label_event(delivered, payload, settings, received_at)
    if isinstance(meaning, Ignored) and settings.rounds.enabled and not meaning.unexpected:
        try:
            return _rescan(delivered, Fields(payload), settings) or meaning
        except FieldError as error:
            return Ignored(f"{meaning.reason}; it asks for no rescan either: {error}")
    return meaning


def _rescan(delivered: Delivery, fields: Fields, settings: Settings) -> Rescan | Ignored | None:
    """Return the scan of our changes that an event causes; `None` if the event concerns no change.

    The event of a commit status names no branch, so the next regular scan examines the status.
    """
    if delivered.event not in _RESCANS:
        return None
    found = _RESCANS[delivered.event](fields, settings)
    if found is None or isinstance(found, Ignored):
        return found
    project = _PAYLOAD.item_in(fields, settings, ItemKind.CHANGE, 1)
    return project if isinstance(project, Ignored) else events.rescan(project, found, settings)


def _rescan_for_change(fields: Fields, settings: Settings) -> RescanReason | Ignored | None:
    """Return the scan after an event of a pull request; `None` if our own account caused the event."""
    is_review = fields.optional_text("action") == "reviewed"
    if not is_review and fields.optional_text("action") not in _CHANGE_ACTIONS:
        return None
    if _is_by_us(fields, settings):
        return Ignored(events.OWN_ACT)
    change = fields.object("pull_request")
    head = _head(change)
    if not head.own:
        return Ignored("the pull request is from a fork")
    if is_review:
        return RescanReason(
            "the pull request was reviewed", change.number("number"), head.name, _sender(fields)
        )
    return RescanReason("the pull request changed", change.number("number"), head.name)


def _rescan_for_comment(fields: Fields, settings: Settings) -> RescanReason | Ignored | None:
    """Return the scan after a person's comment, which may be an answer in a thread.

    Older events do not name the branch; then the comment has to mention us.
    """
    if fields.optional_text("action") != "created" or not fields.flag("is_pull"):
        return None
    if _is_by_us(fields, settings):
        return Ignored(events.OWN_ACT)
    number = fields.object("issue").number("number")
    if fields.has("pull_request"):
        branch = _head(fields.object("pull_request")).name
        return RescanReason("somebody wrote on the pull request", number, branch, _sender(fields))
    body, account = fields.object("comment").optional_text("body"), settings.forge(Platform.GITEA).account
    if not (mentions(body, account) if account else "@" in body):
        return None
    return RescanReason("a comment mentions the agent", number, author=_sender(fields))


def _rescan_for_run(fields: Fields, _: Settings) -> RescanReason | None:
    """Return the scan after a workflow of Gitea Actions has ended, whoever started it."""
    if fields.optional_text("action") != "completed":
        return None
    branch = fields.object("workflow_run").optional_text("head_branch")
    return RescanReason("a workflow has ended", branch=branch.removeprefix("refs/heads/"))


_RESCANS: Mapping[str, Callable[[Fields, Settings], RescanReason | Ignored | None]] = {
    "pull_request": _rescan_for_change,
    **dict.fromkeys(_REVIEW_EVENTS, _rescan_for_change),
    COMMENT_EVENT: _rescan_for_comment,
    "workflow_run": _rescan_for_run,
}


def _sender(fields: Fields) -> str:
    """Return the login of the event's sender; empty if the event does not name one."""
    return fields.object("sender").optional_text("login") if fields.has("sender") else ""


def _is_by_us(fields: Fields, settings: Settings) -> bool:
    return events.is_ours(_sender(fields), Platform.GITEA, settings)


def _label_event(
    delivered: Delivery, payload: Mapping[str, Any], settings: Settings, received_at: datetime
) -> Meaning:
    """Return the meaning of an event for tasks: a label, a withdrawal or a command."""
    event = delivered.event
    if event == COMMENT_EVENT and settings.webhook.commands.enabled:
        return _PAYLOAD.comment(delivered, Fields(payload), settings, received_at)
    if event not in settings.webhook.of(Platform.GITEA).events or event not in _ITEM_FIELDS:
        return Ignored(f"unsupported event type: {safe(event, 60)}")
    fields = Fields(payload)
    action = fields.text("action")
    if action not in (*_ENDED, "label_updated", "label_cleared"):
        return Ignored(f"not an action of labels: {safe(action, 60)}")
    name = _ITEM_FIELDS[event]
    subject = fields.object(name)
    item = _PAYLOAD.item(fields, name, settings)
    if isinstance(item, Ignored):
        return item
    if action in _ENDED:
        return events.withdrawal_of(item, subject, _ENDED[action], delivered, ended=True)
    if events.done_by_us(_sender(fields), Platform.GITEA, settings):
        return Ignored(events.OWN_ACT)
    labels = settings.forge(Platform.GITEA)
    shown = frozenset[str]()
    if action == "label_updated":
        shown = labels.all_spelled(label.text("name") for label in subject.objects("labels"))
    if not labels.active & shown:
        reason = "the event shows none of the labels of a task"
        # There is no time: the labels may have been off the item for long.
        return events.Withdrawn(Withdrawal(item=item, reason=reason, delivery_id=delivered.id))
    if not labels.triggers & shown:
        return Ignored("the item does not have the target label")
    if labels.processing_label in shown and not labels.account:
        # We add this label before we remove the other one, and the event may be our own.
        return Ignored("the item's task is running; set gitea.account to tell people's labels from our own")
    if subject.optional_text("state") == "closed":
        return Ignored("the item is closed; reopen it and apply the label again", unexpected=True)
    accepted = events.accept(
        item,
        subject,
        user=fields.object("sender").text("login"),
        url=subject.url("html_url"),
        runner=labels.runner(shown),
        trust=_trust(fields, item, subject, settings),
        delivered=delivered,
        received_at=received_at,
    )
    return _as_shown(accepted)


def _as_shown(accepted: Accepted) -> Accepted:
    """Return the request for an item that shows the label. It is not known when the label was applied.

    The id is left out, because a redelivery has another one.
    """
    update = {"origin": Origin.LABELS, "delivery_id": None}
    trigger = accepted.request.trigger.model_copy(update=update)
    return Accepted(accepted.request.model_copy(update={"trigger": trigger}))


def _trust(fields: Fields, item: Item, subject: Fields, settings: Settings) -> Trust:
    return trust_of(
        item,
        None if item.kind is ItemKind.ISSUE else _head(subject),
        closed=fields.object("repository").flag("private"),
        member=False,
        ours=False,  # nobody is known to be a member, and so neither are we
        prefix=settings.consumer.branch_prefix,
    )


def _head(change: Fields) -> Head:
    """Return the branch of a pull request; the head's repository is null if the fork was deleted."""
    if not change.has("head") or not change.has("base"):
        return Head(own=False)
    head, base = change.object("head"), change.object("base")
    known = head.has("repo_id") and head.has("repo")
    return Head(known and head.number("repo_id") == base.number("repo_id"), head.optional_text("ref"))

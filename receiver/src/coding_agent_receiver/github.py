"""GitHub's webhooks (requirement S2). Pure: headers, payload and settings in, meaning out.

Shapes: https://docs.github.com/webhooks/webhook-events-and-payloads (`issues`, `pull_request`,
`issue_comment`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from coding_agent_core.commands import IssueCommand
from coding_agent_core.logs import safe
from coding_agent_core.platforms import FACTS, ItemKind, Platform
from coding_agent_core.settings import Settings
from coding_agent_core.tasks import LABEL_REMOVED, Item, Origin, TaskRequest, Trigger, Withdrawal, parse_time

from coding_agent_receiver.events import (
    Accepted,
    Commanded,
    Delivery,
    Ignored,
    Meaning,
    Withdrawn,
    cancels,
    comment_command,
    foreign_host,
)
from coding_agent_receiver.payload import Fields, printable
from coding_agent_receiver.verify import GitHubSignature, Verification

EVENT_HEADER = "X-GitHub-Event"
PROOF = "signature"

_ITEM_FIELDS = {"issues": "issue", "pull_request": "pull_request"}
COMMENT_EVENT = "issue_comment"
"""Comments on issues and pull requests alike; the item is in `issue`."""
_ENDED = {"closed": "was closed", "deleted": "was deleted", "transferred": "was moved to another repository"}
_LOGIN = re.compile(r"[A-Za-z0-9._-]{1,100}(\[bot\])?", re.ASCII)
_NAME = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,100}", re.ASCII)


def verification(headers: Mapping[str, str], secrets: Sequence[str]) -> Verification | None:
    """The check by the HMAC of the body."""
    return GitHubSignature.of(headers.get("x-hub-signature-256"), secrets)


def delivery(headers: Mapping[str, str]) -> Delivery:
    """What the headers tell; `X-GitHub-Delivery` stays the same when a delivery is sent again."""
    identifier = headers.get("x-github-delivery", "")
    return Delivery(event=headers.get("x-github-event", ""), id=safe(identifier, 128) or None)


def action_of(payload: Mapping[str, Any]) -> str:
    """The action for logs, empty if there is none."""
    action = payload.get("action")
    return action if isinstance(action, str) else ""


def interpret(
    delivered: Delivery, payload: Mapping[str, Any], settings: Settings, received_at: datetime
) -> Meaning:
    """What an authentic event means.

    Raises:
        FieldError: the event concerns us, but lacks a field or has one of the wrong type.
    """
    event = delivered.event
    if event == "ping":
        return Ignored("pong: the webhook is set up")
    if event == COMMENT_EVENT and settings.webhook.commands.enabled:
        return _comment(delivered, Fields(payload), settings, received_at)
    if event not in settings.webhook.github.events or event not in _ITEM_FIELDS:
        return Ignored(f"unsupported event type: {safe(event, 60)}")
    fields = Fields(payload)
    action = fields.text("action")
    if action in _ENDED:
        return _withdrawn(delivered, fields, settings, _ENDED[action], ended=True)
    if action == "unlabeled":
        return _unlabeled(delivered, fields, settings)
    if action not in settings.webhook.github.actions:
        return Ignored(f"not a labeled action: {safe(action, 60)}")
    bot_label = settings.github.bot_label
    item_fields = _ITEM_FIELDS[event]
    if action == "labeled":
        if fields.object("label").text("name") != bot_label:
            return Ignored("not the target label")
    elif bot_label not in _labels(fields.object(item_fields)):
        return Ignored("the item does not carry the target label")
    return _accepted(delivered, fields, settings, received_at)


def _accepted(delivered: Delivery, fields: Fields, settings: Settings, received_at: datetime) -> Meaning:
    subject = fields.object(_ITEM_FIELDS[delivered.event])
    item = _item(delivered.event, fields, settings)
    if isinstance(item, Ignored):
        return item
    if subject.optional_text("state") == "closed":
        return Ignored("the item is closed; reopen it and apply the label again")
    return Accepted(
        TaskRequest(
            item=item,
            user=printable(fields.object("sender").text("login"))[:255],
            title=printable(subject.optional_text("title"))[:1024],
            url=subject.url("html_url"),
            trigger=Trigger(
                origin=Origin.WEBHOOK,
                delivery_id=delivered.id,
                labeled_at=parse_time(subject.optional_text("updated_at")),
                received_at=received_at,
            ),
        )
    )


def _unlabeled(delivered: Delivery, fields: Fields, settings: Settings) -> Meaning:
    removed = fields.object("label").text("name")
    if removed not in (settings.github.bot_label, settings.github.processing_label):
        return Ignored("not the target label")
    left = _labels(fields.object(_ITEM_FIELDS[delivered.event]))
    if cancels({removed}, left, settings.github) is None:
        return Ignored("the item still carries a label of the flow")
    return _withdrawn(delivered, fields, settings, f"lost the label {removed!r}")


def _withdrawn(
    delivered: Delivery, fields: Fields, settings: Settings, what: str, *, ended: bool = False
) -> Meaning:
    item = _item(delivered.event, fields, settings)
    if isinstance(item, Ignored):
        return item
    noun = "issue" if item.kind is ItemKind.ISSUE else FACTS[item.platform].change_noun
    subject = fields.object(_ITEM_FIELDS[delivered.event])
    return Withdrawn(
        Withdrawal(
            item=item,
            reason=f"the {noun} {what}",
            message=f"The {noun} {what}." if ended else LABEL_REMOVED,
            delivery_id=delivered.id,
            at=parse_time(subject.optional_text("updated_at")),
        )
    )


def _item(event: str, fields: Fields, settings: Settings) -> Item | Ignored:
    name = _ITEM_FIELDS.get(event, "issue")
    subject = fields.object(name)
    field = f"{name}.html_url"
    host = foreign_host(subject.url("html_url"), field, settings.github.host)
    if host is not None:
        return Ignored(f"the event is from {safe(host)}, github.api_url is of {settings.github.host}")
    repository = fields.object("repository")
    owner = repository.object("owner").matching("login", _NAME, "GitHub login")
    repo = repository.matching("name", _NAME, "repository name")
    number = subject.number("number")
    # GitHub sends some `issues` events for pull requests too, with this object inside.
    is_change = event == "pull_request" or subject.has("pull_request")
    return Item(
        platform=Platform.GITHUB,
        host=settings.github.host,
        repository=f"{owner}/{repo}",
        kind=ItemKind.CHANGE if is_change else ItemKind.ISSUE,
        number=number,
    )


def _comment(delivered: Delivery, fields: Fields, settings: Settings, received_at: datetime) -> Meaning:
    if fields.text("action") != "created":
        return Ignored("not a new comment")
    comment = fields.object("comment")
    name = comment_command(comment.optional_text("body"), settings)
    if isinstance(name, Ignored):
        return name
    item = _item(delivered.event, fields, settings)
    if isinstance(item, Ignored):
        return item
    subject = fields.object("issue")
    return Commanded(
        IssueCommand(
            item=item,
            name=name,
            comment=str(comment.number("id")),
            user=comment.object("user").matching("login", _LOGIN, "GitHub login"),
            at=parse_time(comment.optional_text("created_at")),
            delivery_id=delivered.id,
            received_at=received_at,
            title=printable(subject.optional_text("title"))[:1024],
            url=subject.url("html_url"),
        )
    )


def _labels(subject: Fields) -> set[str]:
    return {label.text("name") for label in subject.objects("labels")}

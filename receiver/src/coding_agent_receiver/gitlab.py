"""GitLab's webhooks: project, group and system hooks, and comments ("notes") as commands. Pure.

Shapes: https://docs.gitlab.com/user/project/integrations/webhook_events/
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from coding_agent_core.commands import IssueCommand
from coding_agent_core.logs import safe
from coding_agent_core.platforms import ItemKind, Platform
from coding_agent_core.settings import Settings
from coding_agent_core.tasks import (
    LABEL_REMOVED,
    Item,
    Origin,
    TaskRequest,
    Trigger,
    Withdrawal,
    parse_time,
)

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
from coding_agent_receiver.verify import GitLabToken, Verification

EVENT_HEADER = "X-Gitlab-Event"
PROOF = "token"

NOTE_HOOKS = frozenset({"Note Hook", "Confidential Note Hook", "System Hook"})
"""A note on a confidential issue, or one for members only, has a header of its own."""
_ITEMS = {"Issue": "issue", "MergeRequest": "merge_request"}
"""What can be commanded, and the payload's field with it; commits and snippets cannot."""
_LOGIN = re.compile(r"[A-Za-z0-9_.-]{1,255}", re.ASCII)
_PATH = re.compile(r"[A-Za-z0-9_.-]{1,255}(/[A-Za-z0-9_.-]{1,255}){1,21}", re.ASCII)
_HOOKS = {
    "Issue Hook": "issue",
    "Confidential Issue Hook": "issue",
    "Merge Request Hook": "merge_request",
    "System Hook": None,
}
"""What each `X-Gitlab-Event` may carry; system hooks carry every kind and name it in the payload."""
_EVENT_OF_KIND = {"issue": "Issue Hook", "merge_request": "Merge Request Hook"}
_ENDED = {"close": "was closed", "merge": "was merged"}


def verification(headers: Mapping[str, str], secrets: Sequence[str]) -> Verification | None:
    """The check by the token, which does not depend on the body."""
    return GitLabToken.of(headers.get("x-gitlab-token"), secrets)


def delivery(headers: Mapping[str, str]) -> Delivery:
    """What the headers tell.

    `Idempotency-Key` (GitLab 17.4) stays the same when a delivery is sent again; `X-Gitlab-Webhook-UUID`
    (16.2) is new each time but better than nothing. `X-Gitlab-Event-UUID` is no delivery id: all events that
    one request to GitLab sets off share it.
    """
    identifier = headers.get("idempotency-key") or headers.get("x-gitlab-webhook-uuid") or ""
    return Delivery(event=headers.get("x-gitlab-event", ""), id=safe(identifier, 128) or None)


def action_of(payload: Mapping[str, Any]) -> str:
    """The action for logs, empty if there is none."""
    attributes = payload.get("object_attributes")
    action = attributes.get("action") if isinstance(attributes, Mapping) else None
    return action if isinstance(action, str) else ""


@dataclass(frozen=True)
class _Event:
    """An event of a kind that is configured."""

    kind: str
    delivered: Delivery
    fields: Fields
    settings: Settings

    @property
    def attributes(self) -> Fields:
        return self.fields.object("object_attributes")


@dataclass(frozen=True)
class _LabelChange:
    added: frozenset[str]
    removed: frozenset[str]
    left: frozenset[str]


def interpret(
    delivered: Delivery, payload: Mapping[str, Any], settings: Settings, received_at: datetime
) -> Meaning:
    """What an authentic event means.

    Raises:
        FieldError: the event concerns us, but lacks a field or has one of the wrong type.
    """
    if settings.webhook.commands.enabled and delivered.event in NOTE_HOOKS and is_note(payload):
        return interpret_note(delivered, Fields(payload), settings, received_at)
    if delivered.event not in _HOOKS:
        return Ignored(f"unsupported event type: {safe(delivered.event, 60)}")
    kind = payload.get("object_kind")
    if not isinstance(kind, str) or kind not in _EVENT_OF_KIND:
        return Ignored(f"unsupported object kind: {safe(kind, 60) if isinstance(kind, str) else 'none'}")
    if _HOOKS[delivered.event] not in (None, kind):
        return Ignored(f"unsupported object kind for {delivered.event}: {kind}")
    if _EVENT_OF_KIND[kind] not in settings.webhook.gitlab.events:
        return Ignored(f"unsupported event type: {_EVENT_OF_KIND[kind]} is not in webhook.gitlab.events")
    event = _Event(kind, delivered, Fields(payload), settings)
    # GitLab leaves the action out where a change has none, e.g. in test deliveries.
    action = event.attributes.optional_text("action")
    if action in _ENDED:
        return _withdrawn(event, _ENDED[action], ended=True)
    if action not in ("open", "reopen", "update"):
        return Ignored(f"not an action that adds a label: {safe(action, 60) or 'none'}")
    change = _change(event.fields, action)
    if settings.gitlab.bot_label in change.added:
        return _accepted(event, received_at)
    lost = cancels(change.removed, change.left, settings.gitlab)
    if lost is not None:
        return _withdrawn(event, f"lost the label {lost!r}")
    if settings.gitlab.bot_label in change.left:
        return Ignored("the target label was there before this change")
    return Ignored("the target label was not added")


def _change(fields: Fields, action: str) -> _LabelChange:
    present = _titles(fields, "labels")
    if action in ("open", "reopen") or not fields.has("changes"):
        # For updates this is the specification's rule (4.1.2), where they do not tell what changed.
        return _LabelChange(added=present, removed=frozenset(), left=present)
    changes = fields.object("changes")
    if not changes.has("labels"):
        return _LabelChange(added=frozenset(), removed=frozenset(), left=present)
    labels = changes.object("labels")
    before, now = _titles(labels, "previous"), _titles(labels, "current")
    return _LabelChange(added=now - before, removed=before - now, left=now)


def _titles(fields: Fields, name: str) -> frozenset[str]:
    return frozenset(label.text("title") for label in fields.objects(name))


def _accepted(event: _Event, received_at: datetime) -> Meaning:
    attributes = event.attributes
    item = _item(event)
    if isinstance(item, Ignored):
        return item
    if attributes.optional_text("state") not in ("", "opened"):
        return Ignored("the item is closed; reopen it and apply the label again")
    return Accepted(
        TaskRequest(
            item=item,
            user=printable(event.fields.object("user").text("username"))[:255],
            title=printable(attributes.optional_text("title"))[:1024],
            url=attributes.url("url"),
            trigger=Trigger(
                origin=Origin.WEBHOOK,
                delivery_id=event.delivered.id,
                labeled_at=parse_time(attributes.optional_text("updated_at")),
                received_at=received_at,
            ),
        )
    )


def _withdrawn(event: _Event, what: str, *, ended: bool = False) -> Meaning:
    item = _item(event)
    if isinstance(item, Ignored):
        return item
    noun = event.kind.replace("_", " ")
    return Withdrawn(
        Withdrawal(
            item=item,
            reason=f"the {noun} {what}",
            message=f"The {noun} {what}." if ended else LABEL_REMOVED,
            delivery_id=event.delivered.id,
            at=parse_time(event.attributes.optional_text("updated_at")),
        )
    )


def _item(event: _Event) -> Item | Ignored:
    attributes, project, gitlab = event.attributes, event.fields.object("project"), event.settings.gitlab
    host = foreign_host(attributes.url("url"), "object_attributes.url", gitlab.host)
    if host is not None:
        return Ignored(f"the event is from {safe(host)}, gitlab.api_url is of {gitlab.host}")
    return item_in(project, event.kind, attributes.number("iid"), gitlab.host)


def is_note(payload: Mapping[str, Any]) -> bool:
    """Whether the payload is of a comment; system hooks carry every kind."""
    return payload.get("object_kind") == "note"


def interpret_note(delivered: Delivery, fields: Fields, settings: Settings, received_at: datetime) -> Meaning:
    """What a comment means.

    Raises:
        FieldError: it is a command, but lacks a field or has one of the wrong type.
    """
    note = fields.object("object_attributes")
    kind = _ITEMS.get(note.optional_text("noteable_type"))
    if kind is None:
        return Ignored("a comment on neither an issue nor a merge request")
    if not _is_new(note):
        return Ignored("not a new comment")
    name = comment_command(note.optional_text("note"), settings)
    if isinstance(name, Ignored):
        return name
    host = foreign_host(note.url("url"), "object_attributes.url", settings.gitlab.host)
    if host is not None:
        return Ignored(f"the event is from {safe(host)}, gitlab.api_url is of {settings.gitlab.host}")
    subject = fields.object(kind)
    return Commanded(
        IssueCommand(
            item=item_in(fields.object("project"), kind, subject.number("iid"), settings.gitlab.host),
            name=name,
            comment=str(note.number("id")),
            user=fields.object("user").matching("username", _LOGIN, "user name"),
            at=parse_time(note.optional_text("created_at")),
            delivery_id=delivered.id,
            received_at=received_at,
            title=printable(subject.optional_text("title"))[:1024],
            url=note.url("url").split("#", 1)[0],
        )
    )


def item_in(project: Fields, kind: str, iid: int, host: str) -> Item:
    """The item of a project; `kind` is `issue` or `merge_request`."""
    return Item(
        platform=Platform.GITLAB,
        host=host,
        repository=project.matching("path_with_namespace", _PATH, "path of a project"),
        kind=ItemKind.ISSUE if kind == "issue" else ItemKind.CHANGE,
        number=iid,
        project_id=project.number("id"),
    )


def _is_new(note: Fields) -> bool:
    """Whether the comment was written just now, not edited, and by a person.

    GitLab tells of edits since 16.10, and only since 16.11 which is which (`action`).
    """
    if note.flag("system"):
        return False
    if note.has("action"):
        return note.text("action") == "create"
    return note.optional_text("created_at") == note.optional_text("updated_at")

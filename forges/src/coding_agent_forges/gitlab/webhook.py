"""GitLab's webhooks: project, group and system hooks, and comments ("notes") as commands. Pure.

Shapes: https://docs.gitlab.com/user/project/integrations/webhook_events/
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.platforms.text import safe
from coding_agent_core.settings.model import Settings
from coding_agent_core.task.model import Head, Item, Trust, trust_of

from coding_agent_forges.webhooks import events
from coding_agent_forges.webhooks.events import Delivery, Ignored, Meaning, Rescan, RescanReason
from coding_agent_forges.webhooks.payload import FieldError, Fields
from coding_agent_forges.webhooks.proof import Verification, any_equal, encoded

EVENT_HEADER = "X-Gitlab-Event"
PROOF = "token"
_HOOKS = {
    "Issue Hook": "issue",
    "Confidential Issue Hook": "issue",
    "Merge Request Hook": "merge_request",
    "System Hook": None,
}
"""The kind of object in each `X-Gitlab-Event`. System hooks can have any kind, which the payload names."""
_EVENT_OF_KIND = {"issue": "Issue Hook", "merge_request": "Merge Request Hook"}
_ENDED = {"close": "was closed", "merge": "was merged"}
_CHANGE_ACTIONS = ("update", "reopen", "approved", "unapproved", "approval", "unapproval")
_PIPELINE_ENDS = ("success", "failed", "canceled", "skipped")
_PRIVATE, _INTERNAL = 0, 10
"""Values of a project's `visibility_level`; 20 is public."""
_NOTE_HOOKS = frozenset({"Note Hook", "Confidential Note Hook", "System Hook"})
"""Hooks of comments. Comments on confidential issues and comments for members only have their own header."""
_NOTEABLE = {"Issue": "issue", "MergeRequest": "merge_request"}
"""The payload's field with the item of a comment, by GitLab's type. Commits and snippets are not items."""
_LOGIN = re.compile(r"[A-Za-z0-9_.-]{1,255}", re.ASCII)
_PATH = re.compile(r"[A-Za-z0-9_.-]{1,255}(/[A-Za-z0-9_.-]{1,255}){1,21}", re.ASCII)


class GitLabToken:
    """The check of `X-Gitlab-Token`, which does not depend on the body."""

    @staticmethod
    def of(header: str | None, tokens: Sequence[str]) -> GitLabToken | None:
        """Return the check; `None` if the header is not one of the tokens.

        Args:
            header: the header's value as ASGI servers provide it, decoded as Latin-1.
        """
        try:
            given = (header or "").encode("latin-1")
        except UnicodeEncodeError:
            return None
        matches = any_equal(given, (encoded(token) for token in tokens if token))
        return GitLabToken() if given and matches else None

    def update(self, chunk: bytes) -> None:
        pass

    def valid(self) -> bool:
        return True


def verification(headers: Mapping[str, str], secrets: Sequence[str]) -> Verification | None:
    return GitLabToken.of(headers.get("x-gitlab-token"), secrets)


def delivery(headers: Mapping[str, str]) -> Delivery:
    """Return the event's name and the delivery's id.

    `Idempotency-Key` (GitLab 17.4) stays the same when a delivery is sent again; `X-Gitlab-Webhook-UUID`
    (16.2) is new each time but better than nothing. `X-Gitlab-Event-UUID` is not a delivery id, because all
    events that one request to GitLab causes share it.
    """
    identifier = headers.get("idempotency-key") or headers.get("x-gitlab-webhook-uuid") or ""
    return Delivery(event=headers.get("x-gitlab-event", ""), id=safe(identifier, 128) or None)


def action_of(payload: Mapping[str, Any]) -> str:
    attributes = payload.get("object_attributes")
    action = attributes.get("action") if isinstance(attributes, Mapping) else None
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
            return _rescan(Fields(payload), settings) or meaning
        except FieldError as error:
            return Ignored(f"{meaning.reason}; it asks for no rescan either: {error}")
    return meaning


def _rescan(fields: Fields, settings: Settings) -> Rescan | Ignored | None:
    """Return the scan of our changes that an event causes; `None` if the event concerns no change.

    Reviews are comments here, so each comment of a person counts. Pipelines are judged by the branch and
    never by the sender. Our own push can send an event that approvals were reset, with us as the user.
    """
    kind = fields.optional_text("object_kind")
    if kind not in _RESCANS:
        return None
    attributes = fields.object("object_attributes")
    why, wanted = _RESCANS[kind]
    if not wanted(attributes):
        return None
    if kind != "pipeline" and events.is_ours(_user(fields), Platform.GITLAB, settings):
        return Ignored(events.OWN_ACT)
    project = fields.object("project")
    change = attributes if kind == "merge_request" else None
    if change is None and fields.has("merge_request"):
        change = fields.object("merge_request")
    reason = RescanReason(why, branch=attributes.optional_text("ref"))
    if change is not None:
        own = change.has("source_project_id")  # null: the fork was deleted
        if not own or change.number("source_project_id") != project.number("id"):
            return Ignored("the merge request is from a fork")
        author = _user(fields) if kind == "note" else ""
        reason = RescanReason(why, change.number("iid"), change.optional_text("source_branch"), author)
    url = project.url("web_url"), "project.web_url"
    item = _item_in(fields, ItemKind.CHANGE, 1, settings, url=url)
    return item if isinstance(item, Ignored) else events.rescan(item, reason, settings)


def _is_note_on_change(note: Fields) -> bool:
    return note.optional_text("noteable_type") == "MergeRequest" and _is_new(note)


_RESCANS: Mapping[str, tuple[str, Callable[[Fields], bool]]] = {
    "merge_request": (
        "the merge request changed",
        lambda change: change.optional_text("action") in _CHANGE_ACTIONS,
    ),
    "note": ("somebody wrote on the merge request", _is_note_on_change),
    "pipeline": ("a pipeline has ended", lambda found: found.optional_text("status") in _PIPELINE_ENDS),
}


def _label_event(
    delivered: Delivery, payload: Mapping[str, Any], settings: Settings, received_at: datetime
) -> Meaning:
    """Return the meaning of an event for tasks: a label, a withdrawal or a command."""
    kind = payload.get("object_kind")
    if settings.webhook.commands.enabled and delivered.event in _NOTE_HOOKS and kind == "note":
        return _note(delivered, Fields(payload), settings, received_at)
    if delivered.event not in _HOOKS:
        return Ignored(f"unsupported event type: {safe(delivered.event, 60)}")
    if not isinstance(kind, str) or kind not in _EVENT_OF_KIND:
        return Ignored(f"unsupported object kind: {safe(kind, 60) if isinstance(kind, str) else 'none'}")
    if _HOOKS[delivered.event] not in (None, kind):
        return Ignored(f"unsupported object kind for {delivered.event}: {kind}")
    if _EVENT_OF_KIND[kind] not in settings.webhook.of(Platform.GITLAB).events:
        return Ignored(f"unsupported event type: {_EVENT_OF_KIND[kind]} is not in webhook.gitlab.events")
    fields = Fields(payload)
    attributes = fields.object("object_attributes")
    # GitLab leaves out the action if there is none, e.g. in test deliveries.
    action = attributes.optional_text("action")
    if action not in (*_ENDED, "open", "reopen", "update"):
        return Ignored(f"not an action that adds a label: {safe(action, 60) or 'none'}")
    ends = _ENDED.get(action)
    change = _LabelChange() if ends else _change(fields, action, settings)
    lost = events.cancels(change.removed, change.left, settings.forge(Platform.GITLAB))
    added = settings.forge(Platform.GITLAB).triggers & change.added
    if not (ends or added or lost):
        if settings.forge(Platform.GITLAB).triggers & change.left:
            return Ignored("the item had the target label before this change")
        return Ignored("the target label was not added")
    url = attributes.url("url")
    item = _item(fields, kind, attributes, url, settings)
    if isinstance(item, Ignored):
        return item
    if not ends and events.done_by_us(_user(fields), Platform.GITLAB, settings):
        return Ignored(events.OWN_LABEL, unexpected=True) if added else Ignored(events.OWN_REMOVAL)
    if not added:
        what = ends or f"lost the label {lost!r}"
        of_trigger = bool(ends or settings.forge(Platform.GITLAB).triggers & change.removed)
        return events.withdrawal_of(
            item, attributes, what, delivered, ended=bool(ends), of_trigger=of_trigger, user=_user(fields)
        )
    if attributes.optional_text("state") not in ("", "opened"):
        return Ignored("the item is closed; reopen it and apply the label again", unexpected=True)
    return events.accept(
        item,
        attributes,
        user=fields.object("user").text("username"),
        url=url,
        runner=settings.forge(Platform.GITLAB).runner(change.left),
        trust=_trust(fields, item, attributes, settings),
        delivered=delivered,
        received_at=received_at,
    )


def _user(fields: Fields) -> str:
    """Return the login of the person who made the change; empty if the event does not say so."""
    return fields.object("user").optional_text("username") if fields.has("user") else ""


def _trust(fields: Fields, item: Item, attributes: Fields, settings: Settings) -> Trust:
    head = None
    if item.kind is ItemKind.CHANGE:
        known = attributes.has("source_project_id")  # null: the fork was deleted
        own = known and attributes.number("source_project_id") == item.project_id
        head = Head(own, attributes.optional_text("source_branch"))
    return trust_of(
        item,
        head,
        closed=fields.object("project").integer("visibility_level") in (_PRIVATE, _INTERNAL),
        member=False,
        ours=False,  # the author's name is not in the payload, and nobody is a member
        prefix=settings.consumer.branch_prefix,
    )


@dataclass(frozen=True)
class _LabelChange:
    added: frozenset[str] = frozenset()
    removed: frozenset[str] = frozenset()
    left: frozenset[str] = frozenset()


def _change(fields: Fields, action: str, settings: Settings) -> _LabelChange:
    present = _titles(fields, "labels", settings)
    if action in ("open", "reopen") or not fields.has("changes"):
        # An update that does not name its changes counts as one that added all labels.
        return _LabelChange(added=present, left=present)
    changes = fields.object("changes")
    if not changes.has("labels"):
        return _LabelChange(left=present)
    labels = changes.object("labels")
    before, now = _titles(labels, "previous", settings), _titles(labels, "current", settings)
    return _LabelChange(added=now - before, removed=before - now, left=now)


def _titles(fields: Fields, name: str, settings: Settings) -> frozenset[str]:
    titles = [label.text("title") for label in fields.objects(name)]
    return settings.forge(Platform.GITLAB).all_spelled(titles)


def _note(delivered: Delivery, fields: Fields, settings: Settings, received_at: datetime) -> Meaning:
    note = fields.object("object_attributes")
    kind = _NOTEABLE.get(note.optional_text("noteable_type"))
    if kind is None:
        return Ignored("the comment is on neither an issue nor a merge request")
    if not _is_new(note):
        return Ignored("not a new comment")
    name = events.comment_command(note.optional_text("note"), settings)
    if isinstance(name, Ignored):
        return name
    url = note.url("url")
    subject = fields.object(kind)
    item = _item(fields, kind, subject, url, settings)
    if isinstance(item, Ignored):
        return item
    user = fields.object("user").matching("username", _LOGIN, "user name")
    return events.command(
        item,
        name,
        note,
        user=user,
        subject=subject,
        url=url.split("#", 1)[0],
        delivered=delivered,
        received_at=received_at,
    )


def _is_new(note: Fields) -> bool:
    """Whether a person has just written the comment and did not edit an old one.

    GitLab sends edits since 16.10, and marks them (`action`) only since 16.11.
    """
    if note.flag("system"):
        return False
    if note.has("action"):
        return note.text("action") == "create"
    return note.optional_text("created_at") == note.optional_text("updated_at")


def _item(fields: Fields, kind: str, subject: Fields, url: str, settings: Settings) -> Item | Ignored:
    item_kind = ItemKind.ISSUE if kind == "issue" else ItemKind.CHANGE
    return _item_in(fields, item_kind, subject.number("iid"), settings, url=(url, "object_attributes.url"))


def _item_in(
    fields: Fields, kind: ItemKind, number: int, settings: Settings, *, url: tuple[str, str]
) -> Item | Ignored:
    """Return an item of the event's project.

    Args:
        url: the web address that shows the installation, and the name of its field.
    """
    own = settings.forge(Platform.GITLAB).host
    host = events.foreign_host(*url, own)
    if host is not None:
        reason = f"the event is from {safe(host)}, but gitlab.api_url points to {own}"
        return Ignored(reason, unexpected=True)
    project = fields.object("project")
    return Item(
        platform=Platform.GITLAB,
        host=own,
        repository=project.matching("path_with_namespace", _PATH, "project path"),
        kind=kind,
        number=number,
        project_id=project.number("id"),
    )

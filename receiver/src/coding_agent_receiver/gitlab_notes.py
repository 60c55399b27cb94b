"""GitLab's comments ("notes") as commands. Pure.

Shapes: https://docs.gitlab.com/user/project/integrations/webhook_events/ (comment events).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from coding_agent_core.commands import IssueCommand
from coding_agent_core.logs import safe
from coding_agent_core.platforms import ItemKind, Platform
from coding_agent_core.settings import Settings
from coding_agent_core.tasks import Item, parse_time

from coding_agent_receiver.events import Commanded, Delivery, Ignored, Meaning, comment_command, foreign_host
from coding_agent_receiver.payload import Fields, printable

NOTE_HOOKS = frozenset({"Note Hook", "Confidential Note Hook", "System Hook"})
"""A note on a confidential issue, or one for members only, has a header of its own."""
_ITEMS = {"Issue": "issue", "MergeRequest": "merge_request"}
"""What can be commanded, and the payload's field with it; commits and snippets cannot."""
_LOGIN = re.compile(r"[A-Za-z0-9_.-]{1,255}", re.ASCII)
_PATH = re.compile(r"[A-Za-z0-9_.-]{1,255}(/[A-Za-z0-9_.-]{1,255}){1,21}", re.ASCII)


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

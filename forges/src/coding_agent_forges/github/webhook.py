"""Interprets GitHub's webhooks, from their headers and payload and the settings. Pure.

Shapes: https://docs.github.com/webhooks/webhook-events-and-payloads (`issues`, `pull_request`,
`issue_comment`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, cast

from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.platforms.text import safe
from coding_agent_core.rounds.mentions import mentions
from coding_agent_core.settings.model import Settings
from coding_agent_core.task.model import Head, Item, Trust, trust_of
from coding_agent_core.task.round_cause import OWN_STATUS

from coding_agent_forges.github.facts import MEMBERS
from coding_agent_forges.github.settings import GitHub
from coding_agent_forges.webhooks import events
from coding_agent_forges.webhooks.events import Delivery, Ignored, Meaning, Rescan, RescanReason
from coding_agent_forges.webhooks.issue_payload import COMMENT_EVENT, IssuePayload
from coding_agent_forges.webhooks.payload import FieldError, Fields
from coding_agent_forges.webhooks.proof import BodySignature, Verification

EVENT_HEADER = "X-GitHub-Event"
PROOF = "signature"
_ITEM_FIELDS = {"issues": "issue", "pull_request": "pull_request"}
_ENDED = {"closed": "was closed", "deleted": "was deleted", "transferred": "was moved to another repository"}
_REVIEW_ACTIONS = ("submitted", "dismissed")
_CHANGE_ACTIONS = ("synchronize", "reopened", "ready_for_review", "labeled", "unlabeled")
_PAYLOAD = IssuePayload(Platform.GITHUB, re.compile(r"[A-Za-z0-9._-]{1,100}(\[bot\])?", re.ASCII))


def verification(headers: Mapping[str, str], secrets: Sequence[str]) -> Verification | None:
    return BodySignature.of(headers.get("x-hub-signature-256"), secrets)


def delivery(headers: Mapping[str, str]) -> Delivery:
    """Return the event's name and `X-GitHub-Delivery`, which a redelivery keeps."""
    identifier = headers.get("x-github-delivery", "")
    return Delivery(event=headers.get("x-github-event", ""), id=safe(identifier, 128) or None)


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

    A review sends one event for itself and one for each of its comments; only the first counts. Events of
    checks are judged by the branch and never by the sender.
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
    is_review = fields.has("review")
    if fields.optional_text("action") not in (_REVIEW_ACTIONS if is_review else _CHANGE_ACTIONS):
        return None
    if _is_by_us(fields, settings):
        return Ignored(events.OWN_ACT)
    change = fields.object("pull_request")
    head = _head(change, fields.object("repository"))
    if not head.own:
        return Ignored("the pull request is from a fork")
    if is_review:
        return RescanReason(
            "the pull request was reviewed", change.number("number"), head.name, _sender(fields)
        )
    return RescanReason("the pull request changed", change.number("number"), head.name)


def _rescan_for_comment(fields: Fields, settings: Settings) -> RescanReason | Ignored | None:
    """Return the scan after a comment that mentions us, whose event does not name the branch."""
    issue, body = fields.object("issue"), fields.object("comment").optional_text("body")
    if fields.optional_text("action") != "created" or not issue.has("pull_request"):
        return None
    if _is_by_us(fields, settings):
        return Ignored(events.OWN_ACT)
    account = settings.forge(Platform.GITHUB).account
    if not (mentions(body, account) if account else "@" in body):
        return None
    return RescanReason("a comment mentions the agent", issue.number("number"), author=_sender(fields))


def _rescan_for_check(fields: Fields, _: Settings) -> RescanReason | None:
    """Return the scan after a check run, or all checks of an App, have ended."""
    if fields.optional_text("action") != "completed":
        return None
    place = fields.object("check_run") if fields.has("check_run") else fields
    return RescanReason("a check has ended", branch=place.object("check_suite").optional_text("head_branch"))


def _rescan_for_status(fields: Fields, settings: Settings) -> RescanReason | Ignored | None:
    if fields.optional_text("state") == "pending":
        return None
    if fields.optional_text("context") == OWN_STATUS:
        return Ignored(events.OWN_ACT)
    names = [branch.optional_text("name") for branch in fields.objects("branches")]
    ours = (name for name in names if name.startswith(settings.consumer.branch_prefix))
    return RescanReason("a status was set", branch=next(ours, ""))


_RESCANS: Mapping[str, Callable[[Fields, Settings], RescanReason | Ignored | None]] = {
    "pull_request_review": _rescan_for_change,
    "pull_request": _rescan_for_change,
    COMMENT_EVENT: _rescan_for_comment,
    "check_run": _rescan_for_check,
    "check_suite": _rescan_for_check,
    "status": _rescan_for_status,
}


def _sender(fields: Fields) -> str:
    """Return the login of the event's sender; empty if the event does not name one."""
    return fields.object("sender").optional_text("login") if fields.has("sender") else ""


def _is_by_us(fields: Fields, settings: Settings) -> bool:
    return fields.has("sender") and _is_ours(fields.object("sender"), settings)


def _is_ours(who: Fields, settings: Settings) -> bool:
    """Whether this is our account, by its number if the settings have it, otherwise by its login."""
    number = cast("GitHub", settings.forge(Platform.GITHUB)).account_id
    if number is not None:
        return who.integer("id") == number
    return events.is_ours(who.optional_text("login"), Platform.GITHUB, settings)


def _label_event(
    delivered: Delivery, payload: Mapping[str, Any], settings: Settings, received_at: datetime
) -> Meaning:
    """Return the meaning of an event for tasks: a label, a withdrawal or a command."""
    event = delivered.event
    if event == "ping":
        return Ignored("pong: the webhook is set up")
    if event == COMMENT_EVENT and settings.webhook.commands.enabled:
        return _PAYLOAD.comment(delivered, Fields(payload), settings, received_at)
    if event not in settings.webhook.of(Platform.GITHUB).events or event not in _ITEM_FIELDS:
        return Ignored(f"unsupported event type: {safe(event, 60)}")
    fields = Fields(payload)
    subject = _ITEM_FIELDS[event]
    action = fields.text("action")
    if action in _ENDED:
        return _withdraw(delivered, fields, settings, _ENDED[action], ended=True)
    if action == "unlabeled":
        return _unlabeled(delivered, fields, settings)
    if action not in settings.webhook.of(Platform.GITHUB).actions:
        return Ignored(f"not a labeled action: {safe(action, 60)}")
    ours = settings.forge(Platform.GITHUB)
    applied = {ours.spelled(fields.object("label").text("name"))} if action == "labeled" else set[str]()
    if applied and not applied & ours.triggers:
        return Ignored("not the target label")
    labels = applied | _labels(fields.object(subject), settings)
    if not labels & ours.triggers:
        return Ignored("the item does not have the target label")
    item = _PAYLOAD.item(fields, subject, settings)
    if isinstance(item, Ignored):
        return item
    if fields.object(subject).optional_text("state") == "closed":
        return Ignored("the item is closed; reopen it and apply the label again", unexpected=True)
    user = fields.object("sender").text("login")
    if not settings.own_label_counts and _is_by_us(fields, settings):
        return Ignored(events.OWN_LABEL, unexpected=True)
    return events.accept(
        item,
        fields.object(subject),
        user=user,
        url=fields.object(subject).url("html_url"),
        runner=ours.runner(labels),
        trust=_trust(fields, item, subject, settings),
        delivered=delivered,
        received_at=received_at,
    )


def _trust(fields: Fields, item: Item, name: str, settings: Settings) -> Trust:
    repository, subject = fields.object("repository"), fields.object(name)
    return trust_of(
        item,
        None if item.kind is ItemKind.ISSUE else _head(subject, repository),
        closed=repository.flag("private"),  # an internal repository has the flag too
        member=subject.optional_text("author_association") in MEMBERS,
        ours=subject.has("user") and _is_ours(subject.object("user"), settings),
        prefix=settings.consumer.branch_prefix,
    )


def _head(subject: Fields, repository: Fields) -> Head:
    """Return the branch of a pull request; an `issues` event about it does not say where the branch is."""
    if not subject.has("head") or not subject.object("head").has("repo"):
        return Head(own=False)
    head = subject.object("head")
    place = head.object("repo")
    own = repository.has("id") and place.has("id") and place.number("id") == repository.number("id")
    return Head(own, head.optional_text("ref"))


def _unlabeled(delivered: Delivery, fields: Fields, settings: Settings) -> Meaning:
    """Return the meaning of a label's removal.

    In recorded events from GitHub, the item's labels still include the removed one. An event has no `label`
    if the label was deleted from the repository.
    """
    ours = settings.forge(Platform.GITHUB)
    left = _labels(fields.object(_ITEM_FIELDS[delivered.event]), settings)
    if fields.has("label"):
        removed = ours.spelled(fields.object("label").text("name"))
        if removed not in ours.active:
            return Ignored("not the target label")
        withdrawn = events.cancels({removed}, left - {removed}, ours) is not None
        what = f"lost the label {removed!r}"
        of_trigger = removed in ours.triggers
    else:
        withdrawn = not ours.active & left
        what = "lost a label that was deleted from the repository"
        of_trigger = True
    if not withdrawn:
        return Ignored("the item still has one of the bot's labels")
    if not settings.own_label_counts and _is_by_us(fields, settings):
        return Ignored(events.OWN_REMOVAL)
    return _withdraw(delivered, fields, settings, what, of_trigger=of_trigger)


def _withdraw(
    delivered: Delivery,
    fields: Fields,
    settings: Settings,
    what: str,
    *,
    ended: bool = False,
    of_trigger: bool = True,
) -> Meaning:
    subject = _ITEM_FIELDS[delivered.event]
    item = _PAYLOAD.item(fields, subject, settings)
    if isinstance(item, Ignored):
        return item
    found = fields.object(subject)
    user = _sender(fields)
    return events.withdrawal_of(item, found, what, delivered, ended=ended, of_trigger=of_trigger, user=user)


def _labels(subject: Fields, settings: Settings) -> frozenset[str]:
    names = [label.text("name") for label in subject.objects("labels")]
    return settings.forge(Platform.GITHUB).all_spelled(names)

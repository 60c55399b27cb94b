"""Commands as they are kept on an AgentTask until the reporter carries them out. Pure.

They stand in the annotation `coding-agent.dev/commands` of the item's newest run, as a JSON list. An entry
that was carried out stays for a while, with its result, so that a redelivered comment is known again.
An item without a run gets a *mailbox* for them: an AgentTask that is suspended, is no run, and goes when its
commands are carried out (docs/decisions/0015).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from pydantic import Field, ValidationError

from coding_agent_core.agenttask import GROUP, LABEL_ACTIVE, LABEL_REPORTED, Spec, manifest
from coding_agent_core.commands import CommandName, IssueCommand
from coding_agent_core.errors import QueueUnavailableError
from coding_agent_core.tasks import Frozen, task_name

ANNOTATION_COMMANDS = f"{GROUP}/commands"
LABEL_COMMANDS = f"{GROUP}/commands"
"""`pending` while a command waits: `kubectl get agenttasks -l coding-agent.dev/commands=pending`."""
PENDING = "pending"
LABEL_MAILBOX = f"{GROUP}/mailbox"
"""`true` on a mailbox."""
ANSWERED = "done"
"""The result of a command that was carried out and had something to do."""
LIMIT = 20
"""Commands on one AgentTask; those that were carried out go first."""

Body = Mapping[str, Any]


class TooManyCommandsError(QueueUnavailableError):
    """As many commands as are kept wait for being carried out."""


class Noted(Frozen):
    """A command on an AgentTask.

    Attributes:
        id: of the webhook delivery.
        result: what came of it, once it was carried out.
    """

    id: str = ""
    command: CommandName
    user: str
    at: datetime | None = None
    comment: str
    received: datetime
    result: str | None = Field(default=None, max_length=256)

    @property
    def pending(self) -> bool:
        """It waits."""
        return self.result is None

    def of(self, spec: Spec) -> IssueCommand:
        """The command, about the item of this spec.

        Raises:
            ValueError: the spec names no item.
        """
        return IssueCommand(
            item=spec.item,
            name=self.command,
            comment=self.comment,
            user=self.user,
            at=self.at,
            delivery_id=self.id or None,
            received_at=self.received,
            title=spec.title,
            url=spec.url,
        )


def noted_on(body: Body) -> list[Noted]:
    """The commands on an AgentTask, oldest first. What cannot be read (edited by hand) is left out."""
    text = (body["metadata"].get("annotations") or {}).get(ANNOTATION_COMMANDS, "")
    try:
        entries = json.loads(text or "[]")
    except (ValueError, RecursionError):
        return []
    return [each for entry in entries if (each := _read(entry))] if isinstance(entries, list) else []


def knows(body: Body, command: IssueCommand) -> bool:
    """Whether this AgentTask has the command already, waiting or carried out."""
    return any(each.comment == command.comment for each in noted_on(body))


def is_mailbox(body: Body) -> bool:
    """Whether it only keeps commands. One that a person resumed by hand is a task like any other."""
    labels = body["metadata"].get("labels") or {}
    return labels.get(LABEL_MAILBOX) == "true" and bool((body.get("spec") or {}).get("suspend"))


def added(body: Body, command: IssueCommand) -> dict[str, Any]:
    """The merge patch that notes a command on exactly this version of an AgentTask.

    Raises:
        TooManyCommandsError: there is no room; the sender is to try again.
    """
    noted = [*noted_on(body), _entry(command)]
    while len(noted) > LIMIT:
        oldest = next((each for each in noted if not each.pending), None)
        if oldest is None:
            raise TooManyCommandsError(
                f"{LIMIT} commands wait on {body['metadata']['name']}; is the reporter running?"
            )
        noted.remove(oldest)
    patch = _patch(body, noted)
    # The reporter watches what it has not shown, and not every task that ever ran.
    patch["metadata"]["labels"][LABEL_REPORTED] = None
    return patch


def settled(body: Body, comment: str, result: str) -> dict[str, Any]:
    """The merge patch that notes the result of a command on exactly this version of an AgentTask."""
    noted = [
        each.model_copy(update={"result": result[:256]}) if each.comment == comment else each
        for each in noted_on(body)
    ]
    return _patch(body, noted)


def last_status(body: Body) -> tuple[str, datetime] | None:
    """Who gave the newest `/status` that was answered, and when: the comment says so."""
    answered = [
        (each.user, each.at)
        for each in noted_on(body)
        if each.command is CommandName.STATUS and each.result == ANSWERED and each.at is not None
    ]
    return answered[-1] if answered else None


def mailbox(command: IssueCommand, *, uuid: str) -> dict[str, Any]:
    """A mailbox with its first command; its name is the same for the same item."""
    task = manifest(command.request(), run=1, uuid=uuid, timeout_seconds=1, max_attempts=1)
    meta = task["metadata"]
    meta["name"] = f"{task_name(command.item)}-mailbox"
    del meta["labels"][LABEL_ACTIVE]
    meta["labels"] |= {LABEL_MAILBOX: "true", LABEL_COMMANDS: PENDING}
    meta["annotations"] = {ANNOTATION_COMMANDS: _text([_entry(command)])}
    task["spec"]["suspend"] = True
    return task


def _entry(command: IssueCommand) -> Noted:
    return Noted(
        id=command.delivery_id or "",
        command=command.name,
        user=command.user,
        at=command.at,
        comment=command.comment,
        received=command.received_at,
    )


def _patch(body: Body, noted: list[Noted]) -> dict[str, Any]:
    waits = any(each.pending for each in noted)
    return {
        "metadata": {
            # A merge patch with a resourceVersion is refused with 409 when the object has another by now.
            "resourceVersion": body["metadata"]["resourceVersion"],
            "labels": {LABEL_COMMANDS: PENDING if waits else None},
            "annotations": {ANNOTATION_COMMANDS: _text(noted)},
        }
    }


def _text(noted: Iterable[Noted]) -> str:
    return json.dumps([each.model_dump(mode="json", exclude_none=True) for each in noted], ensure_ascii=False)


def _read(entry: object) -> Noted | None:
    try:
        return Noted.model_validate(entry)
    except ValidationError:
        return None

"""Decides whether a task may be a round, and finds the person whose settings it has.

Nobody asks for a round, so its attempt does not check a person's rights. The person that the task names is
checked against the forge's history.
"""

from __future__ import annotations

from contextlib import suppress

from coding_agent_core.errors import ForgeListTooLongError, ForgeNotFoundError
from coding_agent_core.task.attempts import Outcome
from coding_agent_core.task.model import CommandName, Item, RoundTrigger, Trigger
from coding_agent_core.task.reasons import Reason
from coding_agent_core.task.round_record import RoundEnd, RoundResult
from coding_agent_core.task.round_report import ROUND_CAUSES, RoundReport, cause_of, report_of_round
from coding_agent_forges.rest.forge import Forge


def round_refusal(trigger: Trigger, *, enabled: bool) -> Outcome | None:
    """Return the outcome of a round's attempt if it may not work; `None` if it may.

    An attempt of a round does not check who asked for it. So the cause must confirm that it is a round:
    somebody who may create tasks for labels could otherwise have work done that no label asks for.

    Args:
        enabled: the setting `rounds.enabled`.
    """
    if trigger.cause not in ROUND_CAUSES:
        cause = f"`{trigger.cause}`" if trigger.cause is not None else "missing"
        message = f"The task names a round, but its cause is {cause}."
        return Outcome(reason=Reason.NOT_AUTHORIZED, message=message)
    if not enabled:
        return Outcome(reason=Reason.SUPERSEDED, message="Rounds are switched off (`rounds.enabled`).")
    return None


async def round_user(forge: Forge, change: Item, issue: Item | None, claimed: str) -> str:
    """Return the person whose settings apply to a round, by the history of the change and of its issue.

    That is the person who is said to have asked for the work that led to the change, if the history shows a
    label or a command of theirs; otherwise the person who applied the label; empty if nobody did.

    Args:
        issue: the issue that the change answers, if any.
        claimed: the person whom the task names. Whoever can create tasks could write any name into it.

    Raises:
        ForgeError: the history cannot be read, or the comments were not read to their end and do not show
            the claimed person's command.
    """
    # Only a round reads commands, so that other attempts do without their module and that of AgentTasks.
    from coding_agent_core.task.commands import command_in  # noqa: PLC0415

    own = (await forge.whoami()).casefold()
    items = [change] if issue is None else [change, issue]
    applied = list[str]()
    for item in items:
        with suppress(ForgeNotFoundError):  # the issue was deleted
            found = await forge.label_application(item)
            if found is not None and found.user and found.user.casefold() != own:
                applied.append(found.user)
    known = {user.casefold() for user in applied}
    if claimed.casefold() in known or not claimed or claimed.casefold() == own:
        return claimed if claimed.casefold() in known else next(iter(applied), "")
    unread = False
    for item in items:
        with suppress(ForgeNotFoundError):
            comments = await forge.comments(item)
            unread = unread or not comments.complete
            for comment in comments.values:
                # Somebody else may have edited it, and then chooses whose settings and key are used.
                is_theirs = comment.author.casefold() == claimed.casefold() and not comment.edited
                if is_theirs and command_in(comment.body, (CommandName.RETRY, CommandName.RUN)) is not None:
                    return claimed
    if unread:
        raise ForgeListTooLongError(
            f"{change.display} or its issue has more comments than are read, so it is not known whether "
            f"{claimed} asked for this work, and whose settings the round has. If {claimed} applies the "
            "label to the change, the next round has theirs."
        )
    return next(iter(applied), "")


def cause_gone(trigger: RoundTrigger) -> RoundReport | None:
    """Return the report of a round whose change was closed before it started; `None` without a cause."""
    try:
        created = cause_of(trigger)
    except ValueError:  # a person wrote the task
        return None
    return report_of_round(RoundResult(created, trigger.decided_at, RoundEnd.SUPERSEDED, created.head))

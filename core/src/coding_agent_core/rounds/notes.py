"""The sentences for people about a change's next round, and our comment in a snapshot. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from coding_agent_core.forge.changes import BODY_LIMIT, ChangeSnapshot, Part
from coding_agent_core.forge.values import MARKER
from coding_agent_core.reporting.comment import State, read_state
from coding_agent_core.task.round_cause import STILL_WRITING, RoundPolicy, StopReason, Waiting, Work

_NOTES_LIMIT = 10
_OBVIOUS = {StopReason.NOT_OURS, StopReason.MERGED, StopReason.CLOSED}


def notes_of(work: Work, policy: RoundPolicy) -> tuple[str, ...]:
    """Return sentences that say what the next round waits for, or why there is none.

    The sentences contain no time, so that the comment is not edited while nothing changes.
    """
    stops = (stop.sentence for stop in work.stops if stop.reason not in _OBVIOUS)
    waiting = (_sentence(one, policy) for one in work.waiting)
    return tuple(dict.fromkeys(filter(None, (*stops, *waiting, *work.notes))))[:_NOTES_LIMIT]


def _sentence(waiting: Waiting, policy: RoundPolicy) -> str:
    if waiting.why == STILL_WRITING:
        seconds = policy.review_quiet.total_seconds()
        return f"The next round waits for {seconds:g} s of quiet after the last comment."
    return waiting.why


@dataclass(frozen=True)
class OurComment:
    """Our only comment on a change, as a snapshot shows it.

    Attributes:
        body: the text, possibly without its end; `None` if the snapshot does not show the comment.
        state: the hidden state; `None` if it was cut off or cannot be read.
        key: changes whenever the comment can have changed; empty if the snapshot does not show that.
        whole: whether the snapshot is enough: it shows the whole comment, or that there is none.
    """

    body: str | None
    state: State | None
    key: str
    whole: bool


def our_comment(snapshot: ChangeSnapshot) -> OurComment:
    """Return our comment among a change's comments. A snapshot cuts a long comment before its hidden line."""
    own = snapshot.own.id
    ours = [one for one in snapshot.comments if own and one.author.id == own]
    for one in ours:
        if MARKER in one.body and len(one.body) < BODY_LIMIT:
            return OurComment(one.body, read_state(one.body), one.body, whole=True)
    cut = [one for one in ours if len(one.body) >= BODY_LIMIT]
    if not cut:
        return OurComment(None, None, "", whole=Part.COMMENTS not in snapshot.left_out)
    return OurComment(cut[0].body, None, "\n".join(one.body for one in cut), whole=False)


def as_written(body: str) -> str:
    """Return the text of our comment as we wrote it: forges may change the ends of its lines."""
    return body.replace("\r\n", "\n")


def shows(body: str, text: str) -> bool:
    """Whether a comment has this text. Only the beginning of a long comment is compared."""
    plain, whole = as_written(body), text.rstrip()
    if len(body) < BODY_LIMIT:
        return plain.rstrip() == whole
    # If the text just fits, the end that was cut off is its signature's.
    return text.startswith(plain) or plain.startswith(whole)

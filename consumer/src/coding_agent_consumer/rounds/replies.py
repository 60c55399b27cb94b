"""The replies of a round to people's remarks: their texts, and which are written already. Pure.

The agent's summary has a line for each remark, because every agent has a summary, even a program that knows
nothing of rounds. Its text is quoted, so nothing in it has an effect on the forge.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from coding_agent_core.forge.changes import (
    WRITTEN,
    ActorKind,
    ChangeSnapshot,
    ReviewThread,
    ReviewVerdict,
)
from coding_agent_core.platforms.markdown import quotation
from coding_agent_core.platforms.text import beginning
from coding_agent_core.task.round_record import answer_mark, marked_answers

_LINE = re.compile(r"^(?:\d{1,3}[.)])?\W{0,4}\[(?P<id>[trc]\d{1,20})\]\W{0,4}(?P<text>.*)$")
_DONE = re.compile(r"^done\b\W*", re.IGNORECASE)
_NOT_DONE = re.compile(r"not[ _-]done\b", re.IGNORECASE)
_TEXT_LIMIT = 3_000
"""The most characters of one reply."""
_SUMMARY_LIMIT = 600
"""The most characters of the summary in a reply to a remark that it does not name."""
_SHOWN_COMMIT = 12


@dataclass(frozen=True)
class RoundRemarks:
    """The remarks on a change as one round sees them: sets of ids with the prefixes of `RoundCause.ids`.

    Attributes:
        asked: those that asked for work when the round decided.
        read: those that the round works on; the model has seen each of them whole.
        replied: those with a reply of ours, by whichever attempt.
        gone: those that the round has read, and that were deleted since then.
    """

    asked: frozenset[str] = frozenset()
    read: frozenset[str] = frozenset()
    replied: frozenset[str] = frozenset()
    gone: frozenset[str] = frozenset()

    @property
    def owed(self) -> frozenset[str]:
        """Those that the round has read, and that still have to get a reply."""
        return self.read - self.replied - self.gone

    @property
    def left(self) -> frozenset[str]:
        """Those that asked for work, and that the round leaves to the next one."""
        return self.asked - self.read

    def seen_in(self, snapshot: ChangeSnapshot) -> RoundRemarks:
        """Return the remarks with those that have a reply in the snapshot, and those that it lacks."""
        # What was not listed may exist.
        gone = frozenset[str]() if WRITTEN & snapshot.left_out else self.read - _shown(snapshot)
        return replace(self, replied=self.replied | written(snapshot), gone=gone)


def _shown(snapshot: ChangeSnapshot) -> frozenset[str]:
    in_threads = (f"t{one.id}" for thread in snapshot.threads for one in thread.remarks)
    reviews = (f"r{one.id}" for one in snapshot.reviews)
    return frozenset((*in_threads, *reviews, *(f"c{one.id}" for one in snapshot.comments)))


@dataclass(frozen=True)
class Reply:
    """A reply to one or more remarks.

    Attributes:
        ids: the remarks that it answers.
        thread: the thread to which it belongs; `None` for a plain comment.
    """

    ids: tuple[str, ...]
    thread: ReviewThread | None

    @property
    def mark(self) -> str:
        return answer_mark(self.ids)


def replies_to(snapshot: ChangeSnapshot, ids: Collection[str]) -> tuple[Reply, ...]:
    """Return the replies that remarks need: one for each thread, and one for all remarks outside of threads.

    The text of a review belongs to the first of its threads that gets a reply. Its author would otherwise
    read two replies to one review, most of the time with the same text.

    Args:
        ids: the ids of the remarks, with the prefixes that `RoundCause.ids` has.
    """
    replies = []
    left = set(ids)
    for thread in snapshot.threads:
        asked = [one for one in thread.remarks if f"t{one.id}" in left]
        if asked:
            texts = {f"r{one.review}" for one in asked} & left
            here = (*(f"t{one.id}" for one in asked), *sorted(texts))
            replies.append(Reply(here, thread))
            left.difference_update(here)
    others = tuple(sorted(one for one in left if not one.startswith("t")))
    return (*replies, Reply(others, None)) if others else tuple(replies)


def written(snapshot: ChangeSnapshot) -> frozenset[str]:
    """Return the ids of the remarks that a reply of ours answers."""
    remarks = (*snapshot.comments, *(one for thread in snapshot.threads for one in thread.remarks))
    return marked_answers([one.body for one in remarks if one.author.id and one.author.id == snapshot.own.id])


def said_of(summary: str, ids: Iterable[str]) -> Mapping[str, str]:
    """Return the summary's text about each remark that it names, by the remark's id.

    A text ends at the next line with an id, or at an empty line.
    """
    known, found, at = set(ids), dict[str, list[str]](), ""
    for line in summary.splitlines():
        named = _LINE.match(line.strip())
        if named is not None:
            at = named["id"] if named["id"] in known else ""
            if at:
                found.setdefault(at, []).append(named["text"])
        elif not line.strip():
            at = ""
        elif at:
            found[at].append(line)
    return {key: text for key, lines in found.items() if (text := "\n".join(lines).strip())}


def without_ids(summary: str) -> str:
    """Return the summary without the ids of remarks, for readers who do not know the ids."""
    lines = (_LINE.match(line.strip()) for line in summary.splitlines())
    return "\n".join(
        _DONE.sub("", named["text"]) if named else line
        for named, line in zip(lines, summary.splitlines(), strict=True)
    )


def did(reply: Reply, summary: str) -> bool:
    """Whether the agent of a round that has pushed says that it changed something for one of the remarks."""
    texts = _texts(reply, summary)
    return not texts or not all(_NOT_DONE.match(one) for one in texts)


def _texts(reply: Reply, summary: str) -> list[str]:
    said = said_of(summary, reply.ids)
    return [said[key] for key in reply.ids if key in said]


def reply_text(reply: Reply, summary: str, commit: str) -> str:
    """Return the text of a reply.

    Args:
        summary: the agent's summary.
        commit: the commit that was pushed; empty if nothing was.
    """
    texts = _texts(reply, summary)
    # Each thread would show the same summary, so it is short.
    text = "\n\n".join(texts) or beginning(summary, _SUMMARY_LIMIT)
    if not commit:
        head = "Nothing was changed."
    elif not did(reply, summary):
        head = f"Nothing was changed for this. The round's other work is in {commit[:_SHOWN_COMMIT]}."
    else:
        head = f"The changes are in {commit[:_SHOWN_COMMIT]}."
    return f"{reply.mark}\n{head}\n\n{quotation(beginning(text, _TEXT_LIMIT))}".rstrip()


def reviewers_of(
    snapshot: ChangeSnapshot,
    ids: Collection[str],
    allowed: Collection[str],
    read: Collection[str],
) -> tuple[str, ...]:
    """Return the logins of the people who are asked for another review.

    These are people who reviewed the change and wrote one of the remarks. Somebody who has approved it, or
    was asked already, is not asked again.

    On GitLab, asking takes back the reviewer's request for changes, without which the text of a review is a
    plain comment. So somebody who has written more since is not asked: the next round answers that, and asks.

    Args:
        allowed: the logins of people with write access. The forge does not let others be asked.
        read: the ids of the plain comments that the round has read, with the prefixes of `RoundCause.ids`.
    """
    wrote = {one.author.id for one in snapshot.comments if f"c{one.id}" in ids}
    wrote |= {one.author.id for one in snapshot.reviews if f"r{one.id}" in ids}
    wrote |= {one.author.id for thread in snapshot.threads for one in thread.remarks if f"t{one.id}" in ids}
    asked = {one.id for one in snapshot.requested_reviewers}
    wrote_more = {one.author.id for one in snapshot.comments if f"c{one.id}" not in read}
    newest = {one.author.id: one for one in snapshot.reviews if one.verdict is not ReviewVerdict.DISMISSED}
    return tuple(
        sorted(
            review.author.login
            for key, review in newest.items()
            if key in wrote - asked
            and review.verdict is not ReviewVerdict.APPROVED
            and not (review.submitted_at is None and key in wrote_more)
            and review.author.kind is ActorKind.PERSON
            and review.author.login in allowed
        )
    )

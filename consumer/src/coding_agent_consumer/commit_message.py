"""What the message of a commit says: what changed, why, for whom. Pure."""

from __future__ import annotations

import re

from coding_agent_core.forge.protocol import CommitIdentity
from coding_agent_core.text import inline, quotation

SUBJECT_LIMIT = 72
"""Characters of the first line: forges fold what is longer."""
_MARKUP = re.compile(r"^(?:#{1,6}|[-*+]|\d+[.)]|>)\s+|\*\*|__")
_END_OF_CLAUSE = re.compile(r"[;:] | [-\u2013\u2014(]")
_END_OF_SENTENCE = re.compile(r"(?<=\S[.!?])\s")


def commit_message(
    summary: str, *, finished: bool, item_title: str, footer: str, asked_by: CommitIdentity | None
) -> str:
    """The whole message; every text in it becomes inert.

    Args:
        summary: the model's, of its work; empty if there is none.
        item_title: names unfinished work, and work without a summary.
        footer: names the item.
        asked_by: shown as co-author.
    """
    subject = subject_of(summary) or item_title if finished else f"Work so far on {item_title}"
    trailer = ""
    if asked_by is not None:
        name = inline(re.sub(r"[<>]", "", asked_by.name))
        trailer = f"Co-authored-by: {name} <{asked_by.email}>"
    shown = _cut(inline(subject))
    parts = (shown, "" if summary.strip() == subject else quotation(summary), footer, trailer)
    return "\n\n".join(filter(None, parts)) + "\n"


def subject_of(summary: str) -> str:
    """The first sentence of a summary, without Markdown and full stop; empty if there is none."""
    lines = (_MARKUP.sub("", line.strip()).strip() for line in summary.splitlines())
    first = next((line for line in lines if re.search(r"\w", line)), "")
    return _END_OF_SENTENCE.split(first, maxsplit=1)[0].rstrip(" .:;,")


def _cut(subject: str) -> str:
    """At most `SUBJECT_LIMIT` characters: up to the end of a clause if there is one, else of a word."""
    if len(subject) <= SUBJECT_LIMIT:
        return subject
    clauses = [found.start() for found in _END_OF_CLAUSE.finditer(subject[: SUBJECT_LIMIT + 1])]
    if clauses and clauses[-1] > SUBJECT_LIMIT // 2:
        return subject[: clauses[-1]]
    words = subject[: SUBJECT_LIMIT - 1].rpartition(" ")[0]
    return (words if len(words) > SUBJECT_LIMIT // 2 else subject[: SUBJECT_LIMIT - 1]) + "…"

"""The line in the message of a round's commit that says what the round worked on. Pure.

An attempt can be killed after its push and before its report. What it worked on is not always the cause for
which the round was created, because it decided again when it started. So its commit tells the next attempt.
People read commits, and a forge acts on some words in them: the line has only ids, hashes and times.
"""

from __future__ import annotations

import json

from coding_agent_core.task.round_record import EndedRound, RoundEnd

_START = "Coding-Agent-Round: "
_FIELDS = {"kind", "identity", "keys", "at", "before", "seen", "acts", "errors"}
"""The fields of the record that are known before the push."""


def trailer_of(name_part: str, work: EndedRound) -> str:
    """Return the line for the commit message of a round.

    Args:
        name_part: the part of the round's name that follows from the cause for which it was created.
        work: what the round works on; how it ends does not matter.
    """
    return f"{_START}{name_part} {work.model_dump_json(include=_FIELDS, exclude_defaults=True)}"


def pushed_round(name_part: str, commit: str, message: str) -> EndedRound | None:
    """Return the end of a round that has pushed a commit with this message; `None` if it is not the round's.

    If somebody rebases or copies the commit, the copy has the line too, and it has the round's work. Git does
    not prove who wrote a line. Somebody who may push to the branch can make a round believe that remarks were
    answered, but could also resolve their threads.

    Args:
        name_part: the part of the round's name that follows from the cause for which it was created.
        message: the whole message. The agent's summary in it is quoted, so none of its lines is such a line.
    """
    start = f"{_START}{name_part} "
    # `splitlines` would also split a line at characters that a summary can contain.
    for line in message.split("\n"):
        if not line.startswith(start):
            continue
        try:
            told = json.loads(line.removeprefix(start))
            return EndedRound.model_validate(told | {"end": RoundEnd.PUSHED, "after": commit})
        except (ValueError, TypeError, RecursionError):  # somebody else wrote it
            continue
    return None

"""What the mark of a round's commit tells about the round (`WorkMark`). Pure.

What a round worked on is not always the cause for which it was created, because it decided again when it
started.
"""

from __future__ import annotations

import json

from coding_agent_core.task.round_record import EndedRound, RoundEnd

_FIELDS = {"kind", "identity", "keys", "at", "before", "seen", "acts", "errors"}
"""The fields of the record that are known before the push."""


def told_of(work: EndedRound) -> str:
    """Return what the mark tells.

    Args:
        work: what the round works on; how it ends does not matter.
    """
    return work.model_dump_json(include=_FIELDS, exclude_defaults=True)


def pushed_round(commit: str, told: str) -> EndedRound | None:
    """Return the end of a round that has pushed a commit with this mark; `None` if it cannot be read.

    Without a key of our comments, nothing proves who wrote it. Somebody who may push to the branch can then
    make a round believe that remarks were answered, but could also resolve their threads.
    """
    try:
        return EndedRound.model_validate(json.loads(told) | {"end": RoundEnd.PUSHED, "after": commit})
    except (ValueError, TypeError, RecursionError):
        return None

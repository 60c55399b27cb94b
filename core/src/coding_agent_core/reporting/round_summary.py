"""Sums up the rounds of a change for people. Pure."""

from __future__ import annotations

from collections import Counter
from functools import reduce

from coding_agent_core.task.round_cause import RoundKind
from coding_agent_core.task.round_record import RoundRecord
from coding_agent_core.task.usage import sum_of

_CAUSES = {
    RoundKind.CHECKS: ("failed checks", "failed checks"),
    RoundKind.REVIEW: ("a review", "reviews"),
    RoundKind.CONFLICT: ("a conflict", "conflicts"),
}
"""What one round and several rounds of a kind are for, in the order in which people read it."""


def summary_of(record: RoundRecord) -> str:
    """Return a phrase with the number of a change's rounds, their kinds, and the cost of the model.

    Superseded rounds do not count in the number, but in the cost. The phrase is empty if no round has ended.
    """
    kinds = Counter(entry.kind for entry in record.rounds if entry.counted)
    if not kinds:
        return ""
    causes = [(count, _CAUSES[kind][count > 1]) for kind in _CAUSES if (count := kinds[kind])]
    total = kinds.total()
    rounds = f"{total} round{'' if total == 1 else 's'}"
    if len(causes) == 1:
        rounds += f" for {causes[0][1]}"
    else:
        rounds += "".join(f", {count} for {cause}" for count, cause in causes)
    cost = reduce(sum_of, (entry.cost for entry in record.rounds), None)
    return f"{rounds}; cost {cost}" if cost is not None else rounds

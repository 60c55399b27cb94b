"""The record of a change's rounds, which the hidden line of our comment stores. Pure.

The record contains only our own acts: rounds that ended, and checks that we asked the forge to run again. The
content of a snapshot is never stored, so that no decision compares the forge with an earlier snapshot.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from coding_agent_core.platforms.text import first_problem
from coding_agent_core.task.model import identity_hash
from coding_agent_core.task.round_cause import IDS_LIMIT, RoundCause, RoundKind
from coding_agent_core.task.usage import MANY_TOKENS, Allowance, Cost, Usage

ROUNDS_LIMIT = 40
"""Maximum number of rounds of a change. None is ever forgotten, or its cause would start it again."""
RECORD_LIMIT = 20_000
"""A record with more characters is full. GitHub accepts 65,536 for the whole comment."""
_READ_LIMIT = 2 * RECORD_LIMIT
SUPERSEDED_LIMIT = 60
"""Maximum number of causes whose rounds never began that a record keeps, the newest."""
RERUNS_LIMIT = 20
"""Maximum number of re-runs of the checks of one head, and of all re-runs in a record."""
OWED_LIMIT = 2
"""After this many rounds that owe a remark its reply, no further round reads it: each one costs money."""
_MARK = "<!-- coding-agent:answers "
_ANSWERS = re.compile(re.escape(_MARK) + r"([trc0-9 ]{0,2000})-->")

_Commit = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{7,64}$", max_length=64)]
_Key = Annotated[str, StringConstraints(pattern=r"^[0-9A-Za-z_-]{1,64}$")]
_Patch = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{7,64}$", max_length=64)]


class RoundEnd(StrEnum):
    PUSHED = "pushed"
    NO_PUSH = "no push"
    """The round answered, but changed nothing."""
    FAILED = "failed"
    CANCELLED = "cancelled"
    SUPERSEDED = "superseded"
    """A person pushed to the branch while the round ran, or the cause had gone when the round started. Such a
    round is not counted, and the same cause may come again."""
    NO_PROGRESS = "no progress"
    """The round read the logs and found the errors of the last round again, so its model did not start."""


@dataclass(frozen=True)
class RoundResult:
    """The result of a round.

    Attributes:
        cause: what `open_work` decided when the round started, with everything that the round read. If
            nothing was due any more, it is the cause for which the round was created, with the end
            `SUPERSEDED`.
        at: when that decision was made, by the forge's clock.
        head_after: the head after the round's push; the head that it started from if nothing was pushed.
        patch: the id of the round's own difference (`git patch-id --stable`), without the merge of the base;
            empty if nothing was pushed.
        reverse: the patch id of the reversed difference, by which a round that undoes another is recognized.
    """

    cause: RoundCause
    at: datetime
    end: RoundEnd
    head_after: str
    patch: str = ""
    reverse: str = ""


class _Stored(BaseModel):
    # A newer release's fields must not stop an older program.
    model_config = ConfigDict(frozen=True, extra="ignore")


class EndedRound(_Stored):
    """A round that ended, as the record and a report store it.

    Attributes:
        identity: the hash of the cause's identity.
        seen: the time of the newest act that the round read.
        owed: the remarks that the round has read and that got no reply, because the forge refused it or the
            attempt was cut off. They are not among the keys.
        acts: the keys of the acts of people that this round was the first to read.
    """

    kind: RoundKind
    identity: str = Field(pattern=r"^[0-9a-f]{16}$", max_length=16)
    keys: tuple[_Key, ...] = Field(max_length=IDS_LIMIT)
    at: AwareDatetime
    end: RoundEnd
    before: _Commit
    after: _Commit
    owed: tuple[_Key, ...] = Field(default=(), max_length=IDS_LIMIT)
    seen: AwareDatetime | None = None
    acts: tuple[_Key, ...] = Field(default=(), max_length=IDS_LIMIT)
    errors: tuple[_Key, ...] = Field(default=(), max_length=IDS_LIMIT)
    patch: _Patch | None = None
    reverse: _Patch | None = None

    @property
    def counted(self) -> bool:
        return self.end is not RoundEnd.SUPERSEDED

    @property
    def pushed(self) -> bool:
        return self.end is RoundEnd.PUSHED and self.after != self.before


class RoundEntry(EndedRound):
    """A round in the record.

    Attributes:
        tokens: how many tokens all attempts of the round sent and received.
        cost: what this cost, if it is known.
    """

    tokens: int = Field(default=0, ge=0, le=2 * MANY_TOKENS)
    cost: Cost | None = None

    @property
    def usage(self) -> Usage:
        """The round's usage of the model; nothing if the record does not have it."""
        half = self.tokens // 2  # only their sum counts
        requests = min(self.tokens, 1)
        return Usage(requests=requests, input_tokens=self.tokens - half, output_tokens=half, cost=self.cost)


class RerunEntry(_Stored):
    """A check that we asked the forge to run again.

    Attributes:
        at: when we asked, by the forge's clock.
        refused: whether the forge refused, so that nobody waits for the new run.
        unanswered: whether the forge's answer was lost, so that nobody waits long for the new run.
    """

    head: _Commit
    check: _Key
    run: _Key
    at: AwareDatetime
    refused: bool = False
    unanswered: bool = False


class RoundRecord(_Stored):
    """The rounds of a change, the oldest first, and the re-runs of its last heads.

    Attributes:
        superseded: the hashes of the causes whose rounds were superseded before their model was asked. Their
            names are taken, but they are not rounds: people who push often must not fill the record.
        full: whether no further round is recorded, and so none may start.
        problem: why the record could not be read, as a phrase; empty otherwise. It is not stored.
    """

    rounds: tuple[RoundEntry, ...] = Field(default=(), max_length=ROUNDS_LIMIT)
    reruns: tuple[RerunEntry, ...] = Field(default=(), max_length=RERUNS_LIMIT)
    superseded: tuple[_Key, ...] = Field(default=(), max_length=SUPERSEDED_LIMIT)
    full: bool = False
    problem: str = Field(default="", exclude=True)

    def to_json(self) -> str:
        """Return the record on one line."""
        return self.model_dump_json(exclude_defaults=True)

    def has(self, cause: RoundCause) -> bool:
        """Whether there was a round with exactly this cause, superseded or not."""
        identity = identity_hash(cause.identity)
        return identity in self.superseded or any(entry.identity == identity for entry in self.rounds)

    @property
    def settled(self) -> frozenset[str]:
        """The ids of all remarks that no further round reads, because a round has read and answered them.

        A remark that several rounds owe a reply is one of them (`OWED_LIMIT`).
        """
        times = self._times_owed()
        given_up = (key for key, number in times.items() if number >= OWED_LIMIT)
        return frozenset((*(key for entry in self._reviews() for key in entry.keys), *given_up))

    @property
    def owed(self) -> frozenset[str]:
        """The ids of the remarks that a round has read, and that a further round has to answer."""
        return frozenset(self._times_owed()) - self.settled

    def _times_owed(self) -> Counter[str]:
        return Counter(key for entry in self._reviews() for key in entry.owed)

    def _reviews(self) -> list[RoundEntry]:
        return [one for one in self.rounds if one.kind is RoundKind.REVIEW and one.counted]

    @property
    def readers(self) -> dict[str, int]:
        """The index of the first round that read an act, for each act's key."""
        found: dict[str, int] = {}
        for place, entry in enumerate(self.rounds):
            for key in entry.acts:
                found.setdefault(key, place)
        return found

    def since(self, first: int) -> tuple[RoundEntry, ...]:
        """Return the counted rounds from this index on; superseded rounds do not count."""
        return tuple(entry for entry in self.rounds[first:] if entry.counted)

    def spent(self, budget: Allowance, first: int) -> Decimal:
        """Return the sum that the rounds from this index on spent, in the budget's unit.

        Superseded rounds are included, because they cost money too.
        """
        known = (budget.spent(one.usage) for one in self.rounds[first:])
        # An unknown cost counts as the whole budget, because a budget must not be exceeded unnoticed.
        return sum((budget.value if one is None else one for one in known), Decimal(0))

    def reruns_of(self, head: str, check: str) -> tuple[RerunEntry, ...]:
        return tuple(entry for entry in self.reruns if entry.head == head and entry.check == check)

    def with_rerun_entry(self, entry: RerunEntry) -> RoundRecord:
        """Return the record with a re-run added, unless the record has it already.

        If the record has too many re-runs, the oldest re-run of the oldest head is dropped.
        """
        if entry in self.reruns:
            return self
        grown = (*self.reruns, entry)
        # Heads are ordered by their first re-run and not by time: the forge's clock can be set back.
        heads = list(dict.fromkeys(one.head for one in grown))
        kept = sorted(grown, key=lambda one: heads.index(one.head))
        return self.model_copy(update={"reruns": tuple(kept[-RERUNS_LIMIT:])})


def covers(kind: RoundKind, head: str, keys: Collection[str], other: RoundCause) -> bool:
    """Whether a round of this kind, with this head and these keys, answers the other cause completely."""
    # A remark stays open after a push, but a failed check or a conflict is about one head.
    same_head = kind is RoundKind.REVIEW or head == other.head
    return kind is other.kind and same_head and set(other.keys) <= set(keys)


def entry_of(result: RoundResult, usage: Usage | None = None) -> RoundEntry:
    """Return the record's entry for a round that ended, with the usage of its attempts."""
    return RoundEntry(**vars(ended_round(result)), **spending(usage))


def ended_round(result: RoundResult) -> EndedRound:
    """Convert the result of a round to the form that is stored."""
    cause = result.cause
    return EndedRound(
        kind=cause.kind,
        identity=identity_hash(cause.identity),
        keys=cause.keys,
        at=result.at,
        end=result.end,
        before=cause.head,
        after=result.head_after,
        seen=cause.seen,
        acts=cause.acts,
        errors=cause.errors[:IDS_LIMIT],
        patch=result.patch or None,
        reverse=result.reverse or None,
    )


def spending(usage: Usage | None) -> dict[str, Any]:
    """Return an entry's fields `tokens` and `cost` for a usage; no fields if the usage is not known."""
    return {} if usage is None else {"tokens": usage.input_tokens + usage.output_tokens, "cost": usage.cost}


def with_entry(record: RoundRecord, entry: RoundEntry) -> RoundRecord:
    """Return the record with a round added, unless the record has it already.

    If the record then has no room for a further round, it is marked as full, and the oldest rounds that
    exceed the limit are dropped.
    """
    if any(known.identity == entry.identity for known in record.rounds):
        return record
    grown = record.model_copy(update={"rounds": (*record.rounds, entry)})
    full = record.full or len(grown.rounds) >= ROUNDS_LIMIT or len(grown.to_json()) > RECORD_LIMIT
    rounds = grown.rounds[-ROUNDS_LIMIT:]
    kept = grown.model_copy(update={"rounds": rounds, "full": full})
    while len(kept.rounds) > 1 and len(kept.to_json()) > _READ_LIMIT:
        kept = kept.model_copy(update={"rounds": kept.rounds[1:]})
    return kept


def with_superseded(record: RoundRecord, identity: str) -> RoundRecord:
    """Return the record with the cause of a round that was superseded before it began.

    Args:
        identity: the hash of the cause's identity.
    """
    if identity in record.superseded:
        return record
    return record.model_copy(update={"superseded": (*record.superseded, identity)[-SUPERSEDED_LIMIT:]})


def with_reruns(record: RoundRecord, entries: Iterable[RerunEntry]) -> RoundRecord:
    """Return the record with several re-runs added."""
    for entry in entries:
        record = record.with_rerun_entry(entry)
    return record


def read_record(text: str) -> RoundRecord:
    """Read a record. If the text is broken, return an empty record with the attribute `problem`.

    An empty record does not repeat rounds on Kubernetes: the name of a round follows from its cause, so the
    API server refuses a second one.
    """
    if not text:
        return RoundRecord()
    if len(text) > _READ_LIMIT:
        return RoundRecord(problem=f"it has more than {_READ_LIMIT} characters")
    try:
        return RoundRecord.model_validate_json(text)
    except ValidationError as error:
        return RoundRecord(problem=first_problem(error)[:300])


def stored_record(value: Any) -> Any:
    """Read the record within a stored state. A broken record leaves the rest of the state readable."""
    if not isinstance(value, dict):
        return value
    return read_record(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def answer_mark(ids: Iterable[str]) -> str:
    """Return the hidden first line of our reply, which names the remarks that the reply answers.

    The line still says what was answered after somebody has deleted our comment with the record.
    """
    # The mark stands at the beginning, because a snapshot cuts the end of a long reply.
    return f"{_MARK}{' '.join(sorted(ids))} -->"


def marked_answers(bodies: Collection[str]) -> frozenset[str]:
    """Return the ids of the remarks that our replies answer.

    Args:
        bodies: the texts of our own remarks alone, because other accounts can write such a line too.
    """
    found = (_ANSWERS.match(body.lstrip()) for body in bodies)
    return frozenset(one for match in found if match for one in match[1].split())

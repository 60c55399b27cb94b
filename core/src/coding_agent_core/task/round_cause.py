"""The causes of rounds, the other results of `open_work`, and the policy of rounds. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from coding_agent_core.task.model import identity_hash
from coding_agent_core.task.usage import Allowance

OWN_STATUS = "coding-agent"
"""The commit status that follows our own tasks. It is never a check that a round has to fix."""
IDS_LIMIT = 30
"""Maximum number of remarks or failed checks of one round. The rest are the cause of the next round."""
CHARACTERS_LIMIT = 60_000
"""Maximum number of characters of the remarks of one round. The rest are the cause of the next round."""
PERMISSIONS_LIMIT = 60
"""Maximum number of permissions that one scan of a change reads, and a round besides those of its cause."""

STILL_WRITING = "Somebody has just written, and may write more."
"""Why a review waits for a while."""

MayWrite = Callable[[str], bool | None]
"""Whether the account with this login may push to the repository; `None` if the forge was not asked yet."""


class RoundKind(StrEnum):
    """The kind of a round's cause. If several kinds are due, the first one in this order starts first."""

    CONFLICT = "conflict"
    """The base does not merge. This comes first: checks of a head that does not merge mean nothing, and
    GitHub does not even run them."""
    REVIEW = "review"
    CHECKS = "checks"


def digest(text: str) -> str:
    """Return a short hash (48 bits) that identifies a check or an error within a change's record."""
    # A forge's text can contain a lone surrogate, which UTF-8 cannot encode.
    return identity_hash(text.encode(errors="replace").decode())[:12]


@dataclass(frozen=True)
class RoundCause:
    """The cause of a round.

    Attributes:
        ids: sorted. Review: the ids of remarks (`t` and the number for a thread, `r` for a review's text, `c`
            for a plain comment). Checks: the names of the failed checks. Conflict: the base commit.
        head: the head commit that the round starts from. The push has a lease on it.
        again: how many rounds with the same cause were superseded by a person's push.
        number: which round of its kind this is since the last act of a person that starts the count anew,
            from 1.
        limit: how many rounds of its kind there may be.
        seen: the time of the newest act that the snapshot shows, by the forge's clock; if remarks are left to
            the next round, a time before the oldest one of them.
        acts: the keys of the acts of people that the snapshot shows and no earlier round has read. Acts that
            no round has read start the count anew.
        errors: fingerprints of the failed checks' errors; empty if the errors of a check are not known.
    """

    kind: RoundKind
    ids: tuple[str, ...]
    head: str
    again: int = 0
    number: int = 1
    limit: int = 1
    seen: datetime | None = None
    acts: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()

    @property
    def keys(self) -> tuple[str, ...]:
        """The ids as the record keeps them: names of checks can be long, so they are hashed."""
        return tuple(map(digest, self.ids)) if self.kind is RoundKind.CHECKS else self.ids

    @property
    def identity(self) -> str:
        """The string that identifies the cause. A cause starts no second round.

        Remarks are the same on each head, but a failed check or a conflict of another head is another cause.
        The string is JSON, because names of checks can contain any separator.
        """
        head = "" if self.kind is RoundKind.REVIEW else self.head
        return json.dumps([self.kind, head, *self.ids, self.again], separators=(",", ":"))

    @property
    def name_part(self) -> str:
        """The part of the round's name that follows from the cause's identity, as part of an RFC 1123 label.

        It has at most 19 characters. The API server refuses a second round with this name.
        """
        return f"{self.kind}-{identity_hash(self.identity)[:10]}"

    @property
    def count(self) -> str:
        """The number of the round and the limit, for people: `2 of 3`."""
        return f"round {self.number} of {self.limit}"


@dataclass(frozen=True)
class Waiting:
    """A cause that is not due yet.

    Attributes:
        until: when to decide again at the latest, by the forge's clock; `None` if only an event ends it.
        why: a sentence for people; empty if it would appear after each push, for a moment.
    """

    kind: RoundKind
    until: datetime | None
    why: str


class StopReason(StrEnum):
    NOT_OURS = "NotOurs"
    MERGED = "Merged"
    CLOSED = "Closed"
    HANDS_OFF = "HandsOff"
    TOO_OLD = "TooOld"
    RECORD_FULL = "RecordFull"
    UNDONE = "Undone"
    """The last round took back what the round before did."""
    BOUND = "Bound"
    NO_PROGRESS = "NoProgress"
    NOTHING_PUSHED = "NothingPushed"
    """A round for the same cause changed nothing."""
    RED_ON_BASE = "RedOnBase"
    INFRASTRUCTURE = "Infrastructure"
    FLAKY = "Flaky"
    SUPERSEDED = "Superseded"


@dataclass(frozen=True)
class Stop:
    """The decision that no round starts.

    Attributes:
        kind: the kind of rounds that ended; `None` for all.
        sentence: for people on the change. It can contain names of checks, which are foreign text.
    """

    reason: StopReason
    sentence: str
    kind: RoundKind | None = None


@dataclass(frozen=True)
class Rerun:
    """The decision to ask the forge to run a check again, which needs no round.

    Attributes:
        run: the id of the run that ended (`CheckResult.id`).
        check: the key of the check in the record.
    """

    run: str
    check: str
    name: str
    head: str
    why: str


@dataclass(frozen=True)
class Work:
    """The open work on a change.

    Attributes:
        due: the causes that are due. Only the first one starts, because what it pushes changes the others.
        reruns: the checks to run again now; each has to be recorded (`with_reruns`).
        left: what the next round may spend of the change's budget; `None` if there is no budget.
        notes: sentences for people about what no round can fix, such as a check that hangs.
        ask: the logins of accounts whose permission decides. While there are any, nothing is due: ask the
            forge, and decide again.
        ready: whether to mark the change, which is our draft, as ready for review.
    """

    due: tuple[RoundCause, ...] = ()
    waiting: tuple[Waiting, ...] = ()
    stops: tuple[Stop, ...] = ()
    reruns: tuple[Rerun, ...] = ()
    notes: tuple[str, ...] = ()
    ask: tuple[str, ...] = ()
    left: Allowance | None = None
    ready: bool = False

    @property
    def decide_again(self) -> datetime | None:
        """When to decide again at the latest, by the forge's clock; `None` if only an event can change it."""
        return min((one.until for one in self.waiting if one.until is not None), default=None)

    def seconds_left(self, now: datetime) -> float | None:
        """Return the seconds until `decide_again`, at least 0; `None` if only an event can change it.

        Args:
            now: the time by the forge's clock.
        """
        again = self.decide_again
        return None if again is None else max(0.0, (again - now).total_seconds())


@dataclass(frozen=True)
class RoundPolicy:
    """The settings of rounds.

    Attributes:
        review_quiet: how long nobody may have written before a round answers.
        checks_quiet: how long all checks must have ended; new ones may appear until then.
        check_hangs_after: how long a check may wait or run before the others no longer wait for it.
        max_age: how old a change may be, from its opening or the last act of a person with write access.
        hands_off_label: a change with this label, in whatever letter case, has no rounds.
        trigger_labels: the labels with which a person asks for work; applying one is a call.
        bots: the logins of bots whose reviews cause rounds. The list is their permission.
        programs: the logins of programs with a person's account, whose acts start no count anew.
        daily_rounds: how many rounds a change may have within 24 hours, whoever asks for more.
        approvals_count: whether the text of an approving review causes a round; its threads always do.
        resolve_threads: whether a round resolves the threads for which it has changed something.
        budget: what all rounds of a change may spend until a person asks for more; `None`: no limit.
        draft: whether our changes are drafts until their checks have passed.
    """

    check_rounds: int = 3
    review_rounds: int = 5
    conflict_rounds: int = 2
    review_quiet: timedelta = timedelta(seconds=60)
    checks_quiet: timedelta = timedelta(seconds=30)
    check_hangs_after: timedelta = timedelta(hours=2)
    max_age: timedelta = timedelta(days=30)
    hands_off_label: str = "coding agent hands off"
    trigger_labels: frozenset[str] = frozenset()
    bots: frozenset[str] = frozenset()
    programs: frozenset[str] = frozenset()
    daily_rounds: int = 20
    approvals_count: bool = False
    resolve_threads: bool = False
    budget: Allowance | None = None
    draft: bool = False

    def limit(self, kind: RoundKind) -> int:
        match kind:
            case RoundKind.CONFLICT:
                return self.conflict_rounds
            case RoundKind.REVIEW:
                return self.review_rounds
            case RoundKind.CHECKS:
                return self.check_rounds


def named(names: Iterable[str]) -> str:
    """Return names as a phrase: `a`, `a and b`, `a, b and 3 more`. Names are foreign text."""
    known = list(dict.fromkeys(names))
    if len(known) > 4:
        known = [*known[:3], f"{len(known) - 3} more"]
    return " and ".join(filter(None, (", ".join(known[:-1]), *known[-1:])))

"""Selects the remarks that a round has to answer, and the acts that start the count of rounds anew. Pure.

Our own account never counts; it is recognized by its id. A bot counts only if the policy names it, and a
person only with write access. Answered remarks are recognized by their ids and never by a time: a remark can
become visible late, and a remark that arrives while a round writes its replies is older than the replies.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from coding_agent_core.forge.changes import (
    Actor,
    ActorKind,
    ChangeEvent,
    ChangeEventKind,
    ChangeSnapshot,
    Remark,
    ReviewVerdict,
    SubmittedReview,
)
from coding_agent_core.platforms.registry import FACTS
from coding_agent_core.rounds.mentions import mentions
from coding_agent_core.task.commands import command_in
from coding_agent_core.task.model import CommandName
from coding_agent_core.task.round_cause import (
    CHARACTERS_LIMIT,
    IDS_LIMIT,
    MayWrite,
    RoundKind,
    RoundPolicy,
    digest,
)
from coding_agent_core.task.round_record import RoundRecord, marked_answers

_COMMANDS = (CommandName.RETRY, CommandName.RUN)
"""The commands that ask for work. `/cancel` does not."""


@dataclass
class WriteAccess:
    """The rules about whose remarks and acts count, for one decision.

    Attributes:
        unknown: the accounts whose permission the forge has to be asked for, by login.
    """

    own: Actor
    policy: RoundPolicy
    may_write: MayWrite
    unknown: dict[str, Actor] = field(default_factory=dict)

    def is_ours(self, actor: Actor | None) -> bool:
        return actor is not None and bool(self.own.id) and actor.id == self.own.id

    def is_bot(self, actor: Actor) -> bool:
        return actor.kind is ActorKind.BOT or is_one_of(actor.login, self.policy.bots)

    def is_program(self, actor: Actor) -> bool:
        """Whether the actor is a bot, or a program with a person's account. Its acts start no count anew."""
        return self.is_bot(actor) or is_one_of(actor.login, self.policy.programs)

    def is_person_with_access(self, actor: Actor | None) -> bool | None:
        """Whether the actor is a person with write access; `None` if the forge has to be asked."""
        if actor is None or self.is_ours(actor) or self.is_bot(actor):
            return False
        allowed = self.may_write(actor.login)
        if allowed is None:
            self.unknown[actor.login] = actor
        return allowed

    @property
    def ask(self) -> tuple[str, ...]:
        """The logins whose permission is not known, likely members of the repository first."""
        return tuple(sorted(self.unknown, key=lambda login: (self.unknown[login].member is not True, login)))

    def counts(self, actor: Actor) -> bool | None:
        """Whether reviews by the actor cause rounds; `None` if the forge has to be asked."""
        if not self.is_ours(actor) and is_one_of(actor.login, self.policy.bots):
            return True
        return self.is_person_with_access(actor)


def is_one_of(login: str, logins: Collection[str]) -> bool:
    return login.casefold() in {one.casefold() for one in logins}


@dataclass(frozen=True)
class PendingRemark:
    """A remark that no round has read.

    Attributes:
        at: when others could first read it; `None` if the forge does not say so.
        length: the number of its characters.
        by_bot: whether a bot wrote it.
    """

    id: str
    at: datetime | None
    length: int
    by_bot: bool


def pending_remarks(
    snapshot: ChangeSnapshot, record: RoundRecord, policy: RoundPolicy, access: WriteAccess
) -> list[PendingRemark]:
    """Return the remarks that a round has to answer, the oldest first.

    If the permission of an author is not known, the remark is left out and `access` has the login.
    """
    # A round that was killed may have answered without recording it; its replies name what they answer.
    settled = record.settled | marked_answers(_own_bodies(snapshot, access))
    candidates = [
        *_in_threads(snapshot, record, access),
        *_in_reviews(snapshot, policy, access),
        *_in_comments(snapshot, record, access),
    ]
    pending = [
        PendingRemark(one.key, one.at, len(one.body), access.is_bot(one.author))
        for one in candidates
        if one.key not in settled
        and (access.is_person_with_access(one.author) if one.is_mention else access.counts(one.author))
    ]
    return sorted(pending, key=lambda one: (one.at or snapshot.created_at, one.id))


def readable(pending: Sequence[PendingRemark]) -> tuple[str, ...]:
    """Return the ids of the remarks that one round reads; the next round reads the others.

    People come before bots. A remark that is too long for the rest of the prompt is skipped, and shorter
    ones after it are still read. The skipped remark comes first in the next round, because it is then the
    oldest. A single remark always fits (`BODY_LIMIT`).

    Args:
        pending: the oldest is first.
    """
    # The model sees exactly these remarks in full, so a round answers and records no remark that it cut.
    chosen, room = list[str](), CHARACTERS_LIMIT
    for one in sorted(pending, key=lambda one: one.by_bot):
        if len(chosen) < IDS_LIMIT and one.length <= room:
            chosen.append(one.id)
            room -= one.length
    return tuple(sorted(chosen))


@dataclass(frozen=True)
class _Candidate:
    """A remark that may ask for work.

    Attributes:
        is_mention: whether only a mention makes it ask for work; then it counts only from a person.
    """

    key: str
    at: datetime | None
    author: Actor
    body: str
    is_mention: bool


def _own_bodies(snapshot: ChangeSnapshot, access: WriteAccess) -> list[str]:
    remarks = [*snapshot.comments, *(one for thread in snapshot.threads for one in thread.remarks)]
    return [remark.body for remark in remarks if access.is_ours(remark.author)]


def _in_threads(snapshot: ChangeSnapshot, record: RoundRecord, access: WriteAccess) -> Iterator[_Candidate]:
    """Yield the remarks in threads that nobody has resolved.

    A thread is outdated if its lines were changed later. Whoever changed them has normally seen the remarks,
    so these do not count. A remark in an outdated thread counts if it mentions us. It also counts, with all
    later ones, if it answers our reply, or if our account made the first push after it, without having read
    the remark.
    """
    replaced = snapshot.replaced_by_us | {entry.before for entry in record.rounds if entry.pushed}
    pushes = [event for event in snapshot.events if event.kind is ChangeEventKind.PUSHED]
    for thread in snapshot.threads:
        # Whoever resolves a thread says that nothing is left to do in it.
        if thread.resolved:
            continue
        current = not thread.outdated
        for remark in thread.remarks:
            if access.is_ours(remark.author):
                current = True  # what comes after it answers us
                continue
            current = current or remark.commit in replaced or _replaced_by_us(remark, pushes, access)
            if current or mentions(remark.body, access.own.login):
                key, at = f"t{remark.id}", remark.published_at
                yield _Candidate(key, at, remark.author, remark.body, is_mention=not current)


def _replaced_by_us(remark: Remark, pushes: Sequence[ChangeEvent], access: WriteAccess) -> bool:
    """Whether our account made the first push after a remark. A forge without push events gives `False`."""

    def came_later(event: ChangeEvent) -> bool:
        if event.number is not None:
            return event.number > int(remark.id)
        return event.at >= remark.published_at

    first = min(filter(came_later, pushes), key=lambda event: (event.number or 0, event.at), default=None)
    return first is not None and access.is_ours(first.actor)


def _in_reviews(snapshot: ChangeSnapshot, policy: RoundPolicy, access: WriteAccess) -> Iterator[_Candidate]:
    approved = {
        review.author.id: place
        for place, review in enumerate(snapshot.reviews)
        if review.verdict is ReviewVerdict.APPROVED
    }
    for place, review in enumerate(snapshot.reviews):
        if access.is_ours(review.author) or not review.body.strip():
            continue
        approved_later = approved.get(review.author.id, -1) > place
        asks = _asks(review, policy, approved_later=approved_later)
        if asks or mentions(review.body, access.own.login):
            key, at = f"r{review.id}", review.submitted_at
            yield _Candidate(key, at, review.author, review.body, is_mention=not asks)


def _asks(review: SubmittedReview, policy: RoundPolicy, *, approved_later: bool) -> bool:
    """Whether a review's text asks for work even without a mention.

    Args:
        approved_later: whether its author has approved the change after the review.
    """
    if review.verdict is ReviewVerdict.APPROVED:
        return policy.approvals_count
    return review.verdict is not ReviewVerdict.DISMISSED and not approved_later


def _in_comments(snapshot: ChangeSnapshot, record: RoundRecord, access: WriteAccess) -> Iterator[_Candidate]:
    """Yield plain comments with a mention, and those that belong to a review.

    GitLab stores the text of a review as a plain comment and does not say to which review it belongs. So all
    comments of a reviewer who requests changes count as the review's text if no review round has read them,
    or if one owes them a reply.
    """
    requesting = {
        review.author.id
        for review in snapshot.reviews
        if review.verdict is ReviewVerdict.CHANGES_REQUESTED and review.submitted_at is None
    } - {""}
    rounds = [entry for entry in record.rounds if entry.kind is RoundKind.REVIEW and entry.counted]
    read_until = max(filter(None, (entry.seen for entry in rounds)), default=None)
    # After the forge's clock was set back, a new comment has an older time, but still a higher number.
    numbers = (key[1:] for entry in rounds for key in entry.keys)
    newest, owed = max((int(number) for number in numbers if number.isdecimal()), default=0), record.owed
    # Our request for another review takes back the request for changes on GitLab. A comment that was written
    # before our request is still the text of a review.
    taken_back = _taken_back(snapshot, access)
    for comment in snapshot.comments:
        if access.is_ours(comment.author) or _is_command(comment):
            continue
        key, author = f"c{comment.id}", comment.author.id
        number = int(comment.id) if comment.id.isdecimal() else 0
        of_review = (author in requesting or number < taken_back.get(author, 0)) and (
            read_until is None or comment.published_at > read_until or number > newest or key in owed
        )
        if of_review or mentions(comment.body, access.own.login):
            at = comment.published_at
            yield _Candidate(key, at, comment.author, comment.body, is_mention=not of_review)


def _taken_back(snapshot: ChangeSnapshot, access: WriteAccess) -> dict[str, int]:
    """Return the numbers of those requests of ours for a review that took back a request for changes.

    A person can request changes just before we ask for a review, and then no round has read the request. Only
    GitLab takes it back.

    Returns:
        The number of the event by the reviewer's id.
    """
    numbered = [(event.number, event) for event in snapshot.events if event.number is not None]
    requesting, taken_back = dict[str, str](), dict[str, int]()
    for number, event in sorted(numbered, key=lambda entry: entry[0]):
        actor = event.actor
        match event.kind:
            case ChangeEventKind.CHANGES_REQUESTED if actor is not None:
                requesting[actor.login] = actor.id
            case ChangeEventKind.APPROVED if actor is not None:
                requesting.pop(actor.login, None)
                taken_back.pop(actor.id, None)
            case ChangeEventKind.REVIEW_REQUESTED:
                reviewer = requesting.pop(event.reviewer, "")
                if reviewer and access.is_ours(actor):
                    taken_back[reviewer] = number
    return taken_back


def _is_command(comment: Remark) -> bool:
    return command_in(comment.body, list(CommandName)) is not None


@dataclass(frozen=True)
class Activity:
    """The acts of people on a change, and the rounds that were the first to read them.

    The count of rounds starts with the first round that has read the newest act of a person with write
    access. The keys of acts say what a round has read. Times do not, because a forge's clock can be set back.

    Attributes:
        called: the index of the first round in the record that has read the newest call; the number of rounds
            if none has read it, and 0 if there is no call. A call is a mention, a command, a label, a push to
            the branch, or a reopened change.
        acted: the index of the first round that has read the newest act: a call, a remark or a review.
        last: when a person with write access last acted within `max_age`, by the forge's clock; `None` if
            nobody did, and for a change younger than `max_age`, where it is not needed.
        seen: the newest act in the snapshot by anybody else than us, whether or not it counts.
        unread: the keys of the acts that no round has read.
    """

    called: int
    acted: int
    last: datetime | None
    seen: datetime | None
    unread: tuple[str, ...]

    def first_round(self, kind: RoundKind) -> int:
        """Return the index in the record from which rounds of this kind are counted."""
        # A review starts the counts of checks and conflicts anew, but not the count of reviews, which would
        # otherwise have no limit.
        return self.called if kind is RoundKind.REVIEW else self.acted


@dataclass(frozen=True)
class _Event:
    """An act of another account.

    Attributes:
        key: identifies the act within the change.
    """

    key: str
    at: datetime
    actor: Actor
    is_call: bool


def acts_of(
    snapshot: ChangeSnapshot, record: RoundRecord, policy: RoundPolicy, access: WriteAccess, now: datetime
) -> Activity:
    """Return the activity of people on a change.

    Acts that decide nothing are left out, to save requests for the permissions of their authors.
    """
    everybodys = list(_acts(snapshot, record, policy, access))
    acts = [act for act in everybodys if not access.is_program(act.actor)]
    readers, none = record.readers, len(record.rounds)
    unread = [act for act in acts if act.key not in readers]
    if len(unread) > IDS_LIMIT:  # first come those that may start a count anew; the others are read later
        unread.sort(key=lambda act: (access.may_write(act.actor.login) is True, act.at), reverse=True)

    def first_reader(act: _Event) -> int:
        return readers.get(act.key, none)

    def first_round(*, calls_only: bool) -> int:
        for act in sorted(acts, key=first_reader, reverse=True):
            if (place := first_reader(act)) == 0:
                return 0  # an act that all rounds have read starts no count anew, whoever did it
            if (act.is_call or not calls_only) and access.is_person_with_access(act.actor):
                return place
        return 0

    # An act after `now` is from before the forge's clock was set back, so its time says nothing.
    known = sorted((act for act in acts if act.at <= now), key=lambda act: act.at, reverse=True)
    is_old = now - snapshot.created_at >= policy.max_age
    recent = (act for act in known if is_old and act.at > now - policy.max_age)
    return Activity(
        called=first_round(calls_only=True),
        acted=first_round(calls_only=False),
        last=next((act.at for act in recent if access.is_person_with_access(act.actor)), None),
        seen=max((act.at for act in everybodys if act.at <= now), default=None),
        unread=tuple(act.key for act in unread[:IDS_LIMIT]),
    )


def _acts(
    snapshot: ChangeSnapshot, record: RoundRecord, policy: RoundPolicy, access: WriteAccess
) -> Iterator[_Event]:
    """Yield each act of another account than ours."""
    login = access.own.login
    remarks = [("t", one) for thread in snapshot.threads for one in thread.remarks]
    remarks += [("c", one) for one in snapshot.comments]
    for kind, remark in remarks:
        if not access.is_ours(remark.author):
            is_call = mentions(remark.body, login) or command_in(remark.body, _COMMANDS) is not None
            yield _Event(f"{kind}{remark.id}", remark.published_at, remark.author, is_call)
    for review in snapshot.reviews:
        if not access.is_ours(review.author) and review.submitted_at is not None:
            is_call = mentions(review.body, login)
            yield _Event(f"r{review.id}", review.submitted_at, review.author, is_call)
    our_heads = {entry.after for entry in record.rounds if entry.pushed}
    for event in snapshot.events:
        if event.actor is None or access.is_ours(event.actor):
            continue
        calls = _is_call(event, our_heads, policy, FACTS[snapshot.item.platform].label_key)
        if calls is not None:
            what = f"{event.kind} {event.label} {event.commit} {event.actor.id} {event.at.isoformat()}"
            yield _Event(f"e{digest(what)}", event.at, event.actor, calls)


def authors_of(
    keys: Collection[str], snapshot: ChangeSnapshot, record: RoundRecord, policy: RoundPolicy
) -> frozenset[str]:
    """Return the logins of the people who wrote these remarks or did these acts.

    Args:
        keys: the ids of remarks and the keys of acts from a cause.
    """
    access = WriteAccess(snapshot.own, policy, lambda _: None)
    acts = (act for act in _acts(snapshot, record, policy, access) if act.key in keys)
    return frozenset(act.actor.login for act in acts if not access.is_bot(act.actor))


def _is_call(
    event: ChangeEvent, our_heads: Collection[str], policy: RoundPolicy, label_key: Callable[[str], str]
) -> bool | None:
    """Whether an event is a call; `None` if the event is not an act that counts."""
    match event.kind:
        case ChangeEventKind.PUSHED:
            is_call = event.commit not in our_heads
        case ChangeEventKind.LABELED:
            is_call = label_key(event.label) in set(map(label_key, policy.trigger_labels))
        case ChangeEventKind.UNLABELED:
            is_call = event.label.casefold() == policy.hands_off_label.casefold()
        case ChangeEventKind.REOPENED:
            is_call = True
        case ChangeEventKind.APPROVED | ChangeEventKind.CHANGES_REQUESTED:
            return False
        case ChangeEventKind.DRAFTED | ChangeEventKind.READY | ChangeEventKind.REVIEW_REQUESTED:
            return None
    return is_call or None

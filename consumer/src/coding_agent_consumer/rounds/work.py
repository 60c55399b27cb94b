"""One round on a change of ours: the work that is due at its start, its early end, and its replies.

The rules are in `coding_agent_core.rounds`. A scan has created the round, but its snapshot may be old. So the
round reads the change again, decides again, and works on what is due now.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import partial

from coding_agent_core.errors import ForgeError
from coding_agent_core.forge.changes import ActorKind, ChangeSnapshot, CheckKind, CheckResult, ReviewThread
from coding_agent_core.forge.values import CHECKS_LIMIT, CommitIdentity, ItemDetails, Permission
from coding_agent_core.rounds.checks import diagnose, fingerprints
from coding_agent_core.rounds.decide import interruption, open_work
from coding_agent_core.rounds.reruns import RerunResult, run_again
from coding_agent_core.rounds.review import WriteAccess, authors_of, pending_remarks
from coding_agent_core.task.attempts import Outcome
from coding_agent_core.task.model import Item, RoundTrigger
from coding_agent_core.task.reasons import Reason
from coding_agent_core.task.round_cause import (
    IDS_LIMIT,
    PERMISSIONS_LIMIT,
    RoundCause,
    RoundKind,
    RoundPolicy,
    StopReason,
    Work,
)
from coding_agent_core.task.round_record import EndedRound, RoundEnd, RoundRecord, RoundResult, ended_round
from coding_agent_core.task.round_report import REPORTED_RERUNS, RoundReport, cause_of, report_of_round
from coding_agent_core.task.usage import Allowance, Usage
from coding_agent_forges.rest.forge import Forge

from coding_agent_consumer.item.background import InstructionFile
from coding_agent_consumer.item.forge_tasks import remembered
from coding_agent_consumer.item.push_check import RoundEndedError
from coding_agent_consumer.repository.clone import BareClone, PushCheck
from coding_agent_consumer.repository.git_errors import GitFailedError
from coding_agent_consumer.repository.work_mark import WorkMark, outcome_of
from coding_agent_consumer.rounds.check_errors import errors_of
from coding_agent_consumer.rounds.prompt import round_prompt
from coding_agent_consumer.rounds.replies import (
    Reply,
    RoundRemarks,
    did,
    replies_to,
    reply_text,
    reviewers_of,
    without_ids,
    written,
)
from coding_agent_consumer.rounds.trailer import pushed_round, told_of

_logger = logging.getLogger("coding_agent.attempt")
_MOST_COMMITS = 100
"""The work of an earlier attempt is looked for in this many commits."""

Deliver = Callable[[Callable[[], Awaitable[None]]], Awaitable[None]]
"""Does something after the work, and again while the forge is not available."""


@dataclass
class RoundWork:
    """One round, from its decision to its report; `begin` makes it.

    Attributes:
        snapshot: the change when the round started, with what the logs say in `CheckResult.errors`.
        cause: what the round works on; if nothing is due, what it was created for.
        over: how the attempt ends, if it ends without a model; `None` if there is work.
        access: whether these logins belong to people with write access.
        remarks: what people wrote, and which of it the round has read and answered.
        logs: the ends of the logs of the failed checks, by the id of the check's run.
        head: the commit that the branch must have: the round's start, or what it has pushed.
        asked: the checks that the round asked to run again.
        left: what the round may spend of the change's budget; `None` if there is none.

    An attempt can be killed after its push and before its report. So the commit says what it worked on, and
    the next attempt finds it (`resumed`): it writes the replies that are missing, and asks no model. If there
    was nothing to push, the replies say what they answer.
    """

    forge: Forge
    item: Item
    policy: RoundPolicy
    trigger: RoundTrigger
    record: RoundRecord
    snapshot: ChangeSnapshot
    cause: RoundCause
    over: Outcome | None = None
    access: dict[str, bool] = field(default_factory=dict)
    remarks: RoundRemarks = field(default_factory=RoundRemarks)
    logs: dict[str, str] = field(default_factory=dict)
    end: RoundEnd = RoundEnd.SUPERSEDED
    head: str = ""
    asked: RerunResult = field(default_factory=RerunResult)
    left: Allowance | None = None
    _earlier: EndedRound | None = None
    """What an earlier attempt of the round worked on and has pushed."""
    _has_begun_to_reply: bool = False
    """Whether a remark that has no reply now is owed one, and not only not answered yet."""
    _now: ChangeSnapshot | None = None
    """The change as it was read for the replies; `None` if it must be read, e.g. after a lost answer."""
    _patch: tuple[str, str] = ("", "")
    _tip: Callable[[], str] = lambda: ""
    """Returns the newest commit of the clone; an empty string while there is no clone."""

    @staticmethod
    async def begin(forge: Forge, item: Item, trigger: RoundTrigger, policy: RoundPolicy) -> RoundWork:
        """Read the change and its record, and decide what is due now.

        If nothing is due, checks that deserve it are run again, and no model is asked.

        Raises:
            ForgeError: the change, the record, or people's permissions could not be read.
            ValueError: the trigger has no cause.
        """
        created = cause_of(trigger)
        state = await remembered(forge, item)
        record = (state.rounds if state is not None else None) or RoundRecord()
        snapshot = await forge.snapshot(item)
        permissions = _Permissions(forge, snapshot)
        # The scan that created the round knew what they may do. Whoever else has written must not use up the
        # requests for them.
        await permissions.read(authors_of({*created.ids, *created.acts}, snapshot, record, policy))
        permissions.left = PERMISSIONS_LIMIT
        work = await _decide(snapshot, record, policy, permissions)
        due, logs = next(iter(work.due), None), dict[str, str]()
        if due is not None and due.kind is RoundKind.CHECKS:
            # Logs cost a request for each check, so they are read only for a round that repairs checks.
            snapshot, logs = await _with_logs(forge, snapshot, record, policy)
            work = await _decide(snapshot, record, policy, permissions)
        if due is not None and due.kind is RoundKind.REVIEW:
            await permissions.read(_authors(snapshot, due.ids))
        access = permissions.known
        pending = pending_remarks(snapshot, record, policy, WriteAccess(snapshot.own, policy, access.get))
        begun = RoundWork(
            forge,
            item,
            policy,
            trigger,
            record,
            snapshot,
            created,
            access=access,
            remarks=RoundRemarks(asked=frozenset(one.id for one in pending)),
            logs=logs,
        )
        begun._work_on(_as_created(work.due[0], created) if work.due else created)
        if work.due:
            begun.end = RoundEnd.FAILED
        elif due is not None and any(stop.reason is StopReason.NO_PROGRESS for stop in work.stops):
            errors = fingerprints(diagnose(snapshot, record, policy, snapshot.read_at).fixable)
            begun.cause, begun.end = replace(due, errors=errors), RoundEnd.NO_PROGRESS
        begun.left = work.left
        begun.head = begun.cause.head
        if not work.due and begun._was_answered():
            message = "An earlier attempt of this round has answered, and had nothing to push."
            begun.over = Outcome(reason=Reason.NOTHING_TO_CHANGE, message=message)
        elif begun.end is not RoundEnd.FAILED:
            reruns = work.reruns[:REPORTED_RERUNS]  # only what is recorded may be asked
            begun.asked = await run_again(forge, item, reruns, snapshot.read_at)
            begun.over = Outcome(reason=Reason.SUPERSEDED, message=begun.asked.sentence or _why_not(work))
        _logger.info("The round at %s: %s", item.display, begun.over.message if begun.over else begun.title)
        return begun

    def _work_on(self, cause: RoundCause) -> None:
        read = frozenset(cause.ids) if cause.kind is RoundKind.REVIEW else frozenset[str]()
        self.cause, self.remarks = cause, replace(self.remarks, read=read)

    def _was_answered(self) -> bool:
        """Whether an earlier attempt has answered, had nothing to push, and was killed before its report.

        Then this round has read what the replies name, and no other round has.
        """
        answered = written(self.snapshot)
        if self.cause.kind is not RoundKind.REVIEW or not answered.issuperset(self.cause.ids):
            return False
        known = {key for entry in self.record.rounds for key in entry.keys}
        self._work_on(replace(self.cause, ids=tuple(sorted(answered - known))))
        self.end = RoundEnd.NO_PUSH
        return True

    @property
    def people(self) -> frozenset[str]:
        """The logins of the people whose remarks count."""
        return frozenset(login for login, allowed in self.access.items() if allowed)

    @property
    def title(self) -> str:
        """The round for people, e.g. `review, round 2 of 5`."""
        return f"{self.cause.kind}, {self.cause.count}"

    @property
    def pushed(self) -> bool:
        return self.head != self.cause.head

    @property
    def moved(self) -> bool:
        """Whether somebody has pushed since the round was created, e.g. an earlier attempt of the round."""
        return self.snapshot.head_commit != self.trigger.head

    @property
    def told(self) -> str:
        """What the mark of the round's commit tells: what the round works on."""
        return told_of(ended_round(self._result(RoundEnd.PUSHED)))

    async def resumed(self, repository: BareClone, mark: WorkMark) -> Outcome | None:
        """Return the outcome of an earlier attempt of this round that has pushed; `None` if there is none.

        Somebody else may have pushed since then.
        """
        for commit in await repository.newest(_MOST_COMMITS):
            if commit.id == self.trigger.head:
                break
            ends = (pushed_round(commit.id, told) for told, _ in mark.told_in(commit))
            earlier = next(filter(None, ends), None)
            if earlier is not None:
                self._earlier, self.head = earlier, commit.id
                # The names of checks are not known, but only their hashes. Nothing answers them.
                created = cause_of(self.trigger)
                self._work_on(replace(created, kind=earlier.kind, ids=earlier.keys, head=earlier.before))
                return outcome_of(commit)
        return None

    async def check(self) -> None:
        """Return if the round may go on.

        Raises:
            RoundEndedError: it may not; the message says why.
            ForgeError: this is not known.
        """
        now = await self.forge.snapshot(self.item)
        # The answer to our own push can be lost, and the push is then repeated.
        is_ours = now.head_commit == self._tip()
        stop = interruption(now, self.policy, now.head_commit if is_ours else self.head)
        if stop is not None:
            raise RoundEndedError(f"The round ends without a push. {stop.sentence}")

    def push_check(self, push_check: PushCheck) -> PushCheck:
        """Return a check of pushes that also asks whether the round may go on."""

        async def checked(branch: str) -> None:
            await self.check()
            await push_check(branch)

        return checked

    @staticmethod
    def public(summary: str) -> str:
        """Return the agent's summary without the ids of remarks, which mean nothing outside the round."""
        return without_ids(summary)

    async def prepare(self, repository: BareClone, details: ItemDetails, author: CommitIdentity) -> None:
        """Let the work start from the head that the decision knew, with the base merged in for a conflict.

        Raises:
            RoundEndedError: somebody has pushed since the decision, or the base merges.
            Otherwise as `BareClone.fetch` and `BareClone.merge`.
        """
        if repository.tip != self.cause.head:
            raise RoundEndedError("Somebody else has pushed to the branch in the meantime.")
        # Nobody's commit is overwritten: the push succeeds only while the branch is where the decision saw
        # it.
        repository.lease = self.cause.head
        self._tip = lambda: repository.tip
        if self.cause.kind is not RoundKind.CONFLICT:
            return
        base, source = details.base_branch, details.item.repository
        commit = await repository.fetch(partial(self.forge.clone_source, source), base)
        message = f"Merge {base} with conflicts\n"
        if not await repository.merge(commit, message, author):
            raise RoundEndedError(f"The branch `{base}` now merges without a conflict.")

    def prompt(
        self,
        details: ItemDetails,
        conflicts: Sequence[str],
        files: Sequence[InstructionFile],
        recap: str,
        *,
        shows_strangers: bool,
    ) -> str:
        """Return the model's first input: the round's cause and, fenced as data, remarks and logs."""
        return round_prompt(
            self.cause,
            self.snapshot,
            self.record,
            details,
            people=self.people,
            shows_strangers=shows_strangers,
            bots=self.policy.bots,
            logs=self.logs,
            conflicts=conflicts,
            files=files,
            recap=recap,
        )

    async def pushed_by(self, repository: BareClone) -> None:
        """Record what the round has pushed in this attempt, if anything."""
        if self._earlier is None and repository.pushed != self.cause.head:
            self.head = repository.pushed
            try:
                self._patch = await repository.own_patch()
            except GitFailedError as error:  # only the check for work that was undone needs it
                _logger.warning("The round's own change cannot be compared with others: %s", error)

    async def answer(self, worked: Outcome, deliver: Deliver) -> None:
        """Reply to the remarks that the round has read, and ask their authors for another review.

        Replies are looked for before they are written, because an earlier attempt may have written them, or
        an answer of the forge was lost. If the forge refuses a reply, the others are written nevertheless.
        Then the change is read again, because a remark by which the forge knows the thread may be deleted.

        Args:
            worked: how the agent's work ended. Only a finished agent has something to say.
        """
        finished = worked.succeeded or worked.reason is Reason.CANNOT_BE_DONE
        if not finished:
            return
        self.end = RoundEnd.PUSHED if self.pushed else RoundEnd.NO_PUSH
        if self.cause.kind is not RoundKind.REVIEW:
            return
        self._has_begun_to_reply = True
        refused = await self._reply_to(self.remarks.read, worked, deliver)
        if refused:
            await self._reply_to(refused, worked, deliver)
        try:
            await deliver(self._request_review)
        except ForgeError as error:
            _logger.warning("Nobody was asked for another review: %s", error)

    async def _reply_to(self, ids: frozenset[str], worked: Outcome, deliver: Deliver) -> frozenset[str]:
        """Reply to remarks as far as they still exist; return those whose reply the forge has refused."""
        self._now = None
        try:
            await deliver(self._read_replies)
        except ForgeError as error:
            _logger.warning("The change was not read again before the replies: %s", error)
        refused = frozenset[str]()
        for reply in replies_to(self._now or self.snapshot, ids - self.remarks.gone):
            try:
                await deliver(lambda reply=reply: self._reply(reply, worked))  # type: ignore[misc]
            except ForgeError as error:
                _logger.warning("A remark got no reply: %s", error)
                refused |= set(reply.ids)
                continue
            # They count as answered even if the thread cannot be resolved.
            try:
                await deliver(lambda reply=reply: self._resolve(reply, worked))  # type: ignore[misc]
            except ForgeError as error:
                _logger.warning("A thread was not resolved: %s", error)
        return refused

    async def _read_replies(self) -> None:
        self._now = await self.forge.snapshot(self.item)
        self.remarks = self.remarks.seen_in(self._now)

    async def _reply(self, reply: Reply, worked: Outcome) -> None:
        if self._now is None:
            await self._read_replies()
        if not self.remarks.owed.isdisjoint(reply.ids):
            commit = self.head if self.pushed else ""
            body = reply_text(reply, worked.summary or worked.message, commit)
            now, self._now = self._now, None
            if reply.thread is None:
                await self.forge.upsert_comment(self.item, reply.mark, body)
            else:
                await self.forge.reply(self.item, reply.thread, body)
            self._now = now
        self.remarks = replace(self.remarks, replied=self.remarks.replied | set(reply.ids))

    async def _resolve(self, reply: Reply, worked: Outcome) -> None:
        wanted = self.policy.resolve_threads and self.pushed and did(reply, worked.summary or worked.message)
        if reply.thread is None or not wanted:
            return
        snapshot = await self.forge.snapshot(self.item)
        now = next((one for one in snapshot.threads if one.id == reply.thread.id), None)
        # No round reads a resolved thread, so a remark that this one has not read must keep it open.
        if now is not None and not self._unread_in(now):
            await self.forge.resolve(self.item, reply.thread)

    def _unread_in(self, thread: ReviewThread) -> bool:
        """Whether a thread has a remark that the next round may have to read."""
        known = {one.id for before in self.snapshot.threads for one in before.remarks}
        access = WriteAccess(self.snapshot.own, self.policy, self.access.get)
        new = (one.author for one in thread.remarks if one.id not in known)
        return any(f"t{one.id}" in self.remarks.left for one in thread.remarks) or any(
            not access.is_ours(author) and access.counts(author) is not False for author in new
        )

    async def _request_review(self) -> None:
        now = await self.forge.snapshot(self.item)
        logins = reviewers_of(now, self.remarks.read - self.remarks.owed, self.people, self._read_comments())
        if logins:
            await self.forge.request_review(self.item, logins)

    def _read_comments(self) -> frozenset[str]:
        """Return the ids, as in a cause, of the plain comments that the round knew when it decided."""
        if self._earlier is None:
            known = frozenset(f"c{one.id}" for one in self.snapshot.comments)
        else:  # it or an earlier round was the first to read each comment, which is an act
            known = frozenset((*self.record.readers, *self._earlier.acts, *self._earlier.keys))
        return known - self.remarks.left

    def report(self, outcome: Outcome) -> RoundReport:
        """Return what the record keeps of the round.

        A remark that got no reply is owed one. It is left to another attempt, or to the next round.

        Args:
            outcome: how the attempt ended.
        """
        report = self._report(outcome)
        return report.owing(self.remarks.owed) if self._has_begun_to_reply else report

    def _report(self, outcome: Outcome) -> RoundReport:
        if self._earlier is not None:
            return RoundReport(**vars(self._earlier), reruns=tuple(self.asked.entries))
        end = self.end
        if end is RoundEnd.FAILED and outcome.reason is Reason.SUPERSEDED:
            end = RoundEnd.SUPERSEDED
        elif end is RoundEnd.FAILED and outcome.reason in (Reason.CANCELLED, Reason.WITHDRAWN):
            end = RoundEnd.CANCELLED
        return report_of_round(self._result(end), self.asked.entries)

    def _result(self, end: RoundEnd) -> RoundResult:
        patch, reverse = self._patch
        return RoundResult(
            self.cause,
            self.snapshot.read_at,
            end,
            self.head,
            patch=patch,
            reverse=reverse,
        )

    def charge(self, earlier: Usage | None) -> None:
        """Subtract the usage of the round's earlier attempts from the rest of the change's budget.

        The record has a round only once it has ended. If nothing is left, no model is asked.

        Args:
            earlier: `None` if this is not known, which counts as all that was left (docs/decisions/0023).
        """
        if self.left is None:
            return
        spent = self.left.spent(earlier)
        left = Decimal(0) if spent is None else self.left.value - spent
        if left <= 0 and self.left.value > 0 and self.over is None:
            message = "Earlier attempts of this round have spent what was left of the budget of the rounds"
            self.over = Outcome(reason=Reason.BUDGET_EXCEEDED, message=f"{message} ({self.policy.budget}).")
        self.left = self.left.with_value(left)

    def allowance(self, given: Allowance | None) -> Allowance | None:
        """Return the attempt's allowance: the lower of its own and the rest of the change's budget.

        If they have different units, the attempt's own allowance counts, because a ledger has one unit.
        """
        if given is None or self.left is None or given.unit != self.left.unit:
            return given or self.left
        return given.with_value(min(given.value, self.left.value))


@dataclass
class _Permissions:
    """The write permissions of people, as one round reads them.

    Attributes:
        known: whether the account with this login has write access.
        left: the number of people whose permission may still be read; others count as people without access.
    """

    forge: Forge
    snapshot: ChangeSnapshot
    known: dict[str, bool] = field(default_factory=dict)
    left: int = 2 * IDS_LIMIT

    async def read(self, logins: Iterable[str]) -> None:
        for login in logins:
            if login in self.known:
                continue
            self.left -= 1
            self.known[login] = (
                self.left >= 0 and await self.forge.permission(self.snapshot.item, login) >= Permission.WRITE
            )


async def _decide(
    snapshot: ChangeSnapshot, record: RoundRecord, policy: RoundPolicy, permissions: _Permissions
) -> Work:
    """Decide with fresh permissions, which are read as far as they matter."""
    while True:
        work = open_work(snapshot, record, policy, snapshot.read_at, may_write=permissions.known.get)
        if not work.ask:
            return work
        await permissions.read(work.ask)


def _authors(snapshot: ChangeSnapshot, ids: Collection[str]) -> list[str]:
    """Return the logins of the people who wrote in the threads of these remarks."""
    threads = (one for one in snapshot.threads if any(f"t{remark.id}" in ids for remark in one.remarks))
    authors = (remark.author for thread in threads for remark in thread.remarks)
    return sorted(
        {one.login for one in authors if one.kind is ActorKind.PERSON and one.id not in ("", snapshot.own.id)}
    )


def _as_created(due: RoundCause, created: RoundCause) -> RoundCause:
    """Return the due cause, under the round's own name if it is the cause for which it was created.

    The comment may lack rounds that the scan knew when it named this one.
    """
    same = replace(due, again=created.again)
    return same if same.identity == created.identity else due


async def _with_logs(
    forge: Forge, snapshot: ChangeSnapshot, record: RoundRecord, policy: RoundPolicy
) -> tuple[ChangeSnapshot, dict[str, str]]:
    """Return the snapshot with the errors from the logs of the checks to fix, and the ends of these logs."""
    logs: dict[str, str] = {}
    for check in diagnose(snapshot, record, policy, snapshot.read_at).fixable[:CHECKS_LIMIT]:
        if check.kind is CheckKind.JOB and check.id:
            logs[check.id] = await forge.check_log(snapshot.item, check.id)

    def with_errors(check: CheckResult) -> CheckResult:
        log = logs.get(check.id, "")
        return replace(check, errors=errors_of(log)) if log else check

    return replace(snapshot, checks=tuple(map(with_errors, snapshot.checks))), logs


def _why_not(work: Work) -> str:
    """Return why nothing is due, as a sentence for people."""
    sentences = [stop.sentence for stop in work.stops] + [one.why for one in work.waiting]
    return " ".join(sentences[:3]) or "Nothing is left to do on this change."

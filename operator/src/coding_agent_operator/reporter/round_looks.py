"""Looks at the open changes of our account on one forge, and creates their rounds (docs/decisions/0029).

Each look reads all open changes anew, and decides by them and by the record in our comment. Events only cause
a look: they carry no decision, so an event that is lost or doubled changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from coding_agent_core.admission import runs_of
from coding_agent_core.agenttask import ANNOTATION_LOOK, LABEL_REPORTED, LOOK, AgentTask
from coding_agent_core.errors import CodingAgentError
from coding_agent_core.forge.changes import ChangeSnapshot, OpenChanges
from coding_agent_core.forge.pacing import NotYetError
from coding_agent_core.forge.values import MARKER, Permission
from coding_agent_core.platforms import ItemKind
from coding_agent_core.reporting import State, comment, comment_with_rounds, read_state
from coding_agent_core.retry import backoff
from coding_agent_core.round_rules.open_work import open_work
from coding_agent_core.round_rules.reruns import Asked, run_again
from coding_agent_core.rounds.record import RerunEntry, RoundRecord, with_reruns
from coding_agent_core.rounds.trigger import trigger_of
from coding_agent_core.rounds.values import RoundCause, RoundPolicy, Work
from coding_agent_core.settings.rounds import Rounds
from coding_agent_core.tasks import Item, Origin, TaskRequest, Trigger, answered_issue, identity_hash
from prometheus_client import Counter

from coding_agent_operator.reporter.reconcile_item import ForgeContext
from coding_agent_operator.reporter.report import cancellation_cause, report_of, with_round
from coding_agent_operator.reporter.round_notes import notes_of, our_comment, shows

_logger = logging.getLogger("reporter.round_looks")

ROUNDS = Counter("coding_agent_reporter_rounds", "Rounds that were created, by cause.", ["cause"])
LOOKS = Counter(
    "coding_agent_reporter_looks",
    "Looks at the open changes of a forge, by host and result (done, failed).",
    ["host", "result"],
)
_QUIET_S = 5.0
"""Least number of seconds between two looks, because events come in bursts."""
_PERMISSION_S = 600.0
"""Seconds for which looks rely on a permission. When a round starts, permissions are read anew."""
_DECISIONS = 3
"""Maximum number of decisions in one look at a change. A further one is needed if permissions were read."""
_LOGINS = 20
"""Maximum number of permissions that are read for one decision."""
_FAILURES = 3
"""After this many failed changes in a row, the forge or the cluster is the problem, and the look ends."""


@dataclass
class SetAside:
    """A change that could not be handled, so looks leave it out until a monotonic time."""

    failures: int
    until: float


@dataclass
class OurReruns:
    """The checks of a change's head that we asked the forge to run again.

    They are kept until the head changes, because a snapshot can be older than our comment, and a comment that
    could not be written must not make us ask again.

    Attributes:
        shown: whether our comment has all of them.
    """

    asked: Asked
    shown: bool = False


@dataclass
class RoundLooks:
    """Looks at the open changes of one forge.

    Args:
        branch_prefix: the beginning of the agent's branches for issues.
        changed: is called with the hash of a change whose notes have changed.

    Attributes:
        notes: the notes of each open change, by the hash of the item.
    """

    context: ForgeContext
    settings: Rounds
    branch_prefix: str
    changed: Callable[[str], None]
    notes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    _states: dict[str, tuple[str, State | None]] = field(default_factory=dict)
    """The states of long comments, whose end snapshots do not show, with `OurComment.key`."""
    _permissions: dict[tuple[str, str], tuple[float, bool]] = field(default_factory=dict)
    """Until when (monotonic) we rely on what somebody may do, by the repository and the login."""
    _reruns: dict[str, OurReruns] = field(default_factory=dict)
    _aside: dict[str, SetAside] = field(default_factory=dict)
    _asked: dict[str, AgentTask] = field(default_factory=dict)
    """The tasks with an annotation that asks for a look."""
    _wake: asyncio.Event = field(default_factory=asyncio.Event)

    def ask(self, task: AgentTask) -> None:
        """Look soon, because the task has an annotation that asks for it."""
        self._asked[task.name] = task
        self._wake.set()

    def reruns(self, key: str) -> tuple[RerunEntry, ...]:
        """Return what the record of a change has to have, even if its comment does not have it yet.

        Args:
            key: the hash of the item.
        """
        ours = self._reruns.get(key)
        return ours.asked.entries if ours is not None else ()

    async def run(self) -> None:
        """Look regularly, and when somebody asks, until cancelled."""
        failures, host = 0, self.context.forge.host
        while True:
            self._wake.clear()
            asked, self._asked = self._asked, {}
            try:
                wait = await self.look()
                await self._answer(asked.values())
            except Exception as error:
                if isinstance(error, CodingAgentError):
                    _logger.warning("The open changes on %s were not examined: %s", host, error)
                else:
                    _logger.exception("A look at the open changes on %s failed", host)
                self._asked = asked | self._asked
                failures += not isinstance(error, NotYetError)
                LOOKS.labels(host, "failed").inc()
                await asyncio.sleep(self._delay(failures, error))
                continue
            failures = 0
            LOOKS.labels(host, "done").inc()
            quiet = min(_QUIET_S, self.settings.interval)
            await asyncio.sleep(quiet)
            try:
                async with asyncio.timeout(max(0.0, wait - quiet)):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def look(self) -> float:
        """Look at all open changes once; return the seconds until the next look.

        Raises:
            CodingAgentError: the changes could not be listed, or several in a row could not be handled.
        """
        changes = await self.context.forge.open_changes()
        self._forget(changes)
        wait, in_a_row = self.settings.interval, 0
        for snapshot in changes.snapshots:
            key = identity_hash(snapshot.item.identity)
            aside = self._aside.get(key)
            if aside is not None and aside.until > self.context.monotonic():
                continue
            try:
                soonest = await self._look_at(key, snapshot)
            except NotYetError:
                raise
            except Exception as error:
                failures = aside.failures + 1 if aside is not None else 1
                delay = self._delay(failures, error)
                self._aside[key] = SetAside(failures, self.context.monotonic() + delay)
                log = _logger.warning if isinstance(error, CodingAgentError) else _logger.exception
                log("%s is set aside for %.0f s: %s", snapshot.item.display, delay, error)
                in_a_row += 1
                if in_a_row >= _FAILURES:
                    raise
                wait = min(wait, delay)
            else:
                self._aside.pop(key, None)
                in_a_row = 0
                wait = wait if soonest is None else min(wait, soonest)
        return wait

    async def _look_at(self, key: str, snapshot: ChangeSnapshot) -> float | None:
        """Create the round that is due; return in how many seconds time alone makes another one due."""
        item = snapshot.item
        state = await self._state(key, snapshot)
        runs = runs_of(item, await self.context.tasks.runs(item))
        record = (state.rounds if state is not None else None) or RoundRecord()
        for run in runs:
            record = with_round(record, run)
        if any(entry.head != snapshot.head_commit for entry in self.reruns(key)):
            del self._reruns[key]
        record = with_reruns(record, self.reruns(key))
        policy = self.settings.policy(self.context.labels)
        active = any(not run.over for run in runs)
        work = await self._decided(snapshot, record, policy, active=active)
        if work.due:
            await self._create(snapshot, work.due[0], runs)
        elif work.reruns:
            record = await self._run_again(key, snapshot, work, record)
            work = await self._decided(snapshot, record, policy, active=active)
        notes = notes_of(work, policy)
        if self.notes.get(key, ()) != notes:
            self.notes[key] = notes
            self.changed(key)
        if not work.due:
            await self._show(key, snapshot, runs, state, record=record, notes=notes)
        again = work.look_again
        return None if again is None else max(0.0, (again - snapshot.read_at).total_seconds())

    async def _state(self, key: str, snapshot: ChangeSnapshot) -> State | None:
        """Return the state in our comment on a change; it costs a request only if the comment is long."""
        ours = our_comment(snapshot)
        if ours.whole:
            return ours.state
        known = self._states.get(key)
        if known is not None and ours.key and known[0] == ours.key:
            return known[1]
        found = await self.context.forge.find_comment(snapshot.item, MARKER)
        state = None if found is None else read_state(found.body)
        self._states[key] = ours.key, state
        return state

    async def _decided(
        self, snapshot: ChangeSnapshot, record: RoundRecord, policy: RoundPolicy, *, active: bool
    ) -> Work:
        place = snapshot.item.repository_identity

        def may_write(login: str) -> bool | None:
            until, allowed = self._permissions.get((place, login.casefold()), (0.0, None))
            return allowed if until > self.context.monotonic() else None

        work = Work()
        for _ in range(_DECISIONS):
            work = open_work(snapshot, record, policy, snapshot.read_at, may_write=may_write, active=active)
            for login in work.ask[:_LOGINS]:
                permission = await self.context.forge.permission(snapshot.item, login)
                until = self.context.monotonic() + _PERMISSION_S
                self._permissions[place, login.casefold()] = until, permission >= Permission.WRITE
            if not work.ask:
                break
        return work

    async def _run_again(
        self, key: str, snapshot: ChangeSnapshot, work: Work, record: RoundRecord
    ) -> RoundRecord:
        """Ask the forge to run checks again, and return the record with them.

        The forge is asked before the comment has it. If the reporter is killed in between, a check that fails
        once more runs once more.
        """
        asked = await run_again(self.context.forge, snapshot.item, work.reruns, snapshot.read_at)
        if asked.entries:
            self._reruns[key] = OurReruns(Asked((*self.reruns(key), *asked.entries), asked.sentence))
            self.changed(key)
        return with_reruns(record, asked.entries)

    async def _create(self, snapshot: ChangeSnapshot, cause: RoundCause, runs: Sequence[AgentTask]) -> None:
        item = snapshot.item
        number = answered_issue(snapshot.head_branch, self.branch_prefix)
        issue = item.model_copy(update={"kind": ItemKind.ISSUE, "number": number}) if number else None
        before = runs[-1:] or (runs_of(issue, await self.context.tasks.runs(issue))[-1:] if issue else [])
        word, trigger = trigger_of(cause, snapshot.read_at)
        request = TaskRequest(
            item=item,
            # The person who asked for the work that led to the change; their settings apply to rounds too.
            user=before[0].spec.user if before else "",
            title=snapshot.title[:1024],
            url=snapshot.url[:2048],
            trigger=Trigger(origin=Origin.POLL, cause=word, received_at=self.context.clock(), round=trigger),
            answers=issue,
            runner=before[0].spec.runner if before else None,
        )
        submission = await self.context.sink.submit(request)
        if submission.duplicate is not None:
            _logger.info("%s: no %s round: %s", item.display, word, submission.duplicate)
            return
        ROUNDS.labels(word).inc()
        _logger.info("%s: %s for %s is task %s", item.display, cause.count, word, submission.task)

    async def _show(
        self,
        key: str,
        snapshot: ChangeSnapshot,
        runs: Sequence[AgentTask],
        state: State | None,
        *,
        record: RoundRecord,
        notes: tuple[str, ...],
    ) -> None:
        """Show notes and re-runs in a comment that nobody else updates, because its task has ended."""
        if runs and not _is_reported(runs[-1]):
            return  # the report of its end has them
        ours = self._reruns.get(key)
        unshown = ours if ours is not None and not ours.shown else None
        if not runs or state is None or state.uuid != runs[-1].uid:
            if unshown is not None:
                await self._record(key, snapshot, record, unshown.asked.sentence)
                unshown.shown = True
            return
        labels, links = self.context.labels, self.context.links
        earlier = [report_of(run, labels, links).state for run in reversed(runs[:-1])]
        report = report_of(
            runs[-1],
            labels,
            links,
            (*earlier, state),
            cancellation_cause(runs[-1]),
            rounds=record,
            notes=notes,
        )
        text, body = comment(report), our_comment(snapshot).body
        if unshown is not None or (body is not None and not shows(body, text)):
            await self.context.forge.upsert_comment(snapshot.item, MARKER, text)
            self._states.pop(key, None)
        if unshown is not None:
            unshown.shown = True

    async def _record(self, key: str, snapshot: ChangeSnapshot, record: RoundRecord, sentence: str) -> None:
        """Write the record into a comment that shows no run of the change which still exists."""
        found = await self.context.forge.find_comment(snapshot.item, MARKER)
        text = comment_with_rounds(found.body if found else "", record, sentence)
        await self.context.forge.upsert_comment(snapshot.item, MARKER, text, known=found)
        self._states.pop(key, None)

    async def _answer(self, asked: Iterable[AgentTask]) -> None:
        """Remove the annotations that asked for a look. If a task has changed, the watch shows it again."""
        for task in asked:
            patch: dict[str, dict[str, str | None]] = {"annotations": {ANNOTATION_LOOK: None}}
            if task.metadata.labels.get(LABEL_REPORTED) == LOOK:
                patch["labels"] = {LABEL_REPORTED: "true"}
            await self.context.tasks.patch(task, {"metadata": patch})

    def _forget(self, changes: OpenChanges) -> None:
        """Drop what is known about changes that are no longer open."""
        for item, why in changes.unreadable:
            _logger.warning("%s cannot be read: %s", item.display, why)
        now = self.context.monotonic()
        self._permissions = {who: known for who, known in self._permissions.items() if known[0] > now}
        unreadable: list[Item] = [item for item, _ in changes.unreadable]
        items = [*(snapshot.item for snapshot in changes.snapshots), *unreadable]
        there = {identity_hash(item.identity) for item in items}
        for kept in (self.notes, self._states, self._reruns, self._aside):
            for key in kept.keys() - there:
                kept.pop(key, None)

    def _delay(self, failures: int, error: BaseException) -> float:
        reporter = self.context.settings
        asked: float = getattr(error, "retry_after", None) or 0.0
        return max(asked, backoff(max(1, failures), reporter.retry_first, reporter.retry_max))


def _is_reported(task: AgentTask) -> bool:
    return task.metadata.labels.get(LABEL_REPORTED) in ("true", LOOK)

"""Creates the rounds of our open changes on one forge as AgentTasks, and shows why a change has none.

`coding_agent_core.rounds.scan` reads the changes and decides, for Kubernetes and for the consumer's queue.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from coding_agent_core.errors import CodingAgentError, ForgeError, ForgeUnavailableError, NotYetError
from coding_agent_core.forge.changes import ChangeSnapshot
from coding_agent_core.forge.values import MARKER
from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.reporting.comment import (
    State,
    comment,
    comment_with_notes,
    comment_with_rounds,
    has_notes,
    is_same_change,
    summary_of,
)
from coding_agent_core.rounds.notes import as_written, notes_of, our_comment, shows
from coding_agent_core.rounds.reruns import RerunResult, run_again
from coding_agent_core.rounds.scan import ChangeRounds, ChangeScans, ScanTimes, round_request, show_on_issue
from coding_agent_core.runtime.metrics import BACKGROUND_ERRORS, Counter, Gauge
from coding_agent_core.runtime.retry import backoff
from coding_agent_core.settings.rounds import Rounds
from coding_agent_core.task.agenttask import UNREPORTED, AgentTask, Event
from coding_agent_core.task.model import Item, WithdrawalCause, identity_hash, issue_of_branch
from coding_agent_core.task.round_cause import RoundCause, Work
from coding_agent_core.task.round_record import RerunEntry, RoundRecord, with_reruns
from coding_agent_core.task.runs import cancellation, rescanned, runs_of, stored_rescan

from coding_agent_operator.reporter.commit_statuses import foreign_evidence, own_evidence, with_evidence
from coding_agent_operator.reporter.forge_context import ForgeContext
from coding_agent_operator.reporter.report import cancellation_cause, report_of
from coding_agent_operator.reporter.round_plan import has_active_run, known_rounds, plan_scan, runs_to_cancel

_logger = logging.getLogger("reporter.rounds")

ROUNDS = Counter("coding_agent_reporter_rounds", "Rounds that were created, by cause.", ["cause"])
SCANS = Counter(
    "coding_agent_reporter_scans",
    "Scans of the open changes of a forge, by host and result (done, failed).",
    ["host", "result"],
)
LEFT_OUT = Gauge(
    "coding_agent_reporter_changes_set_aside",
    "Open changes that the last scan could not examine, by host. They have no rounds until it can.",
    ["host"],
)
_REWRITES = 5
"""How many times the evidence of a head is set again: a program could set its own after each of ours."""
_QUIET_S = 5.0
"""Least number of seconds between two scans, because events come in bursts."""


@dataclass
class OurReruns:
    """The checks of a change's head commit that we asked the forge to run again.

    They are kept until the head changes, because a snapshot can be older than our comment, and a comment that
    could not be written must not make us ask again.

    Attributes:
        shown: whether our comment lists all of these checks.
    """

    asked: RerunResult
    shown: bool = False


@dataclass
class IssueRounds:
    """The rounds that the comment on an issue must show.

    Attributes:
        issue: the hash of the issue.
        shown: whether the comment shows these rounds already.
    """

    issue: str
    rounds: ChangeRounds
    shown: bool = False


@dataclass
class ReporterScans:
    """Scans the open changes of one forge, and creates the rounds that are due.

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
    _issue_rounds: dict[str, IssueRounds] = field(default_factory=dict)
    """What the comment on the issue of each change has to show, by the hash of the change."""
    _reruns: dict[str, OurReruns] = field(default_factory=dict)
    _rewritten: dict[str, tuple[str, int]] = field(default_factory=dict)
    """How many times the evidence of a head was set again, by the hash of the change."""
    _shown_aside: set[str] = field(default_factory=set)
    """The hashes of the changes whose tasks show that scans leave them out."""
    _asked: dict[str, AgentTask] = field(default_factory=dict)
    """The tasks with an annotation that asks for a scan."""
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    scanned: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once all open changes were scanned, or could not be."""

    def __post_init__(self) -> None:
        policy = self.settings.policy(self.context.labels)
        self._changes = ChangeScans(self.context.forge, policy, self._delay, self.context.monotonic)
        self._times = ScanTimes(self.settings.interval, self.context.monotonic)

    def ask(self, task: AgentTask) -> None:
        """Schedule a scan soon, because an annotation of the task asks for it."""
        rescan, item = stored_rescan(task), _asked_item(task)
        author = rescan.author if rescan is not None else ""
        self._asked[task.name] = task
        self._times.ask(item, is_limited=bool(author) and self._changes.is_stranger(item, author))
        self._wake.set()

    def reruns(self, key: str) -> tuple[RerunEntry, ...]:
        """Return the re-runs of a change's record, including those that its comment does not list yet.

        Args:
            key: the hash of the item.
        """
        ours = self._reruns.get(key)
        return ours.asked.entries if ours is not None else ()

    def change_rounds(self, issue: str, change: str) -> str:
        """Return the summary of a change's rounds for the comment on its issue; empty if there are none.

        Args:
            issue: the hash of the issue.
            change: the URL of the change.
        """
        wanted = (one.rounds for one in self._issue_rounds.values() if one.issue == issue)
        return next((one.summary for one in wanted if is_same_change(one.change_url, change)), "")

    async def run(self) -> None:
        """Scan regularly, and on request, until cancelled.

        A request names one change, or an issue whose change is not known.
        """
        failures, host, errors = 0, self.context.forge.host, BACKGROUND_ERRORS.labels("scans")
        while True:
            await self._until_due()
            try:
                await self._times.run_due(self.scan, self.scan_change)
                await self._remove_annotations()
            except Exception as error:
                if isinstance(error, CodingAgentError):
                    _logger.warning("The open changes on %s were not examined: %s", host, error)
                else:
                    errors.inc()
                    _logger.exception("A scan of the open changes on %s failed", host)
                failures += not isinstance(error, NotYetError)
                SCANS.labels(host, "failed").inc()
                self.scanned.set()
                await asyncio.sleep(self._delay(failures, error))
                continue
            failures = 0
            SCANS.labels(host, "done").inc()
            self.scanned.set()
            await asyncio.sleep(min(_QUIET_S, self.settings.interval))

    async def _until_due(self) -> None:
        while (wait := self._times.wait()) > 0:
            self._wake.clear()
            try:
                async with asyncio.timeout(wait):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def scan_change(self, item: Item) -> float:
        """Scan one change; return the seconds until time alone makes a round due.

        Raises:
            CodingAgentError: the change could not be read.
        """
        try:
            return await self._changes.scan_one(item, self._counted)
        finally:
            await self._show_left_out()

    async def scan(self) -> float:
        """Scan all open changes once; return the seconds until the next scan.

        Raises:
            CodingAgentError: the changes could not be listed, or several in a row could not be handled.
        """
        try:
            wait = await self._changes.scan_all(self.settings.interval, self._counted)
        except Exception:
            await self._show_left_out()
            raise
        await self._show_left_out()
        for kept in (self.notes, self._reruns, self._issue_rounds, self._rewritten):
            for key in kept.keys() - self._changes.open:
                kept.pop(key, None)
        return wait

    async def _counted(self, key: str, snapshot: ChangeSnapshot) -> float | None:
        async with self.context.under_way.one():
            return await self._handle(key, snapshot)

    async def _handle(self, key: str, snapshot: ChangeSnapshot) -> float | None:
        """Create the round that is due; return the seconds until time alone makes another one due."""
        item = snapshot.item
        state = await self._changes.state(key, snapshot)
        runs = runs_of(item, await self.context.tasks.runs(item))
        if await self._has_task_under_another_name(state, runs):
            return None
        snapshot = await self._with_own_evidence(key, snapshot, runs)
        if any(entry.head != snapshot.head_commit for entry in self.reruns(key)):
            del self._reruns[key]
        record = known_rounds(state, runs, self.reruns(key))
        active = has_active_run(runs)
        work = await self._changes.decide(snapshot, record, active=active)
        plan = plan_scan(work, runs, state)
        if plan.waits:
            return plan.wait
        if plan.create is not None:
            # The name of the round's task follows from its cause, so the API server refuses a second one.
            await self._create(snapshot, plan.create)
        elif work.reruns:
            record = await self._run_again(key, snapshot, work, record)
            work = await self._changes.decide(snapshot, record, active=active)
        for run, why in runs_to_cancel(work, runs):
            # If the task has changed, the next scan decides again.
            await self.context.tasks.patch(run, cancellation(why, WithdrawalCause.HANDS_OFF))
        notes = notes_of(work, self._changes.policy)
        if self.notes.get(key, ()) != notes:
            self.notes[key] = notes
            self.changed(key)
        if not work.due:
            await self._show(key, snapshot, runs, state, record=record, notes=notes)
        await self._show_on_issue(key, snapshot, record)
        if work.ready:
            await self.context.forge.mark_ready(item)
            _logger.info("%s is no longer a draft", item.display)
        return work.seconds_left(snapshot.read_at)

    async def _has_task_under_another_name(self, state: State | None, runs: Sequence[AgentTask]) -> bool:
        """Whether the task that our comment names has not shown its end yet, and is none of the item's runs.

        The repository was renamed then. The round that the task works on is not in the record yet.
        """
        if state is None or state.phase.terminal or any(run.uid == state.uuid for run in runs):
            return False
        tasks, _ = await self.context.tasks.list(UNREPORTED)
        return any(task.uid == state.uuid for task in tasks)

    async def _with_own_evidence(
        self, key: str, snapshot: ChangeSnapshot, runs: Sequence[AgentTask]
    ) -> ChangeSnapshot:
        """Restore our evidence status if another account has overwritten it.

        Returns:
            The snapshot with our evidence, because a forged status must not decide anything.
        """
        if not foreign_evidence(snapshot):
            return snapshot
        issue = self._issue_of(snapshot.item, snapshot.head_branch)
        others = runs_of(issue, await self.context.tasks.runs(issue)) if issue is not None else []
        status = own_evidence(snapshot.head_commit, [*reversed(runs), *reversed(others)], snapshot.url)
        head, written = self._rewritten.get(key, ("", 0))
        written = written if head == snapshot.head_commit else 0
        display = snapshot.item.display
        if written < _REWRITES:
            _logger.warning("%s: another account set %s; it is set again", display, status.name)
            self._rewritten[key] = snapshot.head_commit, written + 1
            try:
                await self.context.forge.set_status(snapshot.item, snapshot.head_commit, status)
            except (ForgeUnavailableError, NotYetError):
                raise
            except ForgeError as error:
                _logger.warning("%s: %s cannot be set again: %s", display, status.name, error)
        return with_evidence(snapshot, status)

    async def _run_again(
        self, key: str, snapshot: ChangeSnapshot, work: Work, record: RoundRecord
    ) -> RoundRecord:
        """Ask the forge to run checks again, and return the record with them.

        The forge is asked before the comment records it. If the reporter is killed in between, a check that
        fails once more runs once more.
        """
        asked = await run_again(self.context.forge, snapshot.item, work.reruns, snapshot.read_at)
        if asked.entries:
            self._reruns[key] = OurReruns(RerunResult((*self.reruns(key), *asked.entries), asked.sentence))
            self.changed(key)
        return with_reruns(record, asked.entries)

    async def _show_left_out(self) -> None:
        """Emit one Event for each change that scans leave out, on its newest task, with the reason."""
        LEFT_OUT.labels(self.context.forge.host).set(len(self._changes.left_out))
        self._shown_aside &= self._changes.left_out.keys()
        for key, one in self._changes.left_out.items():
            if key in self._shown_aside:
                continue
            display = one.item.display
            message = f"{display} cannot be examined, so it has no rounds until a later try: {one.why}"
            try:
                task = await self._newest_task(one.item, one.head_branch)
                if task is not None:
                    event = Event("Warning", "ChangeSetAside", message)
                    await self.context.tasks.emit(event, task, self.context.clock())
            except CodingAgentError as error:
                _logger.warning("No event says that %s is set aside: %s", display, error)
            else:
                self._shown_aside.add(key)

    async def _newest_task(self, change: Item, head_branch: str) -> AgentTask | None:
        """Return the newest task of a change; if there is none, of the issue that its branch answers."""
        issue = self._issue_of(change, head_branch)
        for item in (change, issue) if issue is not None else (change,):
            if runs := runs_of(item, await self.context.tasks.runs(item)):
                return runs[-1]
        return None

    def _issue_of(self, change: Item, head_branch: str) -> Item | None:
        return issue_of_branch(change, head_branch, self.branch_prefix)

    async def _create(self, snapshot: ChangeSnapshot, cause: RoundCause) -> None:
        item = snapshot.item
        # All changes are read before the first one is handled, so this one can have been merged since then.
        if not (await self.context.forge.read_state(item)).open:
            return
        before = await self._newest_task(item, snapshot.head_branch)
        request = round_request(
            snapshot,
            cause,
            self._issue_of(item, snapshot.head_branch),
            user=before.spec.user if before is not None else "",
            runner=before.spec.runner if before is not None else None,
            now=self.context.clock(),
        )
        submission = await self.context.sink.submit(request)
        if submission.duplicate is not None:
            _logger.info("%s: no %s round: %s", item.display, cause.kind, submission.duplicate)
            return
        ROUNDS.labels(cause.kind).inc()
        _logger.info("%s: %s for %s is task %s", item.display, cause.count, cause.kind, submission.task)

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
        """Show notes and re-runs in the comment of a change without an active task; nobody else updates it.

        A change without a comment gets one only for a re-run.
        """
        if runs and not runs[-1].reported:
            return  # the report of its end has them
        ours = self._reruns.get(key)
        unshown = ours if ours is not None and not ours.shown else None
        if not runs or state is None or state.uuid != runs[-1].uid:
            body = our_comment(snapshot).body
            if unshown is not None or (body is not None and not has_notes(as_written(body), notes)):
                async with self._writes(snapshot.item, runs) as may_write:
                    if may_write:
                        await self._show_without_run(key, snapshot, record, unshown, notes)
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
            answered=state.answered,
        )
        text, body = comment(report), our_comment(snapshot).body
        if unshown is None and (body is None or shows(body, text)):
            return
        async with self._writes(snapshot.item, runs) as may_write:
            if not may_write:
                return
            await self.context.forge.upsert_comment(snapshot.item, MARKER, text)
            self._changes.wrote(key)
        if unshown is not None:
            unshown.shown = True

    @asynccontextmanager
    async def _writes(self, item: Item, seen: Sequence[AgentTask]) -> AsyncIterator[bool]:
        """Hold the item's lock; yield whether its runs are unchanged and the newest one is reported.

        If not, the reporter is about to show a newer run, and the next scan decides again.
        """
        async with self.context.locks.of(identity_hash(item.identity)):
            runs = runs_of(item, await self.context.tasks.runs(item))
            same = [run.uid for run in runs] == [run.uid for run in seen]
            yield same and (not runs or runs[-1].reported)

    async def _show_on_issue(self, key: str, snapshot: ChangeSnapshot, record: RoundRecord) -> None:
        """Show the rounds in the comment on the issue once for each ended round.

        While the issue's newest task is not reported, its own report shows them. Then nobody else updates the
        comment.
        """
        issue, summary = self._issue_of(snapshot.item, snapshot.head_branch), summary_of(record)
        if issue is None or not summary:
            return
        rounds, known = ChangeRounds(snapshot.url, summary), self._issue_rounds.get(key)
        if known is None or known.rounds != rounds:
            known = self._issue_rounds[key] = IssueRounds(identity_hash(issue.identity), rounds)
            self.changed(known.issue)
        if known.shown:
            return
        async with self.context.locks.of(known.issue):
            runs = runs_of(issue, await self.context.tasks.runs(issue))
            if not runs or runs[-1].reported:
                await show_on_issue(self.context.forge, issue, rounds)
                known.shown = True

    async def _show_without_run(
        self,
        key: str,
        snapshot: ChangeSnapshot,
        record: RoundRecord,
        unshown: OurReruns | None,
        notes: tuple[str, ...],
    ) -> None:
        """Write re-runs and notes into the comment of a change that has no run in the cluster."""
        found = await self.context.forge.find_comment(snapshot.item, MARKER)
        text = shown = as_written(found.body) if found is not None else ""
        if unshown is not None:
            text = comment_with_rounds(text, record, unshown.asked.sentence)
        if text:
            text = comment_with_notes(text, notes)
        if text != shown:
            await self.context.forge.upsert_comment(snapshot.item, MARKER, text, known=found)
            self._changes.wrote(key)
        if unshown is not None:
            unshown.shown = True

    async def _remove_annotations(self) -> None:
        """Remove the annotations of finished scans. If a task has changed, the watch shows it again."""
        for name, task in list(self._asked.items()):
            if self._times.is_asked(_asked_item(task)):
                continue  # it is put off, or an event came during the scan
            if (patch := rescanned(task, item=False)) is not None:
                await self.context.tasks.patch(task, patch)
            if self._asked.get(name) is task:
                del self._asked[name]

    def _delay(self, failures: int, error: BaseException) -> float:
        clocks = self.context.clocks
        asked: float = getattr(error, "retry_after", None) or 0.0
        return max(asked, backoff(max(1, failures), clocks.forge_retry, clocks.forge_retry_max))


def _asked_item(task: AgentTask) -> Item:
    """Return the change that a task's annotation names; the task's item if it names none."""
    item, rescan = task.spec.item, stored_rescan(task)
    if rescan is None or rescan.change is None:
        return item
    return item.model_copy(update={"kind": ItemKind.CHANGE, "number": rescan.change})

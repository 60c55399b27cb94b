"""Scans the open changes of our account on one forge, and queues their rounds, if there is no reporter.

A queue cannot refuse the second message of a round, so a round may be queued twice. The item's lock and the
record in our comment let only one of them work (`decide_start`).
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field

from coding_agent_core.errors import CodingAgentError, ForgeNotFoundError
from coding_agent_core.forge.changes import ChangeSnapshot
from coding_agent_core.forge.values import MARKER
from coding_agent_core.queues.interfaces import LookRequest, NoticeSource, TaskSink
from coding_agent_core.reporting.comment import (
    State,
    comment_with_notes,
    comment_with_rounds,
    read_state,
    summary_of,
)
from coding_agent_core.rounds.notes import as_written, notes_of
from coding_agent_core.rounds.reruns import run_again
from coding_agent_core.rounds.scan import ChangeRounds, ChangeScans, ScanTimes, round_request, show_on_issue
from coding_agent_core.runtime.metrics import BACKGROUND_ERRORS
from coding_agent_core.runtime.retry import Clock, StoppedError, backoff, first_of, run_until
from coding_agent_core.settings.model import Settings
from coding_agent_core.task.attempts import Outcome
from coding_agent_core.task.model import Item, issue_of_branch
from coding_agent_core.task.round_cause import RoundCause, Work
from coding_agent_core.task.round_record import RoundRecord, with_reruns
from coding_agent_forges.rest.forge import Forge

from coding_agent_consumer.item.forge_tasks import ForgeTask, remembered
from coding_agent_consumer.rounds.scan_plan import has_active_task, plan_scan, recorded_rounds, shows_notes

_logger = logging.getLogger("coding_agent.rounds")

_QUIET_S = 5.0
"""Least number of seconds between two scans, because events come in bursts."""
_STOP_GRACE_S = 10.0
"""Seconds within which a scan must end after a stop."""
_FIRST_RETRY_S, _LONGEST_RETRY_S = 5.0, 300.0


@dataclass
class ConsumerScans:
    """Scans the open changes of one forge.

    Args:
        source: locks items, and says whether this process scans regularly.
        sink: takes the rounds.
    """

    settings: Settings
    forge: Forge
    source: NoticeSource
    sink: TaskSink
    clock: Clock = field(default_factory=Clock)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _on_issue: dict[str, ChangeRounds] = field(default_factory=dict)
    """What the comments on issues show of the rounds, by the hash of the change."""

    def __post_init__(self) -> None:
        policy = self.settings.rounds.policy(self.settings.labels(self.forge.platform))
        self._changes = ChangeScans(self.forge, policy, _delay, self.clock.monotonic)
        self._times = ScanTimes(self.settings.rounds.interval, self.clock.monotonic)

    def ask(self, request: LookRequest) -> None:
        """Request a scan soon, although another process may scan regularly."""
        is_limited = bool(request.author) and self._changes.is_stranger(request.item, request.author)
        self._times.ask(request.item, is_limited=is_limited)
        self._wake.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Scan on request, and regularly if no other process does, until `stop` is set."""
        failures, times = 0, self._times
        while not stop.is_set():
            pause = min(_QUIET_S, times.interval)
            try:
                # Nobody else scans as soon as time alone makes a round due, or after a failure.
                is_ours = times.is_early or failures > 0
                if times.is_regular and not is_ours and not await self.source.looks(self.forge.host):
                    times.postpone()
                if times.wait() <= 0:
                    await run_until(self._scan_due, stop, grace=_STOP_GRACE_S)
                failures = 0
            except StoppedError:
                return
            except Exception as error:
                failures += 1
                pause = _delay(failures, error)
                self._log(error)
            await first_of(self.clock.sleep(pause), stop.wait())
            while (wait := times.wait()) > 0 and not stop.is_set():
                self._wake.clear()
                await first_of(self.clock.sleep(wait), self._wake.wait(), stop.wait())

    async def _scan_due(self) -> None:
        await self._times.run_due(self.scan, self.scan_change)

    def _log(self, error: Exception) -> None:
        expected = isinstance(error, CodingAgentError)
        log = _logger.warning if expected else _logger.exception
        log("The open changes on %s were not examined: %s", self.forge.host, error)
        BACKGROUND_ERRORS.labels("scans").inc(not expected)

    async def scan_change(self, item: Item) -> float:
        """Scan one change; return the seconds until time alone makes a round due.

        Raises:
            CodingAgentError: the change could not be read.
        """
        return await self._changes.scan_one(item, self._handle)

    async def scan(self) -> float:
        """Scan all open changes once; return the seconds until the next scan.

        Raises:
            CodingAgentError: the changes could not be listed, or several in a row could not be handled.
        """
        wait = await self._changes.scan_all(self.settings.rounds.interval, self._handle)
        for key in self._on_issue.keys() - self._changes.open:
            del self._on_issue[key]
        return wait

    async def _handle(self, key: str, snapshot: ChangeSnapshot) -> float | None:
        state = await self._changes.state(key, snapshot)
        active = has_active_task(state)
        work = await self._changes.decide(snapshot, recorded_rounds(state), active=active)
        is_shown = shows_notes(snapshot, notes_of(work, self._changes.policy))
        plan = plan_scan(work, state, is_shown=is_shown)
        if plan.queue is not None:
            await self._queue(snapshot, plan.queue, state)
        elif plan.ending is not None and state is not None:
            await self._end_waiting(key, snapshot.item, state, plan.ending)
        elif plan.shows:
            work = await self._show(key, snapshot, work)
        await self._show_on_issue(key, snapshot, recorded_rounds(state))
        if work.ready:
            await self.forge.mark_ready(snapshot.item)
            _logger.info("%s is no longer a draft", snapshot.item.display)
        return work.seconds_left(snapshot.read_at)

    async def _show(self, key: str, snapshot: ChangeSnapshot, work: Work) -> Work:
        """Run checks again if they deserve it, and show notes, while no task works on the change.

        The forge is asked before the comment records it. If this process is killed in between, a check that
        fails once more runs once more.
        """
        item, forge = snapshot.item, self.forge
        async with self.source.item_lock(item) as free:
            if not free:
                return work
            comment = await forge.find_comment(item, MARKER)
            shown = body = as_written(comment.body) if comment is not None else ""
            state = read_state(shown)
            triggers = self.settings.labels(item.platform).triggers
            # An edit would make the label look older than the end that the comment shows.
            is_labeled = bool(triggers & (await forge.read_state(item)).labels)
            if is_labeled or (state is not None and not state.phase.terminal):
                return work
            work = await self._changes.decide(snapshot, recorded_rounds(state), active=False)
            if work.reruns and not work.due:
                asked = await run_again(forge, item, work.reruns, snapshot.read_at)
                record = with_reruns(recorded_rounds(state), asked.entries)
                if asked.entries:
                    body = comment_with_rounds(body, record, asked.sentence)
                work = await self._changes.decide(snapshot, record, active=False)
            if body:
                body = comment_with_notes(body, notes_of(work, self._changes.policy))
            if body != shown:
                await forge.upsert_comment(item, MARKER, body, known=comment)
                self._changes.wrote(key)
        return work

    async def _show_on_issue(self, key: str, snapshot: ChangeSnapshot, record: RoundRecord) -> None:
        """Show the rounds once for each ended round in the comment on the issue, unless a task has it."""
        issue, summary = self._issue_of(snapshot), summary_of(record)
        rounds = ChangeRounds(snapshot.url, summary)
        if issue is None or not summary:
            return
        if self._on_issue.get(key) == rounds:
            return
        async with self.source.item_lock(issue) as free:
            if not free:
                return
            triggers = self.settings.labels(issue.platform).triggers
            try:
                # An edit would make the label look older than the end that the comment shows.
                is_labeled = bool(triggers & (await self.forge.read_state(issue)).labels)
            except ForgeNotFoundError:
                is_labeled = False  # the issue was deleted, so nothing will be shown
            if not is_labeled:
                await show_on_issue(self.forge, issue, rounds)
                self._on_issue[key] = rounds

    def _issue_of(self, snapshot: ChangeSnapshot) -> Item | None:
        return issue_of_branch(snapshot.item, snapshot.head_branch, self.settings.consumer.branch_prefix)

    async def _end_waiting(self, key: str, item: Item, state: State, outcome: Outcome) -> None:
        """Show the end of a waiting round. Whoever gets its message then finds that it has ended."""
        labels, limit = self.settings.labels(item.platform), self.settings.consumer.max_attempts
        async with self.source.item_lock(item) as free:
            if free and await remembered(self.forge, item) == state:
                task = ForgeTask(self.forge, item, labels, state, max_attempts=limit)
                await task.finish(outcome)
                self._changes.wrote(key)

    async def _queue(self, snapshot: ChangeSnapshot, cause: RoundCause, state: State | None) -> None:
        """Queue a round, for the person who asked for the work that led to the change.

        Their settings apply to rounds too. Until there was a task of the change itself, the comment on the
        issue names them.
        """
        item = snapshot.item
        issue = self._issue_of(snapshot)
        asked = state if state is not None and state.user else None
        if asked is None and issue is not None:
            asked = await remembered(self.forge, issue)
        request = round_request(
            snapshot,
            cause,
            issue,
            user=(asked.user if asked is not None else None) or "",
            runner=asked.runner if asked is not None else None,
            now=self.clock.now(),
        )
        submission = await self.sink.submit(request)
        if submission.duplicate is not None:
            _logger.info("%s: no %s round: %s", item.display, cause.kind, submission.duplicate)
            return
        _logger.info("%s: %s for %s is task %s", item.display, cause.count, cause.kind, submission.task)


def _delay(failures: int, error: BaseException) -> float:
    asked: float = getattr(error, "retry_after", None) or 0.0
    return max(asked, backoff(max(1, failures), _FIRST_RETRY_S, _LONGEST_RETRY_S))

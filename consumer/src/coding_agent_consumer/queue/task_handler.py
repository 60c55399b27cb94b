"""The consumer of a queue: it claims tasks, runs an attempt of each, reports it, and finishes the claim.

The order of the steps makes every crash harmless: the comment is written before labels are swapped, the end
is reported before the message is acknowledged, and a retry is in the queue before the item shows it.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TypeVar

from coding_agent_core.errors import ForgeError, ForgeNotFoundError, ForgeUnavailableError
from coding_agent_core.queues.interfaces import Claim, TaskSource
from coding_agent_core.reporting.comment import State
from coding_agent_core.runtime.metrics import BACKGROUND_ERRORS
from coding_agent_core.runtime.retry import (
    LONGEST_ASKED_WAIT,
    Clock,
    Deadline,
    asked_wait,
    backoff,
    first_of,
    while_unavailable,
)
from coding_agent_core.runtime.usage_metrics import UsageMetrics
from coding_agent_core.settings.model import Settings
from coding_agent_core.task.admission import answered_by_withdrawal
from coding_agent_core.task.attempts import AttemptInput, EarlierAttempts, Outcome
from coding_agent_core.task.model import LABEL_REMOVED, Cause, Origin, Phase, WithdrawalCause
from coding_agent_core.task.reasons import Reason
from coding_agent_core.task.usage import Usage
from coding_agent_forges.rest.forge import Forge
from prometheus_client import CollectorRegistry

from coding_agent_consumer.attempt.agent_work import MakeAgent
from coding_agent_consumer.attempt.attempt import Attempt, LoadedItem
from coding_agent_consumer.attempt.failures import outcome_of_error
from coding_agent_consumer.item.forge_tasks import (
    Abandon,
    Drop,
    ForgeTask,
    ReportAgain,
    Start,
    WithdrawnWork,
    branch_for,
    decide_start,
    remembered,
    show_end_again,
    state_of,
)
from coding_agent_consumer.queue.circuit_breaker import CircuitBreaker, ForgePermit
from coding_agent_consumer.queue.claim_checks import ClaimChecks, OutdatedError, TaskStoppedError
from coding_agent_consumer.transcripts.transcript import scrub_for
from coding_agent_consumer.workspace.egress import Identities, denials

_logger = logging.getLogger("coding_agent.task_handler")
_T = TypeVar("_T")

_OTHER_CONSUMER_POLL = 2.0
"""Seconds between checks while another consumer holds the item's lock but has not swapped the label yet."""
_OTHER_CONSUMER_PATIENCE = 60.0
"""Seconds after which a message whose item is locked goes back to the queue for a while."""
_DECISIONS = 5
"""This many decisions in a row may be out of date; then the message goes back to the queue for a while."""
_FORGE_PATIENCE = 3600.0
"""Seconds for which a forge may be down before this counts as a failed attempt."""
_START_PATIENCE = 10.0
"""Seconds that a task waits for its forge before its work; then the task goes back to the queue.

The retries of the last request are not cut off: with a forge that hangs, this takes up to 55 s.
"""
_GRACE = 60.0
"""Seconds after a stop in which the work so far can still be pushed."""
_SHOWING_TRIES = 10
"""Further deliveries after the last attempt to show a task's end while the forge refuses that."""
_LONGEST_DELAY_S = 600.0
"""Longest delay before an attempt that nobody asks for. RabbitMQ rounds delays up, by a quarter at most."""
_MOST_WAITS = 20
"""This many times a task may be given back because the model or the forge asks for a wait."""
_OVERTIME = 600.0
"""Seconds beyond an attempt's time in which its finished work can still be pushed."""


class _LaterError(Exception):
    """The task goes back to the queue, and the attempt does not count.

    The forge is down before the work of an attempt has begun, or the model or the forge asks for a wait.

    Attributes:
        outcome: how the attempt ended, or would end. Its `retry_after` says how long to wait, if that was
            asked for.
    """

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.message)
        self.outcome = outcome


@dataclass
class _Progress:
    """The progress of a claim's handling.

    Attributes:
        attempt: number of the attempt that runs, or ran last.
        trial: the task's use of its forge.
        task: the task on its item, once it is known.
        seen: the comment's state from which it was decided what to do.
    """

    attempt: int
    trial: ForgePermit
    task: ForgeTask | None = None
    seen: State | None = None


@dataclass
class _GivenBack:
    """The count of how often a task was given back.

    Attributes:
        patience: after this deadline, giving the task back counts as a failed attempt. The time for which
            somebody asked to wait does not count.
        waits: how often somebody asked to wait.
    """

    patience: Deadline
    times: int = 0
    waits: int = 0


@dataclass
class TaskHandler:
    """Handles claims; several calls of `handle` may run at a time.

    Attributes:
        forges: the forges by host.
        shutdown: set when the consumer must end.
        usage: counts what attempts used.
        identities: makes the attempts' identities at the egress proxy; `None`: there is no proxy.
    """

    settings: Settings
    forges: Mapping[str, Forge]
    make_agent: MakeAgent
    shutdown: asyncio.Event
    usage: UsageMetrics = field(default_factory=lambda: UsageMetrics(CollectorRegistry()))
    identities: Identities | None = None
    clock: Clock = field(default_factory=Clock)
    _checks: ClaimChecks = field(init=False)
    _breakers: dict[str, CircuitBreaker] = field(init=False)
    """The circuit breakers by host."""
    _given_back: dict[str, _GivenBack] = field(default_factory=dict, init=False)
    """Tasks that were given back, by uuid."""

    def __post_init__(self) -> None:
        self._checks = ClaimChecks(self.shutdown, self.clock)
        self._breakers = {host: CircuitBreaker(self.clock) for host in self.forges}

    async def handle(self, claim: Claim) -> None:
        """Work on a task until its claim is finished (`done`, `retry` or `dead_letter`).

        Only a shutdown or a lost claim leaves the claim unfinished. A task whose forge is down soon goes back
        to the queue, so that others can use its place.
        """
        item = claim.task.request.item
        forge = self.forges.get(item.host)
        if forge is None:
            await claim.dead_letter(
                f"no forge is configured for {item.host}; known: {', '.join(sorted(self.forges)) or 'none'}"
            )
            return
        # A forge that is down must not take the places of tasks on other forges.
        breaker = self._breakers[item.host]
        trial = breaker.trial()
        if trial is None:
            await claim.retry(breaker.delay(), claim.task.attempt)
            return
        progress = _Progress(claim.task.attempt, trial)
        try:
            async with AsyncExitStack() as stack:
                # Labels cannot be the lock: GitLab does not tell which of two consumers swapped them.
                while not await stack.enter_async_context(claim.item_lock()):
                    await stack.aclose()
                    if await self._settle_locked_out(claim, forge, progress):
                        return
                try:
                    await self._with_item(claim, forge, progress)
                except TaskStoppedError:
                    raise
                except _LaterError as error:
                    await self._give_back(claim, progress, error)
                except Exception as error:  # still with the item's lock, because the item shows the end
                    await self._settle_failure(claim, progress, error)
        except _LaterError as error:
            await self._give_back(claim, progress, error)
        except TaskStoppedError:
            _logger.info(
                "Stopped work on %s: %s",
                item.display,
                "claim lost" if claim.lost.is_set() else "shutting down",
            )
        except Exception as error:
            await self._settle_failure(claim, _Progress(progress.attempt, trial), error)
        finally:
            trial.over()

    async def _give_back(self, claim: Claim, progress: _Progress, error: _LaterError) -> None:
        """Give a task back to the queue as the same attempt. After a long time this counts as an attempt."""
        item, uuid = claim.task.request.item, claim.task.uuid
        for other in [one for one, it in self._given_back.items() if it.patience.left < -_FORGE_PATIENCE]:
            del self._given_back[other]  # another consumer has that task
        patience = Deadline.after(_FORGE_PATIENCE, self.clock)
        given_back = self._given_back.setdefault(uuid, _GivenBack(patience))
        given_back.times += 1
        given_back.waits += bool(error.outcome.retry_after)
        task, outcome = progress.task, error.outcome
        if given_back.patience.passed or given_back.waits > _MOST_WAITS:
            del self._given_back[uuid]
            if task is not None and outcome.retryable:
                await self._settle(claim, task, outcome)
            else:
                await self._settle_failure(claim, progress, ForgeUnavailableError(str(error)))
            return
        asked = outcome.retry_after
        delay = self._breakers[item.host].delay(asked)
        if task is not None and not claim.lost.is_set():
            # The comment may show a running attempt, which the next delivery would count.
            await self._comment(claim, task, Phase.QUEUED, outcome, None)
            # Wait longer: the forge answers some requests, so each further try changes the comment twice.
            delay = max(delay, self._delay(given_back.times, asked))
        if asked:
            given_back.patience = Deadline.after(delay + _FORGE_PATIENCE, self.clock)
        wait = await claim.retry(delay, progress.attempt)
        _logger.warning("Gave %s back to the queue for %.0f s: %s", item.display, wait or 0.0, error)

    async def _settle_locked_out(self, claim: Claim, forge: Forge, progress: _Progress) -> bool:
        """Finish the claim of a message whose item another consumer holds; `False`: the item is free now."""
        item = claim.task.request.item
        triggers = self.settings.labels(item.platform).triggers
        deadline = Deadline.after(_OTHER_CONSUMER_PATIENCE, self.clock)
        while not deadline.passed:
            details = await self._before_work(claim, progress, lambda: forge.read(item))
            progress.trial.answered()
            if not triggers & details.labels:
                break
            await self._pause(claim, _OTHER_CONSUMER_POLL)
            async with claim.item_lock() as mine:
                if mine:
                    return False
        is_round = claim.task.request.trigger.round is not None
        unwanted = not triggers & details.labels and not claim.redelivered and not is_round
        if unwanted and not await self._before_work(claim, progress, lambda: self._is_shown(claim, forge)):
            _logger.info("Dropped a message for %s: another consumer is working on it", item.display)
            await claim.done()
        else:
            # This may be the message of the other consumer's own task, delivered again because that
            # consumer's connection broke. It must stay in the queue until that task has ended. Or this is the
            # retry of the task that the item shows, and the other consumer is about to drop a later message.
            # Or this is a round, which needs no label; whoever has the lock may only be writing the comment.
            await claim.retry(_OTHER_CONSUMER_PATIENCE, claim.task.attempt)
        return True

    async def _is_shown(self, claim: Claim, forge: Forge) -> bool:
        """Whether the comment shows the claim's own task."""
        state = await remembered(forge, await forge.locate(claim.task.request.item))
        return state is not None and state.uuid == claim.task.uuid

    async def _with_item(self, claim: Claim, forge: Forge, progress: _Progress) -> None:
        """Decide about the claim and act; start over if another consumer changed the item meanwhile."""
        # Each turn reads the comment again. The number only bounds a fight between two consumers.
        for _ in range(_DECISIONS):
            if await self._decide(claim, forge, progress):
                return
            _logger.info("Another consumer changed %s", claim.task.request.item.display)
        await claim.retry(_OTHER_CONSUMER_PATIENCE, claim.task.attempt)

    async def _decide(self, claim: Claim, forge: Forge, progress: _Progress) -> bool:
        """Decide about the claim and act; return `False` if the decision was outdated before work began."""
        queued = claim.task
        limit = self.settings.consumer.max_attempts
        item = await self._before_work(claim, progress, lambda: forge.locate(queued.request.item))
        labels = self.settings.labels(item.platform)
        details = await self._before_work(claim, progress, lambda: forge.read(item))
        progress.trial.answered()  # not after `locate`, which may send no request
        state = await self._before_work(claim, progress, lambda: remembered(forge, item))
        progress.seen = state
        if state is not None and state.uuid == queued.uuid:
            # A message that is delivered again after a crash has its old number; the comment has the true
            # one.
            progress.attempt = max(progress.attempt, state.attempt)
        hands_off = self.settings.rounds.hands_off_label
        decision = decide_start(queued, details, state, labels, limit, hands_off_label=hands_off)
        match decision:
            case Drop(why):
                _logger.info("Dropped a message for %s: %s", item.display, why)
                await claim.done()
            case ReportAgain(ended):
                await self._before_work(claim, progress, lambda: show_end_again(forge, item, labels))
                why = "its consumer died before it settled the message; see the comment on the item"
                await self._settle_end(claim, ended.phase, ended.reason, why)
            case Abandon(ended, reason, message, cause):
                progress.task = ForgeTask(forge, item, labels, ended, max_attempts=limit)
                progress.task.answered_until = progress.task.seen(details)
                progress.task.withdrawn = cause
                await self._finish(claim, progress.task, Outcome(reason=reason, message=message))
            case Start():
                start = decision
                branch = await self._before_work(
                    claim,
                    progress,
                    lambda: branch_for(
                        forge,
                        item,
                        self.settings.consumer.branch_prefix,
                        run=start.run,
                        previous=start.previous,
                        continues=start.continues,
                    ),
                )
                begun = state_of(queued, start, branch, begins=True)
                progress.attempt = decision.attempt
                progress.task = ForgeTask(forge, item, labels, begun, max_attempts=limit)
                earlier = EarlierAttempts(ended=start.ended, usage=begun.usage or Usage())
                try:
                    loaded = LoadedItem(progress.task, details, branch)
                    await self._attempt(claim, progress, loaded, earlier)
                except OutdatedError:
                    return False
        return True

    async def _attempt(
        self,
        claim: Claim,
        progress: _Progress,
        loaded: LoadedItem,
        earlier: EarlierAttempts,
    ) -> None:
        task = loaded.task

        async def prepare() -> None:
            # Another consumer may have got the message while the broker was cut off from us.
            await self._checks.require_start(claim, task, progress.seen)
            await task.prepare()

        await self._before_work(claim, progress, prepare)
        trigger = claim.task.request.trigger
        if trigger.cause is Cause.LABEL and trigger.origin is not Origin.MANUAL:
            act = await self._before_work(claim, progress, task.last_act)
            if act is not None and not act.added:
                task.answered_until = answered_by_withdrawal(act.at)
                await self._finish(claim, task, Outcome(reason=Reason.CANCELLED, message=LABEL_REMOVED))
                return
        request = claim.task.request.model_copy(update={"item": task.item})
        numbers = {"run": task.state.run, "attempt": task.state.attempt}
        identities = self.identities
        # Each attempt has its own name at the proxy, so that an old password opens nothing for a new one.
        job = f"{task.name}-{task.state.attempt}"
        variables = identities.workspace(job, task.item) if identities else {}

        async def load() -> LoadedItem:
            return loaded

        async with self._watch(claim, task) as (stop, withdrawn):
            attempt = Attempt(
                settings=self.settings,
                given=AttemptInput(
                    task=claim.task.model_copy(update={"request": request, **numbers}),
                    max_attempts=task.max_attempts,
                    timeout_seconds=self.settings.consumer.timeout_seconds,
                    earlier=earlier,
                    # No queue stores what earlier attempts spent, so each attempt has the whole budget.
                    allowance=self.settings.budgets.task,
                ),
                load=load,
                transcript_folder=self.settings.context_storage.base_dir,
                make_agent=self.make_agent,
                stop=stop,
                grace=_GRACE,
                overtime=_OVERTIME,
                patience=_START_PATIENCE,
                variables=variables,
                lost=claim.lost,
                clock=self.clock,
            )
            outcome = await attempt.run()
        if identities is not None:
            denied = await denials(identities.agent(job), hurry=attempt.hurried)
            outcome = outcome.model_copy(update={"denied": denied})
        self.usage.count(claim.task.request.item.repository, outcome.usage)
        if claim.lost.is_set():
            raise TaskStoppedError
        if outcome.reason is Reason.CANCELLED:
            if withdrawn:
                task.withdrawn = withdrawn[0].cause
                message = f"{withdrawn[0].why} The task was stopped."
                outcome = outcome.model_copy(update={"message": message})
            else:  # the consumer shuts down, but the task is still wanted: another consumer continues it
                await self._comment(claim, task, Phase.QUEUED, outcome, None)
                raise TaskStoppedError
        if outcome.reason is Reason.FORGE_DOWN:
            progress.trial.failed(outcome.retry_after)
            raise _LaterError(outcome)
        if outcome.retryable and outcome.retry_after:
            raise _LaterError(outcome)
        self._given_back.pop(claim.task.uuid, None)
        await self._settle(claim, task, outcome)

    async def _settle(self, claim: Claim, task: ForgeTask, outcome: Outcome) -> None:
        attempt = task.state.attempt
        if outcome.retryable and attempt < task.max_attempts:
            await self._try_again(claim, task, outcome)
        else:
            await self._finish(claim, task, outcome)

    async def _try_again(self, claim: Claim, task: ForgeTask, outcome: Outcome) -> None:
        attempt = task.state.attempt
        wait = await claim.retry(self._delay(attempt, outcome.retry_after), attempt + 1)
        if wait is None:
            return  # the queue delivers the same message again, and the next attempt starts at once
        await self._comment(claim, task, Phase.BACKOFF, outcome, self.clock.now() + timedelta(seconds=wait))

    async def _finish(self, claim: Claim, task: ForgeTask, outcome: Outcome) -> None:
        async def finish() -> None:
            await self._checks.require_ours(claim, task)
            await task.finish(outcome)

        await self._retrying(claim, finish)
        await self._settle_end(claim, task.state.phase, outcome.reason, outcome.message)

    async def _settle_end(self, claim: Claim, phase: Phase, reason: str | None, message: str) -> None:
        # Strangers must not be able to fill the dead-letter queue, which people have to look at.
        if phase is Phase.FAILED and reason not in (Reason.NOT_AUTHORIZED, Reason.NOT_APPROVED):
            await claim.dead_letter(f"{reason}: {message}")
        else:
            await claim.done()

    async def _settle_failure(self, claim: Claim, progress: _Progress, error: Exception) -> None:
        """Finish a claim whose handling failed: retry the task, or give it up after the last attempt.

        The task is given up only once the item shows that, or after further tries to show it: otherwise the
        item would show forever that an attempt runs. If the item shows an end already, this is not replaced,
        because the next delivery shows its labels again.
        """
        outcome = outcome_of_error(error, scrub_for(self.settings, os.environ))
        task, attempt = progress.task, progress.attempt
        limit = self.settings.consumer.max_attempts
        _logger.warning("Cannot go on with %s: %s", claim.task.request.item.display, outcome.message)
        is_over = isinstance(error, ForgeNotFoundError) or attempt >= limit + _SHOWING_TRIES
        if task is not None and not task.state.phase.terminal and not is_over:
            if attempt < limit:
                await self._try_again(claim, task, outcome)
                return
            is_over = await self._comment(claim, task, Phase.FAILED, outcome, None)
        if is_over:
            await claim.dead_letter(f"{outcome.reason}: {outcome.message}")
        else:
            await claim.retry(self._delay(attempt, outcome.retry_after), attempt + 1)

    async def _comment(
        self,
        claim: Claim,
        task: ForgeTask,
        phase: Phase,
        outcome: Outcome,
        next_attempt: datetime | None,
    ) -> bool:
        """Show a phase that the next delivery would show too. Return whether the forge accepted it."""
        try:
            await self._checks.require_ours(claim, task)
            await task.comment(phase, outcome=outcome, next_attempt=next_attempt)
        except ForgeError as error:
            _logger.warning("Could not report on %s that it is %s: %s", task.item.display, phase, error)
            return False
        return True

    @asynccontextmanager
    async def _watch(
        self, claim: Claim, task: ForgeTask
    ) -> AsyncIterator[tuple[asyncio.Event, list[WithdrawnWork]]]:
        """Yield an event that is set when the attempt must stop, and a list of a person's reasons for it."""
        stop, withdrawn = asyncio.Event(), list[WithdrawnWork]()
        hands_off = self.settings.rounds.hands_off_label

        async def check_labels() -> None:
            while True:
                # A webhook may be missed, so the consumer looks for itself whether the label is still
                # there.
                await self.clock.sleep(self.settings.development.cancel_check_interval)
                try:
                    reason = await task.check(hands_off)
                except ForgeNotFoundError as error:
                    reason = WithdrawnWork(str(error), WithdrawalCause.CLOSED)
                except ForgeError as error:
                    _logger.warning("Could not check if %s is still wanted: %s", task.item.display, error)
                    continue
                except Exception:  # a bug here must not keep the attempt from being stopped
                    BACKGROUND_ERRORS.labels("label checks").inc()
                    _logger.exception(
                        "Unexpected error when checking if %s is still wanted", task.item.display
                    )
                    continue
                if reason is not None:
                    withdrawn.append(reason)
                    return

        async def stop_when_any() -> None:
            await first_of(check_labels(), claim.lost.wait(), self.shutdown.wait())
            stop.set()

        watcher = asyncio.create_task(stop_when_any())
        try:
            yield stop, withdrawn
        finally:
            watcher.cancel()

    async def _before_work(
        self, claim: Claim, progress: _Progress, action: Callable[[], Awaitable[_T]]
    ) -> _T:
        """Run an action before the work of an attempt, and wait only briefly while the forge is down.

        Raises:
            ForgeError: the forge refused.
            _LaterError: the forge is down.
            TaskStoppedError: the consumer shut down, or the claim was lost, while waiting.
        """
        try:
            return await self._retrying(claim, action, within=_START_PATIENCE)
        except ForgeUnavailableError as error:
            progress.trial.failed(error.retry_after)
            down = Outcome(reason=Reason.FORGE_DOWN, message=str(error), retry_after=error.retry_after)
            raise _LaterError(down) from error
        except ForgeError:
            progress.trial.answered()
            raise

    async def _retrying(
        self, claim: Claim, action: Callable[[], Awaitable[_T]], *, within: float = _FORGE_PATIENCE
    ) -> _T:
        """Run an action, and wait while the forge is down, so that a task does not fail because of that.

        Raises:
            ForgeError: the forge refused, or was down for longer than `within` seconds.
            TaskStoppedError: the consumer shut down, or the claim was lost, while waiting.
        """
        return await while_unavailable(
            action,
            within=within,
            logger=_logger,
            clock=replace(self.clock, sleep=lambda seconds: self._pause(claim, seconds)),
        )

    async def _pause(self, claim: Claim, seconds: float) -> None:
        await first_of(self.clock.sleep(seconds), self.shutdown.wait(), claim.lost.wait())
        if self.shutdown.is_set() or claim.lost.is_set():
            raise TaskStoppedError

    def _delay(self, attempt: int, asked: float | None) -> float:
        clocks = self.settings.development
        most = clocks.retry_delay_max
        longest, longest_asked = (_LONGEST_DELAY_S, LONGEST_ASKED_WAIT) if most is None else (most, most)
        own = backoff(attempt, clocks.retry_delay, longest, self.clock.chance())
        # Whoever asks for a longer wait knows when an answer is possible again.
        return max(own, asked_wait(asked or 0.0, longest_asked, self.clock.chance()))


async def consume(source: TaskSource, handler: TaskHandler, *, concurrency: int) -> None:
    """Work on tasks, `concurrency` at a time, until the handler's `shutdown` is set or the source ends.

    A task whose handling fails unexpectedly is logged and retried, at most `max_attempts` times.
    """

    async def work() -> None:
        async with aclosing(source.claims(handler.shutdown)) as claims:
            async for claim in claims:
                try:
                    await handler.handle(claim)
                except Exception:  # the queue itself failed; it delivers an unfinished claim again
                    BACKGROUND_ERRORS.labels("claims").inc()
                    _logger.exception("Could not settle %s", claim.task.name)

    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(work())

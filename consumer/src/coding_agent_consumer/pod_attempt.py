"""One attempt as a Job runs it: from the task in its environment to the outcome that the operator reads.

It writes neither labels nor comments; the reporter does. Whatever happens there is an outcome: a wrong input,
a forge that is down, SIGTERM, and an attempt that does not end by itself.
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from coding_agent_core.errors import (
    ForgeError,
    ForgeNotFoundError,
    ForgeRefusedError,
    ForgeUnavailableError,
    SettingsError,
)
from coding_agent_core.forge.protocol import Forge, ItemDetails
from coding_agent_core.messages import AttemptInput
from coding_agent_core.outcome import Outcome
from coding_agent_core.phases import Phase
from coding_agent_core.reasons import Reason
from coding_agent_core.reporting.render import State
from coding_agent_core.settings import Settings
from coding_agent_core.tasks import Item

from coding_agent_consumer.agent.protocol import Agent
from coding_agent_consumer.attempt import Attempt, OpenWorkspace, log_steps
from coding_agent_consumer.branches import branch_for
from coding_agent_consumer.decide import Start
from coding_agent_consumer.patience import StoppedError, patiently, until_stopped
from coding_agent_consumer.per_user import settings_for
from coding_agent_consumer.tasks import remembered, task_for
from coding_agent_consumer.transcripts.keeping import Transcripts

_logger = logging.getLogger("coding_agent.attempt")
_T = TypeVar("_T")
_LAST_UPLOAD = 20.0
"""Seconds in which the transcript is to be kept whole, where nothing presses."""
_LAST_WORDS = 10.0
"""Seconds at the end of the grace time for writing down how it ended."""


@dataclass
class PodAttempt:
    """What is needed for one attempt in a pod.

    Attributes:
        forge: of the item's host.
        stop: set by SIGTERM.
        grace: seconds between SIGTERM and SIGKILL.
        clock: monotonic seconds.
    """

    settings: Settings
    given: AttemptInput
    forge: Forge
    make_agent: Callable[[Settings], Agent]
    open_workspace: OpenWorkspace
    stop: asyncio.Event
    grace: float
    clock: Callable[[], float] = time.monotonic
    _began: float = field(init=False)
    _transcripts: Transcripts = field(init=False)
    _attempt: Attempt | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        task, storage = self.given.task, self.settings.context_storage
        # A relative folder is a scratch folder here: the program's own folder is read-only in its image.
        base = Path(tempfile.gettempdir()) / storage.base_dir
        self._transcripts = Transcripts(
            storage, base, task.request.item, run=task.run, uuid=task.uuid, attempt=task.attempt
        )

    async def run(self) -> Outcome:
        """Run it; returns before the grace time after SIGTERM, or after the task's time limit, is over."""
        self._began = self.clock()
        last_words = min(_LAST_WORDS, self.grace / 3)
        outcome = await self._within_time(last_words)
        hurry = self.stop.is_set() or self.clock() - self._began > self.given.timeout_seconds
        return await self._transcripts.end(outcome, within=last_words / 3 if hurry else _LAST_UPLOAD)

    async def _within_time(self, last_words: float) -> Outcome:
        work = asyncio.ensure_future(self._outcome())
        stopped = asyncio.ensure_future(self.stop.wait())
        try:
            most = self.given.timeout_seconds + self.grace - last_words
            await asyncio.wait({work, stopped}, timeout=most, return_when=asyncio.FIRST_COMPLETED)
            if not work.done() and self.stop.is_set():
                await asyncio.wait({work}, timeout=self.grace - last_words)
            if work.done():
                return work.result()
        finally:
            stopped.cancel()
            work.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.wait({work}, timeout=last_words / 2)
        if self.stop.is_set():
            return self._cut_off(Reason.CANCELLED, "The attempt was stopped before its work could be pushed.")
        return self._cut_off(
            Reason.DEADLINE_EXCEEDED,
            f"The attempt did not come to its end within {self.given.timeout_seconds:.0f} s.",
        )

    def _cut_off(self, reason: Reason, message: str) -> Outcome:
        if self._attempt is not None:
            return self._attempt.cut_off(reason, message)
        return Outcome(reason=reason, message=message)

    async def _outcome(self) -> Outcome:
        try:
            outcome = await self._run()
        except StoppedError:
            return Outcome(reason=Reason.CANCELLED, message="The attempt was stopped before it began.")
        except ForgeUnavailableError as error:
            return Outcome(reason=Reason.FORGE_UNAVAILABLE, message=str(error), retry_after=error.retry_after)
        except ForgeRefusedError as error:
            return Outcome(reason=Reason.FORGE_REFUSED, message=str(error))
        except ForgeNotFoundError as error:
            return Outcome(reason=Reason.ITEM_GONE, message=str(error))
        except ForgeError as error:
            return Outcome(reason=Reason.INTERNAL, message=str(error))
        if outcome.reason is Reason.CANCELLED and outcome.branch:
            saved = "The attempt was stopped. What was done so far is pushed."
            return outcome.model_copy(update={"message": saved})
        return outcome

    async def _run(self) -> Outcome:
        queued = self.given.task
        item = await self._patiently(lambda: self.forge.locate(queued.request.item))
        details = await self._patiently(lambda: self.forge.read(item))
        if not details.open:
            return Outcome(reason=Reason.ITEM_GONE, message="The item was closed before the attempt began.")
        branch = await self._branch(item)
        settings = await settings_for(self.settings, item.platform, queued.request.user)
        recap = await self._transcripts.begin() or self.given.earlier.recap
        self._attempt = self._prepared(settings, item, details, branch, recap)
        _logger.info("Attempt %d of %d at %s begins", queued.attempt, self.given.max_attempts, item.display)
        outcome = await self._attempt.run()
        _logger.info("Attempt %d at %s ended: %s", queued.attempt, item.display, outcome.reason)
        return outcome

    async def _branch(self, item: Item) -> str:
        """The branch that earlier attempts pushed, else what the item remembers of an earlier run."""
        if self.given.earlier.branch is not None:
            return self.given.earlier.branch
        task = self.given.task
        state = await self._patiently(lambda: remembered(self.forge, item))
        # Nothing is known to be pushed by this run, so an earlier one's branch counts as long as its change
        # is open. The same answer each time, so that a pod in place of a lost one finds what that pushed.
        start = Start(run=task.run, attempt=task.attempt, previous=state, continues=False)
        prefix = self.settings.consumer.branch_prefix
        return await self._patiently(lambda: branch_for(self.forge, item, start, prefix))

    def _prepared(
        self, settings: Settings, item: Item, details: ItemDetails, branch: str, recap: str
    ) -> Attempt:
        queued = self.given.task
        left = max(1, int(self.given.timeout_seconds - (self.clock() - self._began)))
        settings = settings.model_copy(
            update={"consumer": settings.consumer.model_copy(update={"timeout_seconds": left})}
        )
        task = task_for(
            self.forge,
            item,
            settings.labels(item.platform),
            State(
                uuid=queued.uuid, run=queued.run, attempt=queued.attempt, phase=Phase.RUNNING, branch=branch
            ),
            max_attempts=self.given.max_attempts,
            clock=lambda: datetime.now(UTC),
        )
        return Attempt(
            settings=settings,
            task=task,
            details=details,
            agent=self.make_agent(settings),
            open_workspace=self.open_workspace,
            issue_branch=branch,
            transcript=self._transcripts.path,
            last_lines=self._transcripts.lines,
            recap=recap,
            stop=self.stop,
            on_step=log_steps(item),
            patience=float(left),
            grace=self.grace,
        )

    async def _patiently(self, action: Callable[[], Awaitable[_T]]) -> _T:
        left = self.given.timeout_seconds - (self.clock() - self._began)
        return await until_stopped(lambda: patiently(action, within=left, logger=_logger), self.stop)


def read_input(environment: Mapping[str, str], name: str) -> AttemptInput:
    """The attempt's input.

    Raises:
        SettingsError: there is none, or it is wrong; the sentence says what.
    """
    text = environment.get(name, "")
    if not text:
        raise SettingsError(f"{name} is not set: it holds the task, and the operator puts it there")
    try:
        return AttemptInput.from_json(text, now=datetime.now(UTC))
    except ValueError as error:
        raise SettingsError(f"{name}: {error}") from error

"""Polls forges: submits labeled items that no webhook reported, and requests missed deliveries again."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field

from coding_agent_core.errors import CodingAgentError, ForgeError
from coding_agent_core.platforms.registry import FACTS
from coding_agent_core.queues.interfaces import TaskSink
from coding_agent_core.runtime.metrics import BACKGROUND_ERRORS
from coding_agent_core.runtime.retry import StoppedError, both, run_until
from coding_agent_core.settings.model import Settings
from coding_agent_core.task.model import TaskRequest
from coding_agent_forges.rest.forge import Forge
from coding_agent_forges.webhooks.events import OWN_LABEL

from coding_agent_receiver.labeled_items import LabeledItems, Pass
from coding_agent_receiver.receiver_metrics import PollMetrics

_logger = logging.getLogger("webhook.poller")
_STOP_GRACE = 10.0
"""Seconds within which a poll must end after a stop. (It may wait for minutes because of rate limits.)"""


def scope_problem(settings: Settings) -> str | None:
    """Return why polls of `task_source` need a narrower scope, with the settings for it, or `None`.

    On a self-managed forge, the whole installation is an acceptable scope.
    """
    section = settings.forge(settings.task_source)
    if section.narrowed or section.host != FACTS[settings.task_source].web_host:
        return None
    return f"polling {section.host} without a scope would find the items of strangers: {section.SCOPE}"


@dataclass(frozen=True)
class PollReport:
    """The result of one poll.

    Attributes:
        found: the number of labeled items.
        created: the names of the tasks that were created.
        duplicates: the number of items that already had a task.
        failed: the number of items that could not be read or submitted.
        problem: why the poll ended early or could not request missed deliveries; `None` if all went well.
    """

    found: int
    created: tuple[str, ...]
    duplicates: int
    failed: int = 0
    problem: str | None = None


@dataclass
class _Poll:
    """The submissions of one poll so far."""

    created: list[str] = field(default_factory=list)
    duplicates: int = 0


class Poller:
    """The poller of one forge.

    Example:
        poller = Poller(settings, forge, sink, PollMetrics(registry))
        await poller.forever(stop)
    """

    def __init__(
        self, settings: Settings, forge: Forge, sink: TaskSink, metrics: PollMetrics | None = None
    ) -> None:
        self._settings, self._forge, self._sink, self._metrics = settings, forge, sink, metrics
        self._asking = LabeledItems(forge)
        self._ignored: set[str] = set()

    async def once(self) -> PollReport:
        """Submit every labeled item once. Errors are in the report, and the next poll repeats what failed."""
        poll = _Poll()
        items, not_redelivered = await both(self._items(poll), self._redeliver())
        if self._metrics is not None:
            self._metrics.failed_items.labels(self._forge.platform).inc(items.failed)
            self._metrics.partial.labels(self._forge.platform).inc(items.partial)
        cut = items.cut or None
        if cut is not None:
            _logger.warning(
                "The poll of %s ended early; the next poll goes on from there: %s", self._forge.host, cut
            )
            if self._metrics is not None:
                self._metrics.failed.labels(self._forge.platform).inc()
        _logger.info(
            "Polled %s: %d labeled, %d recovered by poll, %d known, %d failed",
            self._forge.host,
            items.found,
            len(poll.created),
            poll.duplicates,
            items.failed,
        )
        return PollReport(
            items.found, tuple(poll.created), poll.duplicates, items.failed, cut or not_redelivered
        )

    async def until(self, stop: asyncio.Event) -> PollReport | None:
        """Poll once, but end soon after `stop` is set. Return `None` if this ended the poll."""
        try:
            return await run_until(self.once, stop, grace=_STOP_GRACE)
        except StoppedError:
            _logger.info("Stopped during a poll; the next poll finds the items that this one did not submit")
            return None

    async def forever(self, stop: asyncio.Event) -> None:
        """Poll at once and then every `scheduling.interval` seconds until `stop` is set."""
        errors = BACKGROUND_ERRORS.labels("poll")
        while not stop.is_set():
            try:
                await self.until(stop)
            except CodingAgentError as error:
                _logger.error("The poll failed; the next poll retries: %s", error)  # noqa: TRY400
            except Exception:
                # A defect in one poll must not prevent the next polls, which recover missed webhooks.
                errors.inc()
                _logger.exception("Unexpected error in a poll; the next poll retries")
            try:
                async with asyncio.timeout(self._settings.scheduling.interval):
                    await stop.wait()
            except TimeoutError:
                continue

    async def _items(self, poll: _Poll) -> Pass:
        return await self._asking.each(lambda request: self._submit(poll, request))

    async def _submit(self, poll: _Poll, request: TaskRequest) -> None:
        if await self._applied_by_us(request):
            known = request.item.identity in self._ignored
            self._ignored.add(request.item.identity)
            _logger.log(logging.DEBUG if known else logging.WARNING, "Ignored: %s", OWN_LABEL)
            return
        self._ignored.discard(request.item.identity)
        submission = await self._sink.submit(request)
        if submission.duplicate is not None:
            poll.duplicates += 1
            _logger.debug("Duplicate of task %s: %s", submission.task, submission.duplicate)
            return
        poll.created.append(submission.task)
        _logger.info("Task queued, recovered by poll: %s", submission.task)
        if self._metrics is not None:
            self._metrics.recovered.labels(self._forge.platform).inc()

    async def _applied_by_us(self, request: TaskRequest) -> bool:
        # If the time is not known, neither is who applied the label, and `user` is the item's author.
        if self._settings.own_label_counts or request.trigger.labeled_at is None:
            return False
        return request.user.casefold() == (await self._forge.whoami()).casefold()

    async def _redeliver(self) -> str | None:
        """Request missed deliveries again. This runs beside the submissions, so that neither stops the other.

        Returns:
            Why this failed; `None` if it did not.
        """
        try:
            asked = await self._forge.redeliver_missed(self._settings)
        except ForgeError as error:
            _logger.warning("The next poll asks %s for missed deliveries: %s", self._forge.host, error)
            return str(error)
        if self._metrics is not None:
            self._metrics.redelivered.labels(self._forge.platform).inc(asked)
        return None

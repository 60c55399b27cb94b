"""Polls: submits labeled items that no webhook reported, and asks the forge for missed deliveries."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from coding_agent_core.errors import ForgeError, QueueUnavailableError
from coding_agent_core.forge.base import Forge
from coding_agent_core.forge.events import OWN_LABEL
from coding_agent_core.queue_messages import TaskSink
from coding_agent_core.queues.memory import MemoryQueue
from coding_agent_core.registry import FACTS
from coding_agent_core.retry import StoppedError, run_until
from coding_agent_core.settings.model import Settings
from coding_agent_core.tasks import TaskRequest
from coding_agent_core.telemetry import bound

from coding_agent_receiver.receiver_metrics import PollMetrics
from coding_agent_receiver.resume import resume_tasks

_logger = logging.getLogger("webhook.poller")
_STOP_GRACE = 10.0
"""Seconds within which a poll must end after a stop. (It may wait for minutes because of rate limits.)"""


def scope_problem(settings: Settings) -> str | None:
    """Return why polls of `task_source` need a narrower scope, and the settings for it, or `None`.

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
        problem: why the poll ended early; `None` if it is complete.
    """

    found: int
    created: tuple[str, ...]
    duplicates: int
    problem: str | None = None


async def poll_once(
    settings: Settings, forge: Forge, sink: TaskSink, *, metrics: PollMetrics | None = None
) -> PollReport:
    """Submit every labeled item once. The report has errors of forge and queue, and the next poll retries."""
    found, duplicates, created = 0, 0, list[str]()
    problem: str | None = None
    try:
        async for request in forge.find_labeled():
            found += 1
            with bound(item=request.item.display):
                if await _applied_by_us(settings, forge, request):
                    _logger.warning("Ignored: %s", OWN_LABEL)
                    continue
                submission = await sink.submit(request)
                if submission.duplicate is not None:
                    duplicates += 1
                    _logger.debug("Duplicate of task %s: %s", submission.task, submission.duplicate)
                    continue
                created.append(submission.task)
                _logger.info("Task queued, recovered by poll: %s", submission.task)
                if metrics is not None:
                    metrics.recovered.labels(forge.platform).inc()
        if isinstance(sink, MemoryQueue):
            await resume_tasks(forge, sink, settings.labels(forge.platform))
        redelivered = await forge.redeliver_missed(settings)
        if metrics is not None:
            metrics.redelivered.labels(forge.platform).inc(redelivered)
    except (ForgeError, QueueUnavailableError) as error:
        problem = str(error)
        _logger.warning("The poll of %s ended early; the next poll retries: %s", forge.host, problem)
        if metrics is not None:
            metrics.failed.labels(forge.platform).inc()
    _logger.info(
        "Polled %s: %d labeled, %d recovered by poll, %d known", forge.host, found, len(created), duplicates
    )
    return PollReport(found=found, created=tuple(created), duplicates=duplicates, problem=problem)


async def _applied_by_us(settings: Settings, forge: Forge, request: TaskRequest) -> bool:
    # Without a time, `user` is the item's author, because it is not known who applied the label.
    if settings.own_label_counts or request.trigger.labeled_at is None:
        return False
    return request.user.casefold() == (await forge.whoami()).casefold()


async def poll_until(
    stop: asyncio.Event,
    settings: Settings,
    forge: Forge,
    sink: TaskSink,
    *,
    metrics: PollMetrics | None = None,
) -> PollReport | None:
    """Poll once, but end soon after `stop` is set. Return `None` if this ended the poll."""
    try:
        return await run_until(
            lambda: poll_once(settings, forge, sink, metrics=metrics), stop, grace=_STOP_GRACE
        )
    except StoppedError:
        _logger.info("Stopped during a poll; the next poll finds the items that this one did not submit")
        return None


async def poll_forever(
    settings: Settings,
    forge: Forge,
    sink: TaskSink,
    stop: asyncio.Event,
    *,
    metrics: PollMetrics | None = None,
) -> None:
    """Poll at once and then every `scheduling.interval` seconds until `stop` is set."""
    while not stop.is_set():
        try:
            await poll_until(stop, settings, forge, sink, metrics=metrics)
        except Exception:
            # A defect in one poll must not prevent the next polls, which recover missed webhooks.
            _logger.exception("Unexpected error in a poll; the next poll retries")
        try:
            async with asyncio.timeout(settings.scheduling.interval):
                await stop.wait()
        except TimeoutError:
            continue

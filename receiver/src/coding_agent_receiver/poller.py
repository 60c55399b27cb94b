"""Polling: labeled items that no webhook reported are submitted in the same way."""

from __future__ import annotations

import asyncio
import logging
import re
from dataclasses import dataclass
from typing import assert_never

from coding_agent_core.errors import ForgeError, QueueUnavailableError
from coding_agent_core.forge.protocol import Forge
from coding_agent_core.logs import bound
from coding_agent_core.platforms import FACTS, Platform
from coding_agent_core.queues.protocol import TaskSink
from coding_agent_core.settings import Settings

from coding_agent_receiver.metrics import PollMetrics
from coding_agent_receiver.redelivery import redeliver_missed

_logger = logging.getLogger("webhook.poller")
_GITHUB_SCOPE = re.compile(r"\b(repo|org|user|assignee|author|involves):\S")


def scope_problem(settings: Settings) -> str | None:
    """Why polling `task_source` needs a narrower scope, with the settings that set it; `None` if it does not.

    On GitHub Enterprise and a self-managed GitLab the whole instance is scope enough.
    """
    match settings.task_source:
        case Platform.GITHUB:
            github = settings.github
            narrowed = bool(github.owner or github.assignee or _GITHUB_SCOPE.search(github.query))
            how = (
                "set github.owner, github.assignee, or a qualifier such as `org:NAME` or "
                "`repo:OWNER/NAME` in github.query"
            )
        case Platform.GITLAB:
            gitlab = settings.gitlab
            narrowed = bool(gitlab.project_id or gitlab.group_id or gitlab.assignee)
            how = "set gitlab.project_id, gitlab.group_id or gitlab.assignee"
        case _:
            assert_never(settings.task_source)
    host = settings.hosts[settings.task_source]
    if narrowed or host != FACTS[settings.task_source].web_host:
        return None
    return f"polling {host} without a scope would find the items of strangers: {how}"


@dataclass(frozen=True)
class PollReport:
    """The result of one poll.

    Attributes:
        found: labeled items.
        created: names of the tasks that were created.
        duplicates: items that already had a task.
        problem: why the poll ended early; `None` if it is complete.
    """

    found: int
    created: tuple[str, ...]
    duplicates: int
    problem: str | None = None


async def poll_once(
    settings: Settings, forge: Forge, sink: TaskSink, *, metrics: PollMetrics | None = None
) -> PollReport:
    """Submit every labeled item once. Errors of forge and queue are in the report; the next poll retries."""
    found, duplicates, created = 0, 0, list[str]()
    problem: str | None = None
    try:
        async for request in forge.find_labeled(settings.labels(forge.platform).bot_label):
            found += 1
            with bound(item=request.item.display):
                submission = await sink.submit(request)
                if submission.duplicate is not None:
                    duplicates += 1
                    _logger.debug("Duplicate of task %s: %s", submission.task, submission.duplicate)
                    continue
                created.append(submission.task)
                _logger.info("Task queued, recovered by poll: %s", submission.task)
                if metrics is not None:
                    metrics.recovered.labels(forge.platform).inc()
        await redeliver_missed(settings, forge, metrics)
    except (ForgeError, QueueUnavailableError) as error:
        problem = str(error)
        _logger.warning("The poll of %s ended early; the next poll retries: %s", forge.host, problem)
        if metrics is not None:
            metrics.failed.labels(forge.platform).inc()
    _logger.info(
        "Polled %s: %d labeled, %d recovered by poll, %d known", forge.host, found, len(created), duplicates
    )
    return PollReport(found=found, created=tuple(created), duplicates=duplicates, problem=problem)


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
            await poll_once(settings, forge, sink, metrics=metrics)
        except Exception:
            # A defect in one poll must not end polling, which recovers missed webhooks.
            _logger.exception("Unexpected error in a poll; the next poll retries")
        try:
            async with asyncio.timeout(settings.scheduling.interval):
                await stop.wait()
        except TimeoutError:
            continue

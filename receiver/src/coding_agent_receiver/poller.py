"""Polling: submits labeled items that no webhook reported, and has GitHub send missed deliveries again.

GitHub never sends a failed delivery again by itself. An event is missed as long as none of its deliveries
succeeded.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from typing import assert_never

from coding_agent_core.errors import (
    ForgeError,
    ForgeNotFoundError,
    ForgeRefusedError,
    QueueUnavailableError,
)
from coding_agent_core.forge.base import Forge
from coding_agent_core.forge.values import Hook, HookDelivery, Hooks, ItemState, LabelEvent
from coding_agent_core.messages import TaskSink
from coding_agent_core.queues.memory import MemoryQueue
from coding_agent_core.registry import FACTS, Platform
from coding_agent_core.retry import StoppedError, run_until
from coding_agent_core.settings.model import Settings
from coding_agent_core.tasks import TaskRequest
from coding_agent_core.telemetry import bound

from coding_agent_receiver import github
from coding_agent_receiver.events import OWN_LABEL, Accepted, Delivery
from coding_agent_receiver.metrics import PollMetrics
from coding_agent_receiver.request import FieldError
from coding_agent_receiver.resume import resume_tasks

_logger = logging.getLogger("webhook.poller")
_STOP_GRACE = 10.0
"""Seconds that a poll has to end after a stop. It may wait for minutes for the forge's rate limit."""
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
            narrowed = bool(gitlab.projects or gitlab.group_id or gitlab.assignee)
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


async def _applied_by_us(settings: Settings, forge: Forge, request: TaskRequest) -> bool:
    # Without a time, `user` is the item's author: who applied the label is not known.
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
    """Poll once, but end soon after `stop` is set: `None` if it ended the poll."""
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
            # A defect in one poll must not end polling, which recovers missed webhooks.
            _logger.exception("Unexpected error in a poll; the next poll retries")
        try:
            async with asyncio.timeout(settings.scheduling.interval):
                await stop.wait()
        except TimeoutError:
            continue


KEPT = timedelta(days=3)
"""How long GitHub keeps a delivery (GitHub's documentation, *Redelivering webhooks*)."""
LIMIT = 50
"""Missed events of one webhook that one poll examines."""
_IN_VAIN = 5
"""Failed deliveries of an event while the receiver accepted others; then it is not retried."""


@dataclass(frozen=True)
class Missed:
    """The last delivery of each missed event.

    Attributes:
        again: deliveries after which, or in the same second, the receiver accepted another one. All are sent
            again, in the order of the events.
        probes: deliveries since which the receiver accepted nothing. One is sent again, as a probe; the
            least retried comes first.
    """

    again: tuple[HookDelivery, ...] = ()
    probes: tuple[HookDelivery, ...] = ()


def wanted(settings: Settings) -> bool:
    of = settings.github.redelivery
    return settings.task_source is Platform.GITHUB and bool(of.repositories or of.organizations)


def ours(hooks: Iterable[Hook], url: str) -> list[Hook]:
    return [hook for hook in hooks if hook.url.rstrip("/") == url.rstrip("/")]


def events(settings: Settings) -> frozenset[str]:
    """Names of the events that can have an effect here."""
    commands = {github.COMMENT_EVENT} if settings.webhook.commands.enabled else set()
    return frozenset(settings.webhook.github.events) | commands


def missed(log: Iterable[HookDelivery], of: Collection[str]) -> Missed:
    """The missed events in a webhook's log.

    Args:
        log: all deliveries of the webhook since the oldest failed one.
        of: names of the relevant events.
    """
    deliveries = sorted(log, key=lambda delivery: (delivery.at, delivery.id))
    accepted = [delivery.at for delivery in deliveries if delivery.succeeded]
    by_event: dict[str, list[HookDelivery]] = {}
    for delivery in deliveries:
        by_event.setdefault(delivery.guid, []).append(delivery)
    again: list[list[HookDelivery]] = []
    probes: list[list[HookDelivery]] = []
    for tries in by_event.values():
        succeeded = any(delivery.succeeded for delivery in tries)
        if tries[0].event in of and not succeeded and not _in_vain(tries, accepted):
            # GitHub gives whole seconds. A success in the same second counts as later: better one
            # redelivery too many than only one in each poll.
            up = bool(accepted) and accepted[-1] >= tries[-1].at
            (again if up else probes).append(tries)
    return Missed(
        again=tuple(tries[-1] for tries in again),
        probes=tuple(tries[-1] for tries in sorted(probes, key=len)),
    )


def turns(deliveries: Sequence[HookDelivery], chance: Random) -> tuple[HookDelivery, ...]:
    """The deliveries that this poll examines, in their order: all, or a random `LIMIT` of them.

    The choice is random so that many deliveries without effect (their label is gone) do not block the others.
    """
    if len(deliveries) <= LIMIT:
        return tuple(deliveries)
    return tuple(deliveries[index] for index in sorted(chance.sample(range(len(deliveries)), LIMIT)))


def is_withdrawn(
    item: ItemState, history: Sequence[LabelEvent], triggers: Collection[str], own_login: str
) -> bool:
    """Whether a person took a missed label application back: removed the label, or closed the item.

    A label that our own account removed may have been applied again just before, so the receiver has to see
    the event: admission knows which applications have their run.

    Args:
        history: from `Forge.label_history`, read after the item.
    """
    if not item.open:
        return True
    if set(triggers) & item.labels:
        return False
    last = history[0] if history else None
    return last is None or (not last.added and last.user.casefold() != own_login.casefold())


def _in_vain(tries: list[HookDelivery], accepted: list[datetime]) -> bool:
    up_since = next((at for at in accepted if at > tries[0].at), None)
    return up_since is not None and sum(delivery.at > up_since for delivery in tries) >= _IN_VAIN


async def redeliver_missed(settings: Settings, forge: Forge, metrics: PollMetrics | None = None) -> None:
    """Ask the forge to send missed deliveries again.

    A webhook that cannot be read causes a warning only, because the label search finds missed items too.
    """
    hooks = forge.hooks() if wanted(settings) else None
    if hooks is not None:
        await _RedeliveryRound(settings, forge, hooks, metrics).all()


@dataclass(frozen=True)
class _RedeliveryRound:
    settings: Settings
    forge: Forge
    hooks: Hooks
    metrics: PollMetrics | None

    async def all(self) -> None:
        of = self.settings.github.redelivery
        for owner in (*of.repositories, *of.organizations):
            find = self.hooks.of_repository if "/" in owner else self.hooks.of_organization
            try:
                found = ours(await find(owner), of.webhook_url)
                if not found:
                    _logger.warning(
                        "%s has no active webhook with the URL %s; check github.redelivery.webhook_url",
                        owner,
                        of.webhook_url,
                    )
                for hook in found:
                    await self._of_hook(hook)
            except (ForgeRefusedError, ForgeNotFoundError) as error:
                _logger.warning(
                    "Cannot redeliver missed events of %s; the token needs the permission Webhooks (read and "
                    "write): %s",
                    owner,
                    error,
                )
            except ForgeError as error:
                _logger.warning("The next poll retries missed deliveries of %s: %s", owner, error)

    async def _of_hook(self, hook: Hook) -> None:
        relevant = events(self.settings)
        oldest = datetime.now(UTC) - KEPT
        failed = [
            delivery.at
            async for delivery in self.hooks.deliveries(hook, oldest, failed_only=True)
            if delivery.event in relevant
        ]
        if not failed:
            return
        log = [delivery async for delivery in self.hooks.deliveries(hook, min(failed))]
        open_ = missed(log, relevant)
        again = [delivery async for delivery in self._current(hook, open_.again)]
        for delivery in again:
            await self._again(hook, delivery)
        if not again:
            async for delivery in self._current(hook, open_.probes):
                await self._again(hook, delivery)
                break

    async def _current(self, hook: Hook, deliveries: tuple[HookDelivery, ...]) -> AsyncIterator[HookDelivery]:
        """The deliveries without label applications that were taken back.

        The receiver may have accepted the event that removed the label; nothing would cancel the task then.
        """
        for delivery in turns(deliveries, Random()):
            payload = await self.hooks.payload(hook, delivery)
            try:
                meaning = github.interpret(
                    Delivery(delivery.event, delivery.guid), payload, self.settings, datetime.now(UTC)
                )
            except FieldError:
                meaning = None  # the receiver will report it
            if isinstance(meaning, Accepted):
                try:
                    withdrawn = await self._is_withdrawn(meaning.request)
                except ForgeNotFoundError:
                    continue
                if withdrawn:
                    continue
            yield delivery

    async def _is_withdrawn(self, request: TaskRequest) -> bool:
        triggers = self.settings.github.triggers
        item = await self.forge.read_state(request.item)
        history: list[LabelEvent] = []
        if item.open and not triggers & item.labels:
            history = await self.forge.label_history(request.item, request.trigger.labeled_at)
        return is_withdrawn(item, history, triggers, await self.forge.whoami() if history else "")

    async def _again(self, hook: Hook, delivery: HookDelivery) -> None:
        await self.hooks.redeliver(hook, delivery)
        _logger.info(
            "Asked for the redelivery of a missed event: %s, %s, %s", delivery.event, delivery.guid, hook.name
        )
        if self.metrics is not None:
            self.metrics.redelivered.labels(self.forge.platform).inc()

"""Missed deliveries: which of them the forge is asked to send again, and the requests for that.

GitHub never sends a failed delivery again by itself. An event is missed as long as none of its deliveries
succeeded.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random

from coding_agent_core.errors import ForgeError, ForgeNotFoundError, ForgeRefusedError
from coding_agent_core.forge.protocol import Forge, Hook, HookDelivery, Hooks
from coding_agent_core.platforms import Platform
from coding_agent_core.settings import Settings

from coding_agent_receiver import github
from coding_agent_receiver.events import Accepted, Delivery
from coding_agent_receiver.metrics import PollMetrics
from coding_agent_receiver.payload import FieldError

_logger = logging.getLogger("webhook.redelivery")

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
    """Whether the poll searches for missed deliveries."""
    of = settings.github.redelivery
    return settings.task_source is Platform.GITHUB and bool(of.repositories or of.organizations)


def ours(hooks: Iterable[Hook], url: str) -> list[Hook]:
    """The webhooks with our URL."""
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


def _in_vain(tries: list[HookDelivery], accepted: list[datetime]) -> bool:
    up_since = next((at for at in accepted if at > tries[0].at), None)
    return up_since is not None and sum(delivery.at > up_since for delivery in tries) >= _IN_VAIN


async def redeliver_missed(settings: Settings, forge: Forge, metrics: PollMetrics | None = None) -> None:
    """Ask the forge to send missed deliveries again.

    A webhook that cannot be read causes a warning only, because the label search finds missed items too.
    """
    hooks = forge.hooks() if wanted(settings) else None
    if hooks is not None:
        await _Round(settings, forge, hooks, metrics).all()


@dataclass(frozen=True)
class _Round:
    settings: Settings
    forge: Forge
    hooks: Hooks
    metrics: PollMetrics | None

    async def all(self) -> None:
        of = self.settings.github.redelivery
        for owner in (*of.repositories, *of.organizations):
            try:
                await self._of(owner)
            except (ForgeRefusedError, ForgeNotFoundError) as error:
                _logger.warning(
                    "Cannot redeliver missed events of %s; the token needs the permission Webhooks (read and "
                    "write): %s",
                    owner,
                    error,
                )
            except ForgeError as error:
                _logger.warning("The next poll retries missed deliveries of %s: %s", owner, error)

    async def _of(self, owner: str) -> None:
        url = self.settings.github.redelivery.webhook_url
        find = self.hooks.of_repository if "/" in owner else self.hooks.of_organization
        found = ours(await find(owner), url)
        if not found:
            _logger.warning(
                "%s has no active webhook with the URL %s; check github.redelivery.webhook_url", owner, url
            )
        for hook in found:
            await self._of_hook(hook)

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
        """The deliveries without label applications that are no longer on their items.

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
                    item = await self.forge.read_state(meaning.request.item)
                except ForgeNotFoundError:
                    continue
                if not item.open or self.settings.github.bot_label not in item.labels:
                    continue
            yield delivery

    async def _again(self, hook: Hook, delivery: HookDelivery) -> None:
        await self.hooks.redeliver(hook, delivery)
        _logger.info(
            "Asked for the redelivery of a missed event: %s, %s, %s", delivery.event, delivery.guid, hook.name
        )
        if self.metrics is not None:
            self.metrics.redelivered.labels(self.forge.platform).inc()

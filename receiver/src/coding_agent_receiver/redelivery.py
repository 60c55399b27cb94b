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
"""How long GitHub keeps a delivery (its documentation, *Redelivering webhooks*)."""
LIMIT = 50
"""Missed events of one webhook that are looked at in one poll."""
_IN_VAIN = 5
"""Failed deliveries of an event since the receiver took others again: it is not tried any further."""


@dataclass(frozen=True)
class Missed:
    """The last delivery of each missed event.

    Attributes:
        again: the receiver has taken something since they failed, or in the same second: send them all again,
            in this order, that of the events.
        probes: it has not: send one of them, to find out. The least tried first.
    """

    again: tuple[HookDelivery, ...] = ()
    probes: tuple[HookDelivery, ...] = ()


def wanted(settings: Settings) -> bool:
    """Whether the poll is to look for missed deliveries."""
    of = settings.github.redelivery
    return settings.task_source is Platform.GITHUB and bool(of.repositories or of.organizations)


def ours(hooks: Iterable[Hook], url: str) -> list[Hook]:
    """The webhooks that send to us."""
    return [hook for hook in hooks if hook.url.rstrip("/") == url.rstrip("/")]


def events(settings: Settings) -> frozenset[str]:
    """Names of the events that can mean something to us."""
    commands = {github.COMMENT_EVENT} if settings.webhook.commands.enabled else set()
    return frozenset(settings.webhook.github.events) | commands


def missed(log: Iterable[HookDelivery], of: Collection[str]) -> Missed:
    """What was missed.

    Args:
        log: the deliveries of one webhook, all of them since the oldest event in question.
        of: names of the events that matter.
    """
    deliveries = sorted(log, key=lambda each: (each.at, each.id))
    taken = [each.at for each in deliveries if each.succeeded]
    by_event: dict[str, list[HookDelivery]] = {}
    for each in deliveries:
        by_event.setdefault(each.guid, []).append(each)
    again: list[list[HookDelivery]] = []
    probes: list[list[HookDelivery]] = []
    for tries in by_event.values():
        if tries[0].event in of and not any(each.succeeded for each in tries) and not _in_vain(tries, taken):
            # GitHub tells whole seconds. Of two in one second the success counts: sent in vain, once, is the
            # lesser evil; else one event per poll would be sent again.
            up = bool(taken) and taken[-1] >= tries[-1].at
            (again if up else probes).append(tries)
    return Missed(
        again=tuple(tries[-1] for tries in again),
        probes=tuple(tries[-1] for tries in sorted(probes, key=len)),
    )


def turns(deliveries: Sequence[HookDelivery], chance: Random) -> tuple[HookDelivery, ...]:
    """Those that are looked at in this poll, in their order: all, or `LIMIT` of them by chance.

    By chance, so that many that lead to nothing (their label is gone) hold nobody up.
    """
    if len(deliveries) <= LIMIT:
        return tuple(deliveries)
    return tuple(deliveries[each] for each in sorted(chance.sample(range(len(deliveries)), LIMIT)))


def _in_vain(tries: list[HookDelivery], taken: list[datetime]) -> bool:
    up_since = next((at for at in taken if at > tries[0].at), None)
    return up_since is not None and sum(each.at > up_since for each in tries) >= _IN_VAIN


async def redeliver_missed(settings: Settings, forge: Forge, metrics: PollMetrics | None = None) -> None:
    """Ask for what our webhooks sent in vain.

    A webhook that cannot be read is a warning, and the next one is looked at: the search for labels is the
    wider net.
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
                    "Missed deliveries of %s are not sent again; the token needs the permission Webhooks, "
                    "read and write: %s",
                    owner,
                    error,
                )
            except ForgeError as error:
                _logger.warning("Missed deliveries of %s wait for the next poll: %s", owner, error)

    async def _of(self, owner: str) -> None:
        url = self.settings.github.redelivery.webhook_url
        find = self.hooks.of_repository if "/" in owner else self.hooks.of_organization
        found = ours(await find(owner), url)
        if not found:
            _logger.warning("%s has no active webhook to %s: see github.redelivery.webhook_url", owner, url)
        for hook in found:
            await self._of_hook(hook)

    async def _of_hook(self, hook: Hook) -> None:
        matter = events(self.settings)
        oldest = datetime.now(UTC) - KEPT
        failed = [
            each.at
            async for each in self.hooks.deliveries(hook, oldest, failed_alone=True)
            if each.event in matter
        ]
        if not failed:
            return
        log = [each async for each in self.hooks.deliveries(hook, min(failed))]
        open_ = missed(log, matter)
        again = [each async for each in self._current(hook, open_.again)]
        for delivery in again:
            await self._again(hook, delivery)
        if not again:
            async for delivery in self._current(hook, open_.probes):
                await self._again(hook, delivery)
                break

    async def _current(self, hook: Hook, deliveries: tuple[HookDelivery, ...]) -> AsyncIterator[HookDelivery]:
        """Those but for label applications that their items do not show any more.

        The event of taking the label off may have been taken, and then nothing would end the task.
        """
        for delivery in turns(deliveries, Random()):
            payload = await self.hooks.payload(hook, delivery)
            try:
                meaning = github.interpret(
                    Delivery(delivery.event, delivery.guid), payload, self.settings, datetime.now(UTC)
                )
            except FieldError:
                meaning = None  # for the receiver to say, in its log
            if isinstance(meaning, Accepted):
                try:
                    item = await self.forge.glance(meaning.request.item)
                except ForgeNotFoundError:
                    continue
                if not item.open or self.settings.github.bot_label not in item.labels:
                    continue
            yield delivery

    async def _again(self, hook: Hook, delivery: HookDelivery) -> None:
        await self.hooks.redeliver(hook, delivery)
        _logger.info(
            "Asked for a missed delivery again: %s, %s, %s", delivery.event, delivery.guid, hook.name
        )
        if self.metrics is not None:
            self.metrics.redelivered.labels(self.forge.platform).inc()

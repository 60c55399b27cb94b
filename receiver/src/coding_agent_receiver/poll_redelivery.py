"""Has the forge send missed deliveries again, beside the search for labels (requirement B4)."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from random import Random

from coding_agent_core.errors import ForgeError, ForgeNotFoundError, ForgeRefusedError
from coding_agent_core.forge.protocol import Forge, Hook, HookDelivery, Hooks
from coding_agent_core.settings import Settings

from coding_agent_receiver import github
from coding_agent_receiver.events import Accepted, Delivery
from coding_agent_receiver.metrics import PollMetrics
from coding_agent_receiver.payload import FieldError
from coding_agent_receiver.redelivery import KEPT, events, missed, ours, turns, wanted

_logger = logging.getLogger("webhook.redelivery")


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

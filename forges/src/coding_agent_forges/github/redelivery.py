"""Asks GitHub to send missed deliveries again, because GitHub never does so on its own.

An event is missed as long as none of its deliveries has succeeded.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

from coding_agent_core.errors import ForgeError, ForgeNotFoundError, ForgeRefusedError
from coding_agent_core.forge.values import ItemState, LabelEvent
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.settings.model import Settings
from coding_agent_core.task.model import TaskRequest
from pydantic import AliasPath, Field

from coding_agent_forges.github import webhook
from coding_agent_forges.github.settings import Redelivery
from coding_agent_forges.rest.calls import PAGE_SIZE, Call, Repeat, ResponseModel, path
from coding_agent_forges.rest.client import ForgeClient
from coding_agent_forges.rest.forge import Forge
from coding_agent_forges.webhooks.events import Accepted, Delivery
from coding_agent_forges.webhooks.issue_payload import COMMENT_EVENT
from coding_agent_forges.webhooks.payload import FieldError

_logger = logging.getLogger("webhook.poller")
_HOOK_PAGES = 10
_LOG_PAGES = 30
"""Maximum number of pages of a webhook's log that are read: the newest 3,000 deliveries."""


@dataclass(frozen=True)
class Hook:
    """A webhook.

    Attributes:
        path: the webhook's path in the forge's API.
        url: the webhook's payload URL.
        name: the webhook's name in log lines and errors.
    """

    path: str
    url: str
    name: str


@dataclass(frozen=True)
class HookDelivery:
    """A delivery of an event to a webhook. Redeliveries of the event have the same `guid`.

    Attributes:
        at: the time by the forge's clock.
        status: the receiver's HTTP status, or GitHub's own if there was no answer (502: no connection, 504:
            too late).
    """

    id: int
    guid: str
    at: datetime
    status: int
    event: str

    @property
    def succeeded(self) -> bool:
        return 200 <= self.status < 300


class _HookResponse(ResponseModel):
    id: int
    active: bool
    url: str = Field(default="", validation_alias=AliasPath("config", "url"))


class _HookDeliveryResponse(ResponseModel):
    id: int
    guid: str
    delivered_at: datetime
    status_code: int
    event: str


class _HookDeliveryDetail(ResponseModel):
    payload: dict[str, Any] | None = Field(default=None, validation_alias=AliasPath("request", "payload"))


@dataclass(frozen=True)
class GitHubHooks:
    """The reader of the log of webhook deliveries, which GitHub keeps for 3 days.

    The token needs the permission *Webhooks* (write). Repositories and organizations have the same API:
    https://docs.github.com/rest/repos/webhooks, https://docs.github.com/rest/orgs/webhooks
    """

    client: ForgeClient

    async def of_repository(self, repository: str) -> list[Hook]:
        return await self._hooks(path("repos", *repository.split("/", 1), "hooks"), repository)

    async def of_organization(self, organization: str) -> list[Hook]:
        return await self._hooks(path("orgs", organization, "hooks"), organization)

    async def deliveries(
        self, hook: Hook, since: datetime, *, failed_only: bool = False
    ) -> AsyncIterator[HookDelivery]:
        params: dict[str, str | int] = {"per_page": PAGE_SIZE}
        if failed_only:
            params["status"] = "failure"
        call = Call("GET", f"{hook.path}/deliveries", f"reading the deliveries of {hook.name}", params)
        for _ in range(_LOG_PAGES):
            response = await self.client.send(call)
            for entry in self.client.parse(list[_HookDeliveryResponse], response, call):
                if entry.delivered_at < since:
                    return
                delivery = HookDelivery(
                    entry.id, entry.guid, entry.delivered_at, entry.status_code, entry.event
                )
                if not (failed_only and delivery.succeeded):  # an old Enterprise Server may ignore `status`
                    yield delivery
            following = response.links.get("next", {}).get("url")
            if following is None:
                return
            call = Call("GET", following, call.what)

    async def payload(self, hook: Hook, delivery: HookDelivery) -> dict[str, Any]:
        what = f"reading delivery {delivery.guid} of {hook.name}"
        call = Call("GET", f"{hook.path}/deliveries/{delivery.id}", what)
        return (await self.client.get(_HookDeliveryDetail, call)).payload or {}

    async def redeliver(self, hook: Hook, delivery: HookDelivery) -> None:
        """Ask GitHub to send a delivery again; the redelivery has the same `X-GitHub-Delivery`."""
        what = f"having delivery {delivery.guid} of {hook.name} sent again"
        address = f"{hook.path}/deliveries/{delivery.id}/attempts"
        await self.client.send(Call("POST", address, what, repeat=Repeat.UNLESS_PROCESSED))

    async def _hooks(self, where: str, owner: str) -> list[Hook]:
        call = Call("GET", where, f"reading the webhooks of {owner}")
        return [
            Hook(path=f"{where}/{hook.id}", url=hook.url, name=f"the webhook {hook.id} of {owner}")
            for hook in (await self.client.entries(list[_HookResponse], call, limit=_HOOK_PAGES)).values
            if hook.active
        ]


KEPT = timedelta(days=3)
"""How long GitHub keeps a delivery (GitHub's documentation, *Redelivering webhooks*)."""
LIMIT = 50
"""Maximum number of missed events of one webhook that one poll examines."""
_IN_VAIN = 5
"""After this many failed deliveries while the receiver accepted other events, an event is not retried."""


@dataclass(frozen=True)
class Missed:
    """The last delivery of each missed event.

    Attributes:
        again: deliveries after which, perhaps in the same second, the receiver accepted another one. All of
            them are sent again, in the order of the events.
        probes: deliveries after which the receiver accepted nothing. Only one is sent again, as a probe. The
            delivery with the fewest retries is first.
    """

    again: tuple[HookDelivery, ...] = ()
    probes: tuple[HookDelivery, ...] = ()


def ours(hooks: Iterable[Hook], url: str) -> list[Hook]:
    return [hook for hook in hooks if hook.url.rstrip("/") == url.rstrip("/")]


def relevant_events(settings: Settings) -> frozenset[str]:
    """Return the names of the events that can have an effect here."""
    commands = {COMMENT_EVENT} if settings.webhook.commands.enabled else set()
    return frozenset(settings.webhook.of(Platform.GITHUB).events) | commands


def missed(log: Iterable[HookDelivery], of: Collection[str]) -> Missed:
    """Return the missed events in a webhook's log.

    Args:
        log: all deliveries of the webhook since the oldest failed one.
        of: the names of the relevant events.
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
            # GitHub's times are whole seconds. A success in the same second counts as a later one, because
            # one redelivery too many is better than only one in each poll.
            up = bool(accepted) and accepted[-1] >= tries[-1].at
            (again if up else probes).append(tries)
    return Missed(
        again=tuple(tries[-1] for tries in again),
        probes=tuple(tries[-1] for tries in sorted(probes, key=len)),
    )


def turns(deliveries: Sequence[HookDelivery], chance: Random) -> tuple[HookDelivery, ...]:
    """Return the deliveries that this poll examines, in their order: all, or `LIMIT` chosen at random.

    The choice is random, so that many deliveries without effect (their label is gone) do not block others.
    """
    if len(deliveries) <= LIMIT:
        return tuple(deliveries)
    return tuple(deliveries[index] for index in sorted(chance.sample(range(len(deliveries)), LIMIT)))


def is_withdrawn(
    item: ItemState, history: Sequence[LabelEvent], triggers: Collection[str], own_login: str
) -> bool:
    """Whether a person withdrew a missed label application: removed the label, or closed the item.

    If our own account removed the label, a person may have applied it again just before. Then the receiver
    must get the event, because admission knows which applications have their run.

    Args:
        history: the events of the item's labels, read after the item.
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


@dataclass
class RedeliveryRound:
    """Requests redeliveries from the webhooks that the settings name, once.

    A webhook that cannot be read only causes a warning, because the label search finds missed items too.

    Attributes:
        forge: reads items and their history.
        asked: the number of deliveries that GitHub was asked to send again.
    """

    settings: Settings
    forge: Forge
    of: Redelivery
    hooks: GitHubHooks
    asked: int = 0

    async def run(self) -> int:
        of = self.of
        for owner in (*of.repositories, *of.organizations):
            find = self.hooks.of_repository if "/" in owner else self.hooks.of_organization
            try:
                hooks = ours(await find(owner), of.webhook_url)
                if not hooks:
                    _logger.warning(
                        "%s has no active webhook with the URL %s; check github.redelivery.webhook_url",
                        owner,
                        of.webhook_url,
                    )
                for hook in hooks:
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
        return self.asked

    async def _of_hook(self, hook: Hook) -> None:
        relevant = relevant_events(self.settings)
        oldest = datetime.now(UTC) - KEPT
        failed = [
            delivery.at
            async for delivery in self.hooks.deliveries(hook, oldest, failed_only=True)
            if delivery.event in relevant
        ]
        if not failed:
            return
        # The whole log from there shows which events were accepted later, by a redelivery or by hand.
        log = [delivery async for delivery in self.hooks.deliveries(hook, min(failed))]
        open_ = missed(log, relevant)
        again = [delivery async for delivery in self._current(hook, open_.again)]
        for delivery in again:
            await self._again(hook, delivery)
        # If the receiver accepts nothing, one event shows when it does again; all of them would fail in
        # vain.
        if not again:
            async for delivery in self._current(hook, open_.probes):
                await self._again(hook, delivery)
                break

    async def _current(self, hook: Hook, deliveries: tuple[HookDelivery, ...]) -> AsyncIterator[HookDelivery]:
        """Yield the deliveries, except label applications that were withdrawn.

        The receiver may have accepted the event that removed the label, so nothing would cancel the task.
        """
        for delivery in turns(deliveries, Random()):
            payload = await self.hooks.payload(hook, delivery)
            try:
                meaning = webhook.interpret(
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
        triggers = self.settings.forge(Platform.GITHUB).triggers
        item = await self.forge.read_state(request.item)
        history: tuple[LabelEvent, ...] = ()
        if item.open and not triggers & item.labels:
            history = (await self.forge.label_history(request.item, request.trigger.labeled_at)).values
        return is_withdrawn(item, history, triggers, await self.forge.whoami() if history else "")

    async def _again(self, hook: Hook, delivery: HookDelivery) -> None:
        await self.hooks.redeliver(hook, delivery)
        _logger.info(
            "Asked for the redelivery of a missed event: %s, %s, %s", delivery.event, delivery.guid, hook.name
        )
        self.asked += 1

"""Webhook deliveries: sent in the background, as `DeliverySettings` say; each attempt is written down.

Like GitHub, the sandbox never tries again by itself. It gives a receiver more time than GitHub's ten seconds:
a delivery must not be lost because the machine of a test stands still for a while.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx2

from coding_agent_testbed.forge.delivery_settings import Copy, DeliverySettings
from coding_agent_testbed.forge.errors import DeliveryError
from coding_agent_testbed.forge.model import CheckHappening, Delivery, Happening, Hook
from coding_agent_testbed.forge.store import Store

PENDING = "pending"
"""Status of a delivery that is still on its way."""
KEPT_RESPONSE = 64 * 1024
"""Bytes of a receiver's answer that the log keeps."""


@dataclass(frozen=True)
class Message:
    """An event ready to be sent to a hook, but for the headers of one delivery."""

    event: str
    action: str | None
    payload: dict[str, Any]
    repository_id: int | None = None


Seal = Callable[[Hook, Message, str], tuple[dict[str, str], bytes]]
"""A flavour's headers (signature included) and body for a hook, a message and the delivery's guid."""


class Deliveries:
    """The delivery log, and the sending."""

    def __init__(self, store: Store, seal: Seal, new_guid: Callable[[], str]) -> None:
        self.log: list[Delivery] = []
        self.settings = DeliverySettings()
        self._store = store
        self._seal = seal
        self._new_guid = new_guid
        self._client: httpx2.AsyncClient | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sending: dict[int, asyncio.Task[None]] = {}
        self._events: Counter[str] = Counter()
        self._held: dict[tuple[int, int], dict[int, asyncio.Event]] = {}

    def start(self) -> None:
        """Called on the server's loop before the first event."""
        self._loop = asyncio.get_running_loop()
        self._client = httpx2.AsyncClient(timeout=None, trust_env=False)  # `_post` has a limit

    async def stop(self) -> None:
        """Give up what is still being sent."""
        tasks = list(self._sending.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._client is not None:
            await self._client.aclose()

    def tell(self, hook: Hook, message: Message, happening: Happening | CheckHappening) -> None:
        """Send a message about what happened, as often and as late as the settings say."""
        if isinstance(happening, CheckHappening):
            about, labels = happening.check.id, []
            place = (happening.repository.full_name, "check", happening.check.name)
        else:
            item, labels = happening.item, [label.name for label in happening.added + happening.removed]
            about = item.id
            place = (happening.repository.full_name, item.kind.value, str(item.number))
        what = (message.event, message.action, labels, self._store.hooks.index(hook))
        event = f"{place} {happening.actor.login} {what}"
        self._events[event] += 1
        guid = self._new_guid()
        for copy in self.settings.copies(f"{event} {self._events[event]}"):
            self._send(hook, message, self._new_guid() if copy.other_id else guid, copy, about=about)

    def send(self, hook: Hook, message: Message, *, again: Delivery | None = None) -> Delivery:
        """Send a message at once; `again` is the earlier delivery whose guid it keeps."""
        guid = again.guid if again else self._new_guid()
        return self._send(hook, message, guid, Copy(), again=again is not None)

    def _send(
        self, hook: Hook, message: Message, guid: str, copy: Copy, *, about: int = 0, again: bool = False
    ) -> Delivery:
        headers, body = self._seal(hook, message, guid)
        delivery = Delivery(
            id=self._store.next_id(),
            guid=guid,
            hook=hook,
            event=message.event,
            action=message.action,
            headers=headers,
            payload=message.payload,
            delivered_at=self._store.now(),
            repository_id=message.repository_id,
            redelivery=again,
        )
        self.log.append(delivery)
        if self._loop is None:  # seeding: nobody listens yet
            delivery.status = "not sent"
            return delivery
        task = self._loop.create_task(self._deliver(delivery, body, copy, about))
        self._sending[delivery.id] = task
        task.add_done_callback(lambda _: self._sending.pop(delivery.id))
        return delivery

    def resend(self, delivery: Delivery) -> Delivery:
        """Send the same event again, under the same guid."""
        message = Message(delivery.event, delivery.action, delivery.payload, delivery.repository_id)
        return self.send(delivery.hook, message, again=delivery)

    async def finished(self, delivery: Delivery) -> Delivery:
        """The delivery, when its attempt has ended."""
        task = self._sending.get(delivery.id)
        if task is not None:
            await asyncio.wait([task])
        return delivery

    async def accepted(self, since: int) -> None:
        """Wait for the deliveries that the log has now, but for the first `since` of them.

        Raises:
            DeliveryError: the answer to one of them was not 2xx.
        """
        for delivery in self.log[since:]:
            answered = await self.finished(delivery)
            if not 200 <= answered.status_code < 300:
                what = f"{answered.event} to {answered.hook.url}: {answered.status}"
                raise DeliveryError(f"{what} ({answered.status_code})\n{answered.response_body}")

    def all_ended(self) -> bool:
        """Whether none is on its way, waits for its time or is held back."""
        return not self._sending

    def of_hook(self, hook: Hook) -> list[Delivery]:
        """A hook's deliveries that have ended, newest first: no forge shows one that is still on its way."""
        return [entry for entry in reversed(self.log) if entry.hook is hook and entry.status != PENDING]

    async def _deliver(self, delivery: Delivery, body: bytes, copy: Copy, about: int) -> None:
        await asyncio.sleep(copy.late)
        held = self._held.setdefault((delivery.hook.id, about), {})
        if copy.held is not None and not held:
            held[delivery.id] = asyncio.Event()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(held[delivery.id].wait(), copy.held)
            del held[delivery.id]
        delivery.delivered_at = self._store.now()
        if copy.dropped:
            delivery.status, delivery.status_code = "failed to connect to host", 502
        else:
            await self._post(delivery, body)
        for older, released in held.items():
            if older < delivery.id:
                released.set()

    async def _post(self, delivery: Delivery, body: bytes) -> None:
        assert self._client is not None
        began = time.monotonic()
        try:
            async with asyncio.timeout(self.settings.timeout_seconds):
                answer = await self._client.post(delivery.hook.url, content=body, headers=delivery.headers)
        except TimeoutError:
            delivery.status, delivery.status_code = "timed out", 504
        except (httpx2.HTTPError, httpx2.InvalidURL):
            delivery.status, delivery.status_code = "failed to connect to host", 502
        else:
            ok = answer.is_success
            delivery.status = "OK" if ok else f"Invalid HTTP Response: {answer.status_code}"
            delivery.status_code = answer.status_code
            delivery.response_headers = dict(answer.headers)
            delivery.response_body = answer.content[:KEPT_RESPONSE].decode("utf-8", "replace")
        delivery.duration = round(time.monotonic() - began, 3)

"""Webhook deliveries: sent at once and in the background, once; each attempt is written down.

Like GitHub, the sandbox gives a receiver ten seconds and never tries again by itself.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx

from coding_agent_forge.model import Delivery, Hook
from coding_agent_forge.store import Store

DELIVERY_TIMEOUT = 10.0
"""Seconds that a receiver has (GitHub: best practices for using webhooks)."""
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
        self._store = store
        self._seal = seal
        self._new_guid = new_guid
        self._client: httpx.AsyncClient | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sending: dict[int, asyncio.Task[None]] = {}

    def start(self) -> None:
        """Called on the server's loop before the first event."""
        self._loop = asyncio.get_running_loop()
        self._client = httpx.AsyncClient(timeout=DELIVERY_TIMEOUT, trust_env=False)

    async def stop(self) -> None:
        """Give up what is still being sent."""
        tasks = list(self._sending.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._client is not None:
            await self._client.aclose()

    def send(self, hook: Hook, message: Message, *, again: Delivery | None = None) -> Delivery:
        """Send a message; `again` is the earlier delivery whose guid it keeps."""
        guid = again.guid if again else self._new_guid()
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
            redelivery=again is not None,
        )
        self.log.append(delivery)
        if self._loop is None:  # seeding: nobody listens yet
            delivery.status = "not sent"
            return delivery
        task = self._loop.create_task(self._deliver(delivery, body))
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

    def of_hook(self, hook: Hook) -> list[Delivery]:
        """A hook's deliveries that have ended, newest first: no forge shows one that is still on its way."""
        return [entry for entry in reversed(self.log) if entry.hook is hook and entry.status != PENDING]

    async def _deliver(self, delivery: Delivery, body: bytes) -> None:
        assert self._client is not None
        began = time.monotonic()
        try:
            async with asyncio.timeout(DELIVERY_TIMEOUT):
                answer = await self._client.post(delivery.hook.url, content=body, headers=delivery.headers)
        except (TimeoutError, httpx.TimeoutException):
            delivery.status, delivery.status_code = "timed out", 504
        except (httpx.HTTPError, httpx.InvalidURL):
            delivery.status, delivery.status_code = "failed to connect to host", 502
        else:
            ok = answer.is_success
            delivery.status = "OK" if ok else f"Invalid HTTP Response: {answer.status_code}"
            delivery.status_code = answer.status_code
            delivery.response_headers = dict(answer.headers)
            delivery.response_body = answer.content[:KEPT_RESPONSE].decode("utf-8", "replace")
        delivery.duration = round(time.monotonic() - began, 3)

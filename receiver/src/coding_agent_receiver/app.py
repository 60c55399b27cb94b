"""The webhook endpoint, which verifies a request, stores its task, and replies.

`WebhookEndpoint` refuses requests that cannot be authentic before it reads their body, and parses no payload
before it is verified. `Intake` acts on the meaning of an authentic request.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, cast

from coding_agent_core.errors import QueueUnavailableError
from coding_agent_core.platforms.addresses import Address, client_group
from coding_agent_core.platforms.registry import FACTS, Platform, forge_module
from coding_agent_core.platforms.text import safe
from coding_agent_core.queues.interfaces import RescanSink, TaskSink
from coding_agent_core.runtime.telemetry import bound
from coding_agent_core.settings.model import Settings
from coding_agent_core.settings.receiver import networks
from coding_agent_core.settings.section import Secrets
from coding_agent_core.task.admission import Keep
from coding_agent_core.task.commands import CommandIgnored, IssueCommand
from coding_agent_core.task.model import CommandName, Item, TaskRequest, Withdrawal
from coding_agent_forges.webhooks.events import (
    Accepted,
    Commanded,
    Delivery,
    Ignored,
    Meaning,
    PlatformWebhooks,
    Rescan,
    Withdrawn,
)
from coding_agent_forges.webhooks.payload import FieldError
from coding_agent_forges.webhooks.proof import Verification
from starlette.types import Receive, Scope, Send

from coding_agent_receiver import replies
from coding_agent_receiver.limits import (
    SMALL_BODY,
    AddressCheck,
    Allowlist,
    BodyRoom,
    NoRoomError,
    RateLimits,
)
from coding_agent_receiver.receiver_metrics import ReceiverMetrics
from coding_agent_receiver.replies import WebhookReply
from coding_agent_receiver.turns import OverloadedError, Turns
from coding_agent_receiver.webhook_request import BodyError, client_address, decode_payload, require_json

_logger = logging.getLogger("webhook.server")

STORE_TIMEOUT_FACTOR = 2.0
"""What `development.webhook_timeout` is multiplied by for the longest that any queue may take: 8 seconds.
Each queue has a shorter limit of its own. GitHub treats an answer after 10 seconds as a failure."""
BODY_GRACE = 5.0
"""Seconds within which the first bytes of a body must arrive."""
BODY_RATE = 256 * 1024
"""After that, a larger body must arrive with at least this many bytes per second."""
BODY_TIMEOUT = 30.0
"""Seconds within which any body must arrive completely."""

Headers = Mapping[str, str]

WEBHOOKS: Mapping[Platform, PlatformWebhooks] = {
    platform: cast("PlatformWebhooks", forge_module(platform, "webhook")) for platform in Platform
}


class _DisconnectedError(Exception):
    """The error if the sender closed the connection before its request was complete."""


@dataclass(frozen=True)
class Webhooks:
    """The webhooks of one platform, with their secrets."""

    platform: Platform
    module: PlatformWebhooks
    secrets: Secrets

    @property
    def title(self) -> str:
        return FACTS[self.platform].title

    @property
    def path(self) -> str:
        return f"/webhook/{self.platform}"


class WebhookEndpoint:
    """The ASGI handler of `POST /webhook/<platform>`.

    It reads the body itself, as it arrives, because its limits depend on who sends it.
    """

    def __init__(self, settings: Settings, intake: Intake, allowlist: Allowlist) -> None:
        self._intake, self._allowlist = intake, allowlist
        self._metrics = intake.metrics
        self._limits = RateLimits(settings.webhook.rate_limit)
        self._largest = settings.webhook.max_body_bytes
        self._room = BodyRoom(self._largest)
        self._trusted = networks(settings.webhook.trusted_proxies)
        self.webhooks = tuple(
            Webhooks(platform, module, Secrets(settings.webhook.secret(platform)))
            for platform, module in WEBHOOKS.items()
        )

    async def handle(self, webhooks: Webhooks, scope: Scope, receive: Receive, send: Send) -> None:
        """Reply to a `POST` to the path of these webhooks."""
        start = time.perf_counter()
        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in reversed(scope["headers"])
        }
        delivery = webhooks.module.delivery(headers)
        with bound(delivery=delivery.id):
            answer = await self._answer(webhooks, delivery, headers, scope, receive)
        self._metrics.answered(
            webhooks.platform,
            delivery.event,
            result=answer.result,
            status=answer.status,
            seconds=time.perf_counter() - start,
        )
        await _send(send, answer)

    async def _answer(
        self, webhooks: Webhooks, delivery: Delivery, headers: Headers, scope: Scope, receive: Receive
    ) -> WebhookReply:
        try:
            client = self._client(scope)
            checked = await self._verified_payload(webhooks, delivery, headers, client, receive)
            meaning = (
                checked
                if isinstance(checked, WebhookReply)
                else self._intake.meaning(webhooks, delivery, checked)
            )
            if isinstance(meaning, WebhookReply):
                return meaning
            del checked  # many events may wait for their turn, and a payload is much larger than its meaning
            return await self._intake.act(webhooks, meaning)
        except _DisconnectedError:
            _logger.warning("The sender closed the connection before its request was complete")
            return replies.refused(400, "the body was cut short", "disconnected")
        except Exception:
            # The status is 503 and not 500, because the event can be sent again, e.g. by a redelivery.
            _logger.exception("Unexpected error while answering a %s webhook", webhooks.title)
            return replies.unavailable("an internal error; the event was not processed", "internal_error")

    async def _verified_payload(
        self,
        webhooks: Webhooks,
        delivery: Delivery,
        headers: Headers,
        client: Address | None,
        receive: Receive,
    ) -> dict[str, Any] | WebhookReply:
        """Return the payload of an authentic request, or the reply that refuses it."""
        refusal = self._refused_network(client)
        if refusal is not None:
            return refusal
        verification = webhooks.module.verification(headers, webhooks.secrets.current())
        if verification is None:
            return self._not_verified(webhooks, delivery, client)
        # Under overload, a request is refused before its body takes memory.
        if self._intake.turns.overloaded:
            return replies.overloaded()
        try:
            body = await self._read(receive, verification, headers, client_group(client))
        except BodyError as error:
            _logger.error("Refused a %s webhook: %s", webhooks.title, error)  # noqa: TRY400 - not our error
            return replies.unreadable(error)
        except NoRoomError:
            _logger.warning("Refused a %s webhook: too many bodies at once", webhooks.title)
            return replies.unavailable("too many bodies at once", "overloaded")
        if not verification.valid():
            return self._not_verified(webhooks, delivery, client)
        wait = self._limits.verified(client_group(client))
        if wait is not None:
            _logger.error("Too many webhooks from %s; this event is lost", client)
            return replies.too_many(wait)
        try:
            require_json(headers.get("content-type"))
            return decode_payload(body)
        except BodyError as error:
            _logger.error("Cannot read the %s payload: %s", webhooks.title, error)  # noqa: TRY400
            return replies.unreadable(error)

    def _client(self, scope: Scope) -> Address | None:
        peer = scope["client"][0] if scope.get("client") else ""
        forwarded = (
            [value.decode("latin-1") for name, value in scope["headers"] if name == b"x-forwarded-for"]
            if self._trusted
            else []
        )
        return client_address(peer, forwarded, self._trusted)

    def _refused_network(self, client: Address | None) -> WebhookReply | None:
        match self._allowlist.check(client):
            case AddressCheck.ALLOWED:
                return None
            case AddressCheck.UNKNOWN:
                _logger.error("GitHub's hook addresses are not known yet; refused %s", client)
                return replies.unavailable("the addresses of GitHub's webhooks are not known yet")
            case AddressCheck.REFUSED:
                _logger.error("Refused %s: not in webhook.allowed_networks", client)
                return replies.refused(403, "your address is not allowed to send webhooks", "forbidden")

    def _not_verified(self, webhooks: Webhooks, delivery: Delivery, client: Address | None) -> WebhookReply:
        self._metrics.signature_failed(webhooks.platform)
        wait = self._limits.failed(client_group(client))
        if wait is not None:
            _logger.debug("Too many requests without a valid %s", webhooks.module.PROOF)
            return replies.too_many(wait)
        _logger.error(
            "%s validation failed for a %s webhook: event=%s, client=%s",
            webhooks.module.PROOF.capitalize(),
            webhooks.title,
            safe(delivery.event, 60),
            client,
        )
        return replies.refused(401, f"the {webhooks.module.PROOF} is missing or wrong", "unauthorized")

    async def _read(
        self, receive: Receive, verification: Verification, headers: Headers, client: str
    ) -> bytes | bytearray:
        """Read the raw body, and pass it to the verification as it arrives.

        Raises:
            BodyError: 413 if the body exceeds the limit, announced or not; 408 if it arrives too slowly.
            NoRoomError: too many bytes of other bodies are in memory.
            _DisconnectedError: the sender closed the connection.
        """
        too_large = BodyError(413, f"the body is larger than {self._largest} bytes")
        length = headers.get("content-length", "")
        size = int(length[:20]) if length.isdecimal() else self._largest
        if size > self._largest:
            raise too_large
        async with self._room.reserve(client, size) as room:
            start = asyncio.get_running_loop().time()
            # A large body gets its full size at once, because moving it would take more memory than reserved.
            body, end = bytearray(size if size > SMALL_BODY else 0), 0
            try:
                async with asyncio.timeout(BODY_GRACE) as deadline:
                    room.on_eviction = lambda: deadline.reschedule(0)
                    while True:
                        message = await receive()
                        if message["type"] == "http.disconnect":
                            raise _DisconnectedError
                        chunk: bytes = message.get("body", b"")
                        more = message.get("more_body", False)
                        if end + len(chunk) > self._largest:
                            raise too_large
                        verification.update(chunk)
                        if not more and not end:
                            return chunk
                        room.arrived(len(chunk))
                        body[end : end + len(chunk)] = chunk
                        end += len(chunk)
                        if not more:
                            del body[end:]
                            return body
                        seconds = BODY_GRACE + end / BODY_RATE
                        deadline.reschedule(start + min(BODY_TIMEOUT, seconds))
            except TimeoutError as error:
                if room.evicted:
                    raise NoRoomError from error
                raise BodyError(408, "the body did not arrive in time") from error


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


async def _send(send: Send, answer: WebhookReply) -> None:
    body = _encode(answer.body).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    headers += [(name.lower().encode(), value.encode()) for name, value in answer.headers.items()]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@dataclass
class Intake:
    """The rules that turn verified webhooks into tasks, cancellations and commands.

    The reply is 200 only after the queue has stored the task or command.
    """

    settings: Settings
    sink: TaskSink
    metrics: ReceiverMetrics
    clock: Callable[[], datetime]
    turns: Turns = field(init=False)

    def __post_init__(self) -> None:
        self.turns = Turns(self.settings.development.webhook_timeout)

    def meaning(
        self, webhooks: Webhooks, delivery: Delivery, payload: dict[str, Any]
    ) -> Meaning | WebhookReply:
        """Return the meaning of an authentic webhook, or the reply that refuses an unreadable one."""
        if not delivery.event:
            _logger.error("The request has no %s header", webhooks.module.EVENT_HEADER)
            return replies.refused(400, f"the header {webhooks.module.EVENT_HEADER} is missing", "unreadable")
        try:
            meaning = webhooks.module.interpret(delivery, payload, self.settings, self.clock())
        except FieldError as error:
            _logger.error("Cannot use the payload: %s", error)  # noqa: TRY400
            return replies.refused(422, str(error), "unreadable")
        if _logger.isEnabledFor(logging.DEBUG):
            action = safe(webhooks.module.action_of(payload), 60)
            event = safe(delivery.event, 60)
            _logger.debug("Received %s webhook: event=%s, action=%s", webhooks.title, event, action)
            _logger.debug("%s validation successful", webhooks.module.PROOF.capitalize())
        return meaning

    async def act(self, webhooks: Webhooks, meaning: Meaning) -> WebhookReply:
        """Carry out the meaning of an authentic webhook, and return the reply."""
        if isinstance(meaning, Ignored):
            level = logging.WARNING if meaning.unexpected else logging.INFO
            _logger.log(level, "Ignored: %s", meaning.reason)
            return replies.ignored(meaning.reason)
        try:
            turn = self.turns.turn(_item_of(meaning), is_withdrawal=_is_withdrawal(meaning))
            limit = STORE_TIMEOUT_FACTOR * self.settings.development.webhook_timeout
            async with turn, asyncio.timeout(limit):
                if isinstance(meaning, Accepted):
                    return await self._submit(webhooks, meaning.request)
                if isinstance(meaning, Commanded):
                    return await self._command(meaning.command)
                if isinstance(meaning, Rescan):
                    return await self._rescan(meaning)
                return await self._withdraw(meaning.withdrawal)
        except OverloadedError:
            _logger.warning("Not stored: more events arrive than the queue can take")
            return replies.overloaded()
        except (QueueUnavailableError, TimeoutError) as error:
            self.metrics.queue_failed(webhooks.platform)
            problem = str(error) or "the queue did not answer in time"
            lost = {Commanded: "Command not stored", Rescan: "Rescan not stored"}
            what = lost.get(type(meaning), "Task not queued")
            _logger.error("%s: %s", what, problem)  # noqa: TRY400 - the sentence says it all
            return replies.unavailable("the task queue is not reachable; send the event again later")

    async def _submit(self, webhooks: Webhooks, request: TaskRequest) -> WebhookReply:
        _logger.debug("Label matched: %s", self.settings.labels(webhooks.platform).bot_label)
        submission = await self.sink.submit(request)
        if submission.duplicate is not None:
            _logger.info("Duplicate of task %s: %s", submission.task, submission.duplicate)
            return replies.duplicate(submission.task)
        _logger.info("Task queued successfully: %s: %s", submission.task, task_text(request.item))
        return replies.success(submission.task)

    async def _withdraw(self, withdrawal: Withdrawal) -> WebhookReply:
        decision = await self.sink.withdraw(withdrawal)
        if isinstance(decision, Keep):
            reason = f"{withdrawal.reason}, but {decision.why}"
            _logger.info("Ignored: %s", reason)
            return replies.ignored(reason)
        _logger.info("Cancelling task %s: %s", decision.task, withdrawal.reason)
        return replies.cancelled(decision.task)

    async def _command(self, command: IssueCommand) -> WebhookReply:
        what = f"/{command.name} by {command.user} on {command.item.display}"
        stored = await self.sink.command(command)
        if isinstance(stored, CommandIgnored):
            _logger.warning("Ignored: %s: %s", what, stored.why)
            return replies.ignored(stored.why)
        _logger.info("Command stored: %s, on %s", what, stored.place)
        return replies.command_stored(command.name, stored.place)

    async def _rescan(self, rescan: Rescan) -> WebhookReply:
        stored = None
        if isinstance(self.sink, RescanSink):
            stored = await self.sink.look(rescan.items, rescan.author)
        if stored is None:
            reason = f"{rescan.why}, but no task is known for the change"
            _logger.info("Ignored: %s", reason)
            return replies.ignored(reason)
        _logger.info("Rescan stored: %s, on %s", rescan.why, stored)
        return replies.rescan_stored(stored)


def _item_of(meaning: Accepted | Withdrawn | Commanded | Rescan) -> str:
    match meaning:
        case Accepted(request=about) | Withdrawn(withdrawal=about) | Commanded(command=about):
            return about.item.identity
        case Rescan(items=items):
            return items[0].identity


def _is_withdrawal(meaning: Accepted | Withdrawn | Commanded | Rescan) -> bool:
    """Whether the event may stop work. Such events are stored first, because unwanted work costs money."""
    if isinstance(meaning, Commanded):
        return meaning.command.name is CommandName.CANCEL
    return isinstance(meaning, Withdrawn)


def task_text(item: Item) -> str:
    """Return text like `TaskGitHubIssue(owner=notfolder, repo=coding_agent, issue=123)`.

    People's log analysis depends on this form.
    """
    fields = item.key
    key_type = str(fields.pop("type"))
    if "number" in fields:
        fields[key_type.partition("_")[2]] = fields.pop("number")
    inside = ", ".join(f"{name}={value}" for name, value in fields.items())
    return f"{FACTS[item.platform].keys[item.kind].task_class}({inside})"

"""One webhook request from its headers to its answer: who, is it real, what does it mean, is it stored.

The order matters: nothing is parsed before it is verified, and nothing is answered 200 before it is stored.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from coding_agent_core.commands import CommandIgnored, IssueCommand
from coding_agent_core.errors import QueueUnavailableError
from coding_agent_core.logs import bound, safe
from coding_agent_core.platforms import FACTS
from coding_agent_core.queues.protocol import TaskSink
from coding_agent_core.settings import Settings
from coding_agent_core.settings.forges import networks
from coding_agent_core.tasks import Item, TaskRequest, Withdrawal
from starlette.requests import ClientDisconnect, Request

from coding_agent_receiver import answers
from coding_agent_receiver.address import Address, client_address, client_group
from coding_agent_receiver.answers import Answer
from coding_agent_receiver.body import BodyError, decode, require_json
from coding_agent_receiver.events import Accepted, Commanded, Delivery, Ignored, Meaning
from coding_agent_receiver.metrics import ReceiverMetrics
from coding_agent_receiver.networks import Admission, Allowlist
from coding_agent_receiver.payload import FieldError
from coding_agent_receiver.platforms import Webhooks
from coding_agent_receiver.rate_limit import RateLimits

_logger = logging.getLogger("webhook.server")

BODY_TIMEOUT = 30.0
"""Seconds in which a body must arrive whole."""
STORE_TIMEOUT = 8.0
"""Seconds for the queue; GitHub takes an answer that comes after 10 for a failure."""


@dataclass
class Intake:
    """What answers webhooks, with all it needs."""

    settings: Settings
    sink: TaskSink
    metrics: ReceiverMetrics
    allowlist: Allowlist
    clock: Callable[[], datetime]

    def __post_init__(self) -> None:
        self._trusted = networks(self.settings.webhook.trusted_proxies)
        self._limits = RateLimits(
            self.settings.webhook.rate_limit, lambda request: client_group(self.client(request))
        )

    def client(self, request: Request) -> Address | None:
        """Whose request it is."""
        peer = request.client.host if request.client else ""
        return client_address(peer, request.headers.getlist("x-forwarded-for"), self._trusted)

    async def answer(self, request: Request, webhooks: Webhooks) -> Answer:
        """Answer one request; whatever happens, it is an answer."""
        delivery = webhooks.delivery(request.headers)
        with bound(delivery=delivery.id):
            try:
                return await self._answer(request, webhooks, delivery)
            except ClientDisconnect:
                _logger.warning("The sender hung up before its request was whole")
                return answers.refused(400, "the body was cut short", "disconnected")
            except Exception:
                # 503, not 500: what a defect of ours swallowed can be sent again, e.g. by a redelivery.
                _logger.exception("Unexpected error while answering a %s webhook", webhooks.title)
                return answers.unavailable("an internal error; the event was not processed", "internal_error")

    async def _answer(self, request: Request, webhooks: Webhooks, delivery: Delivery) -> Answer:
        refusal = self._refused_network(request)
        if refusal is not None:
            return refusal
        if not webhooks.plausible(request.headers):
            return await self._not_verified(request, webhooks, delivery)
        try:
            body = await _read(request, self.settings.webhook.max_body_bytes)
        except BodyError as error:
            _logger.error("Refused a %s webhook: %s", webhooks.title, error)  # noqa: TRY400 - not our error
            return answers.unreadable(error)
        if not webhooks.verified(request.headers, body):
            return await self._not_verified(request, webhooks, delivery)
        wait = await self._limits.verified(request)
        if wait is not None:
            _logger.error("Too many webhooks from %s; this event is lost", self.client(request))
            return _too_many(wait)
        try:
            require_json(request.headers.get("content-type"))
            payload = decode(body)
        except BodyError as error:
            _logger.error("Cannot read the %s payload: %s", webhooks.title, error)  # noqa: TRY400
            return answers.unreadable(error)
        return await self._verified(webhooks, delivery, payload)

    def _refused_network(self, request: Request) -> Answer | None:
        match self.allowlist.admits(self.client(request)):
            case Admission.ALLOWED:
                return None
            case Admission.UNKNOWN:
                _logger.error("GitHub's hook addresses are not known yet; refused %s", self.client(request))
                return answers.unavailable("the addresses of GitHub's webhooks are not known yet")
            case Admission.REFUSED:
                _logger.error("Refused %s: not in webhook.allowed_networks", self.client(request))
                return answers.refused(403, "your address is not allowed to send webhooks", "forbidden")

    async def _not_verified(self, request: Request, webhooks: Webhooks, delivery: Delivery) -> Answer:
        self.metrics.signature_failed(webhooks.platform)
        wait = await self._limits.failed(request)
        if wait is not None:
            _logger.debug("Too many requests without a valid %s", webhooks.proof)
            return _too_many(wait)
        _logger.error(
            "%s validation failed for a %s webhook: event=%s, client=%s",
            webhooks.proof.capitalize(),
            webhooks.title,
            safe(delivery.event, 60),
            self.client(request),
        )
        return answers.refused(401, f"the {webhooks.proof} is missing or wrong", "unauthorized")

    async def _verified(self, webhooks: Webhooks, delivery: Delivery, payload: dict[str, Any]) -> Answer:
        _logger.info(
            "Received %s webhook: event=%s, action=%s",
            webhooks.title,
            safe(delivery.event, 60),
            safe(webhooks.action_of(payload), 60),
        )
        _logger.info("%s validation successful", webhooks.proof.capitalize())
        if not delivery.event:
            _logger.error("The request has no %s header", webhooks.event_header)
            return answers.refused(400, f"the header {webhooks.event_header} is missing", "unreadable")
        try:
            meaning = webhooks.interpret(delivery, payload, self.settings, self.clock())
        except FieldError as error:
            _logger.error("Cannot use the payload: %s", error)  # noqa: TRY400
            return answers.refused(422, str(error), "unreadable")
        return await self._act(webhooks, meaning)

    async def _act(self, webhooks: Webhooks, meaning: Meaning) -> Answer:
        if isinstance(meaning, Ignored):
            _logger.warning("Ignored: %s", meaning.reason)
            return answers.ignored(meaning.reason)
        try:
            async with asyncio.timeout(STORE_TIMEOUT):
                if isinstance(meaning, Accepted):
                    return await self._submit(webhooks, meaning.request)
                if isinstance(meaning, Commanded):
                    return await self._command(meaning.command)
                return await self._withdraw(meaning.withdrawal)
        except (QueueUnavailableError, TimeoutError) as error:
            self.metrics.queue_failed(webhooks.platform)
            problem = str(error) or "the queue did not answer in time"
            what = "Command not stored" if isinstance(meaning, Commanded) else "Task not queued"
            _logger.error("%s: %s", what, problem)  # noqa: TRY400 - the sentence says it all
            return answers.unavailable("the task queue is not reachable; send the event again later")

    async def _submit(self, webhooks: Webhooks, request: TaskRequest) -> Answer:
        _logger.info("Label matched: %s", self.settings.labels(webhooks.platform).bot_label)
        submission = await self.sink.submit(request)
        if submission.duplicate is not None:
            _logger.info("No new task, %s is its task: %s", submission.task, submission.duplicate)
            return answers.duplicate(submission.task)
        _logger.info("Created task: %s", describe(request.item))
        _logger.info("Task queued successfully: %s", submission.task)
        return answers.success(submission.task)

    async def _withdraw(self, withdrawal: Withdrawal) -> Answer:
        task = await self.sink.withdraw(withdrawal)
        if task is None:
            _logger.warning("Ignored: %s; it has no task to cancel", withdrawal.reason)
            return answers.ignored(f"{withdrawal.reason}; it has no task to cancel")
        _logger.info("Cancelled task %s: %s", task, withdrawal.reason)
        return answers.cancelled(task)

    async def _command(self, command: IssueCommand) -> Answer:
        what = f"/{command.name} by {command.user} on {command.item.display}"
        stored = await self.sink.command(command)
        if isinstance(stored, CommandIgnored):
            _logger.warning("Ignored: %s: %s", what, stored.why)
            return answers.ignored(stored.why)
        _logger.info("Command stored: %s, on %s", what, stored.place)
        return answers.commanded(command.name, stored.place)


def describe(item: Item) -> str:
    """`TaskGitHubIssue(owner=notfolder, repo=coding_agent, issue=123)`: log analysis depends on the form."""
    fields = item.key
    key_type = str(fields.pop("type"))
    if "number" in fields:
        fields[key_type.partition("_")[2]] = fields.pop("number")
    inside = ", ".join(f"{name}={value}" for name, value in fields.items())
    return f"{FACTS[item.platform].keys[item.kind].task_class}({inside})"


async def _read(request: Request, limit: int) -> bytes:
    """The whole raw body.

    Raises:
        BodyError: 413 beyond the limit, announced or not; 408 where it does not arrive in time.
        ClientDisconnect: the sender hung up.
    """
    too_large = BodyError(413, f"the body is larger than {limit} bytes")
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:20]) > limit:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit:
                    raise too_large
    except TimeoutError as error:
        raise BodyError(408, f"the body did not arrive within {BODY_TIMEOUT:.0f} seconds") from error
    return bytes(body)


def _too_many(wait: int) -> Answer:
    return answers.refused(429, "too many requests", "rate_limited", **{"Retry-After": str(wait)})

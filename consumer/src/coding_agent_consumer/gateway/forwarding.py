"""Handle the gateway's requests: check the credential, pass the request on, and return the answer."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import aiohttp
from coding_agent_core.settings.llm import Price
from coding_agent_core.task.usage import Usage
from coding_agent_forges.rest.pacing import retry_after

from coding_agent_consumer.gateway.headers import (
    check_content,
    returned_headers,
    sent_headers,
    sent_parameters,
    traceparent,
)
from coding_agent_consumer.gateway.ledger import (
    Ledger,
    Pricing,
    Verdict,
    dearest,
    longest_answer,
    pricing_of,
)
from coding_agent_consumer.gateway.meter import Ending, Meter
from coding_agent_consumer.gateway.model_request import ModelRequest, read_request
from coding_agent_consumer.gateway.providers import Providers, SilentProviderError
from coding_agent_consumer.gateway.upstream import Upstream
from coding_agent_consumer.gateway.wire_formats import (
    Operation,
    RequestRefusedError,
    Route,
    credential_of,
    error_body,
    route_of,
)

_logger = logging.getLogger("coding_agent.gateway")

HEAD_LIMIT = 64 * 1024
"""The largest head of a request, in bytes."""
_BODY_LIMIT = 32 * 1024 * 1024
"""The largest body of a request, in bytes; Anthropic does not accept more."""
_BODIES_LIMIT = 2 * _BODY_LIMIT
"""The most bytes of all bodies that are held at a time."""
_BODY_SECONDS = 60.0
"""A request's body must arrive within this time."""
_ERROR_LIMIT = 1024 * 1024
"""The most bytes of a provider's error that are passed on."""


class Gateway:
    """An open gateway, from `open_gateway`.

    Attributes:
        url: base URL for clients of Anthropic's and Google's formats; clients of OpenAI's append `/v1`.
        credential: this gateway's own credential: a Bearer token, `x-api-key` or `x-goog-api-key`.
        exhausted: set once a request was answered 402 because of the allowance.
        requests: number of requests for an answer that were answered or are under way.
        most_requests: how many answers the client may have; `None`: there is no limit.
        too_many: set once a request was refused because of `most_requests`.
        trace: id of the trace that the requests of this attempt belong to.
        asked: seconds for which the provider asked to wait with its last answer; `None` if it did not.
        retry_after: seconds to wait, added to a 429 of a provider that gives none; `None`: nothing is added.
    """

    def __init__(self, url: str, ledger: Ledger) -> None:
        self.url = url
        self.credential = f"gateway-{secrets.token_urlsafe(32)}"
        self.trace = secrets.token_hex(16)
        self.exhausted = asyncio.Event()
        self.requests = 0
        self.most_requests: int | None = None
        self.too_many = asyncio.Event()
        self.asked: float | None = None
        self.retry_after: int | None = None
        self._ledger = ledger

    @property
    def usage(self) -> Usage:
        """The usage so far, of all models together."""
        return self._ledger.usage

    @property
    def models(self) -> Mapping[str, Usage]:
        """The usage so far, by model."""
        return self._ledger.models

    @property
    def spent(self) -> str:
        """The spent part of the allowance so far, as text for people; empty without an allowance."""
        allowance = self._ledger.allowance
        return "" if allowance is None else allowance.shown(self._ledger.spent)


class _ClientGoneError(Exception):
    """The client closed its connection before its request was passed on."""


@dataclass(frozen=True)
class _Request:
    query: bytes
    headers: Mapping[str, str]
    body: bytes


@dataclass
class GatewayApp:
    """The ASGI application. It contains no rules: `wire_formats`, `model_request` and `ledger` decide."""

    gateway: Gateway
    ledger: Ledger
    providers: Providers
    upstreams: Sequence[Upstream]
    prices: dict[str, Price]
    allowed: Sequence[str]
    provider_tools: bool
    on_counted: Callable[[Usage], None]
    running: set[asyncio.Future[None]] = field(default_factory=set)
    _held: int = 0
    _answered: asyncio.Condition = field(default_factory=asyncio.Condition)
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        handling = asyncio.ensure_future(self._handle(scope, receive, send))
        self.running.add(handling)
        handling.add_done_callback(self.running.discard)
        await handling

    async def _handle(self, scope: Any, receive: Any, send: Any) -> None:
        method, path = scope["method"], scope["path"]
        try:
            headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        except UnicodeDecodeError:
            await _refuse(send, None, 400, "A header is not UTF-8.")
            return
        if method == "HEAD" and path == "/":
            await _answer(send, 200, b"", [])  # Claude Code checks that the gateway answers
            return
        if sum(len(name) + len(value) for name, value in headers.items()) > HEAD_LIMIT:
            await _refuse(send, None, 431, f"The head of the request is larger than {HEAD_LIMIT} bytes.")
            return
        given = credential_of(headers).encode()
        route = route_of(method, path, headers)
        # A plain comparison takes longer the more characters are right, and commands can try as often as
        # they like.
        if not hmac.compare_digest(given, self.gateway.credential.encode()):
            await _refuse(send, route, 401, "The credential is not the one of this attempt's gateway.")
            return
        if route is None:
            await _refuse(send, None, 404, "The gateway only accepts requests to a model.")
            return
        try:
            body = await self._body(headers, receive) if method == "POST" else b""
            try:
                await self._proxy(route, _Request(scope["query_string"], headers, body), receive, send)
            finally:
                self._held -= len(body)
        except RequestRefusedError as refused:
            await _refuse(send, route, refused.status, str(refused))
        except _ClientGoneError:
            return

    async def _body(self, headers: Mapping[str, str], receive: Any) -> bytes:
        check_content(headers)
        body = bytearray()
        more = True
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                while more:
                    message = await receive()
                    part = message.get("body", b"")
                    self._held += len(part)
                    body += part
                    more = message.get("more_body", False)
                    self._check_size(message["type"], len(body))
        except BaseException as error:
            self._held -= len(body)
            if isinstance(error, TimeoutError):
                raise RequestRefusedError(400, "The request did not arrive in time.") from None
            raise
        return bytes(body)

    def _check_size(self, kind: str, length: int) -> None:
        if kind == "http.disconnect":
            raise _ClientGoneError
        if length > _BODY_LIMIT:
            raise RequestRefusedError(413, f"The body of the request is larger than {_BODY_LIMIT} bytes.")
        if self._held > _BODIES_LIMIT:
            raise RequestRefusedError(503, "Too many large requests at the same time; try again later.")

    async def _proxy(self, route: Route, request: _Request, receive: Any, send: Any) -> None:
        upstreams = [one for one in self.upstreams if one.format is route.format]
        if not upstreams:
            raise RequestRefusedError(404, f"No provider of the format {route.format} is configured.")
        sent = sent_headers(request.headers)
        given, span = sent.get("traceparent", ""), secrets.token_hex(8)
        sent["traceparent"] = traceparent(given, self.gateway.trace, span)
        parameters = sent_parameters(request.query)
        if route.operation is Operation.MODELS:
            response = await self.providers.ask(upstreams, route, parameters, sent, b"")
            await self._return(route, response, None, send)
            return
        ask = read_request(
            route,
            request.body,
            models=self.allowed,
            provider_tools=self.provider_tools,
            longest=lambda model: _longest(model, upstreams),
        )
        if route.operation.free:
            response = await self.providers.ask(upstreams, route, parameters, sent, ask.body)
            await self._return(route, response, None, send)
            return
        upstreams, pricing = self._priced(ask, upstreams)
        number = await self._reserved(ask, pricing, receive)
        self.gateway.requests += 1
        meter = None
        ending = Ending.CLOSED
        try:
            self._check_number()
            response = await self.providers.ask(upstreams, route, parameters, sent, ask.body)
            if response.status < 300:
                kind, encoding = (
                    response.headers.get(name, "") for name in ("content-type", "content-encoding")
                )
                meter = Meter(route.operation, kind, encoding)
            ending = await self._return(route, response, meter, send)
        except SilentProviderError:
            meter, ending = Meter(route.operation, "", ""), Ending.SILENT
            raise
        finally:
            if meter is None:
                self.ledger.release(number)
                self.gateway.requests -= 1
            else:
                # Unknown usage counts as the whole reservation, because a command could arrange such answers.
                used, known = meter.end(ending, ask.size.least)
                charge = self.ledger.charge if known else self.ledger.charge_reserved
                charge(number, ask.models[0], used, pricing)
                self.on_counted(self.ledger.usage)
            async with self._answered:
                self._answered.notify_all()

    def _check_number(self) -> None:
        most = self.gateway.most_requests
        if most is not None and self.gateway.requests > most:
            self.gateway.too_many.set()
            raise RequestRefusedError(402, f"The task has made {most} requests to the model.")

    def _priced(
        self, ask: ModelRequest, upstreams: Sequence[Upstream]
    ) -> tuple[list[Upstream], Pricing | None]:
        """Return the providers (if the allowance is money, those with known prices) and the highest price."""
        # A tier or medium with another price would let an attempt spend more than it counts.
        if self.ledger.counts_money and ask.special is not None:
            raise RequestRefusedError(
                403,
                f"The task may spend {self.ledger.allowance}, and {ask.special} has another price than text"
                " in the ordinary mode, which is not known.",
            )
        pricings: list[Pricing | None] = []
        priced = []
        unknown = ask.models[0]
        for upstream in upstreams:
            prices = [pricing_of(model, upstream.base_url, self.prices) for model in ask.models]
            countable = [self.ledger.countable(price) for price in prices]
            if all(countable):
                priced.append(upstream)
                pricings.extend(prices)
            else:
                unknown = ask.models[countable.index(False)]
        # Without a price there is no request: with a guessed price, the limit would not hold.
        if not priced:
            raise RequestRefusedError(
                403,
                f"The task may spend {self.ledger.allowance}, and the price of {unknown[:100]} in that"
                " currency is not known: set llm.prices.",
            )
        return priced, dearest(dict.fromkeys(pricings))

    async def _reserved(self, ask: ModelRequest, pricing: Pricing | None, receive: Any) -> int:
        """Reserve room for an answer. If it may fit once answers under way have ended, wait for them.

        Raises:
            _ClientGoneError: the client did not wait that long.
        """
        turn = asyncio.ensure_future(self._turn_of(ask, pricing))
        # Most requests fit at once; then no second task watches the connection.
        await asyncio.sleep(0)
        if not turn.done():
            gone = asyncio.ensure_future(receive())  # the body was read, so this is the connection's end
            try:
                await asyncio.wait((turn, gone), return_when=asyncio.FIRST_COMPLETED)
            except asyncio.CancelledError:  # the gateway closes
                turn.cancel()
                gone.cancel()
                raise
            if gone.done():
                await self._give_up(turn)
                raise _ClientGoneError
            gone.cancel()
        reservation = turn.result()
        if isinstance(reservation, Verdict):
            self.gateway.exhausted.set()
            raise RequestRefusedError(
                402,
                f"The task may spend {self.ledger.allowance} on the model, and has spent"
                f" {self.gateway.spent}; this request does not fit.",
            )
        return reservation

    async def _give_up(self, turn: asyncio.Future[int | Verdict]) -> None:
        turn.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            if not isinstance(found := await turn, Verdict):
                self.ledger.release(found)
                async with self._answered:
                    self._answered.notify_all()

    async def _turn_of(self, ask: ModelRequest, pricing: Pricing | None) -> int | Verdict:
        """Reserve in the order of arrival, so that small requests never overtake a large one forever."""
        async with self._turn, self._answered:
            while (found := self.ledger.reserve(ask.size, pricing)) is Verdict.WAIT:
                await self._answered.wait()
        return found

    async def _return(
        self, route: Route, response: aiohttp.ClientResponse, meter: Meter | None, send: Any
    ) -> Ending:
        """Pass an answer on. If the client goes away, read the answer to its end, so that it is counted."""
        headers = {name.lower(): value for name, value in response.headers.items()}
        self.gateway.asked = retry_after(headers, datetime.now(UTC)) if response.status >= 400 else None
        try:
            if response.status >= 400:
                await self._return_error(route, response, send)
                return Ending.WHOLE
            await send(
                {
                    "type": "http.response.start",
                    "status": response.status,
                    "headers": returned_headers(response.raw_headers),
                }
            )
            async for part in response.content.iter_any():
                if meter is not None:
                    meter.feed(part)
                await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except aiohttp.ClientError as error:
            # Without the body's end, uvicorn closes the connection: the client too gets a cut-off answer.
            _logger.warning("An answer was cut off: %s", type(error).__name__)
            return Ending.SILENT if isinstance(error, TimeoutError) else Ending.BROKEN
        finally:
            response.close()
        return Ending.WHOLE

    async def _return_error(self, route: Route, response: aiohttp.ClientResponse, send: Any) -> None:
        status = response.status
        if status == 401:
            # A provider's message often repeats the key.
            await _refuse(send, route, status, "The provider refused the key that is configured for it.")
            return
        body = bytearray()
        async for part in response.content.iter_any():
            body += part
            if len(body) > _ERROR_LIMIT:
                break
        text = bytes(body[:_ERROR_LIMIT])
        for upstream in self.upstreams:
            for secret in upstream.secrets:
                # The error goes to the agent and its commands, and providers like to quote what they got.
                text = text.replace(secret.encode(), b"[key]")
        headers = returned_headers(response.raw_headers)
        wait = self.gateway.retry_after
        # Codex retries only if it is told how long to wait.
        if status == 429 and wait is not None and b"retry-after" not in dict(headers):
            headers = [*headers, (b"retry-after", str(wait).encode())]
        await _answer(send, status, text, headers)


def _longest(model: str, upstreams: Sequence[Upstream]) -> int | None:
    known = [longest_answer(model, one.base_url) for one in upstreams]
    return None if None in known else max(filter(None, known), default=None)


async def _refuse(send: Any, route: Route | None, status: int, message: str) -> None:
    """Send an error in the format of the client's vendor; clients retry only where that can help."""
    body = error_body(route.format if route else None, status, message)
    headers = [(b"content-type", b"application/json")]
    if status < 500:
        # The clients of OpenAI and Anthropic obey this header; the same request would be refused again.
        headers.append((b"x-should-retry", b"false"))
    await _answer(send, status, body, headers)


async def _answer(send: Any, status: int, body: bytes, headers: Sequence[tuple[bytes, bytes]]) -> None:
    lines = [(name, value) for name, value in headers if name.lower() != b"content-length"]
    lines.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": lines})
    await send({"type": "http.response.body", "body": body})

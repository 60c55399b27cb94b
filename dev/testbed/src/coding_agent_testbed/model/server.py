"""The server: the routes of the wire formats, the check of the key, and the log of requests."""

from __future__ import annotations

import hmac
import socket
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import uvicorn
from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse, Response

from coding_agent_testbed.model.answer import WireFormat
from coding_agent_testbed.model.anthropic import Messages
from coding_agent_testbed.model.chat import ChatCompletions
from coding_agent_testbed.model.faults import Fault
from coding_agent_testbed.model.gemini import GenerateContent
from coding_agent_testbed.model.play import Play, refusal
from coding_agent_testbed.model.responses import Responses
from coding_agent_testbed.model.script import Failure, Script

_STOP_TIMEOUT = 60.0
"""Seconds within which the server must end."""
KEEP_ALIVE = 75
"""Seconds; longer than clients keep a connection, so that none is closed just as a request arrives."""
_CHAT, _RESPONSES, _MESSAGES, _GEMINI = ChatCompletions(), Responses(), Messages(), GenerateContent()
_MODEL = {
    "id": "scripted",
    "object": "model",
    "owned_by": "scripts",
    "type": "model",
    "display_name": "Scripted",
    "created": 1_700_000_000,
    "created_at": "2026-01-01T00:00:00Z",
}
"""The model in the form in which OpenAI and Anthropic list models."""


@dataclass(frozen=True)
class _Requests:
    """Checks the key and the body of requests, and lets the script answer them.

    Attributes:
        api_key: the key that every request must have; `None` lets everyone in.
    """

    play: Play
    api_key: str | None

    def unauthorized(self, request: Request, wire: WireFormat) -> Response | None:
        """Return the refusal of a request without the right key; `None` if it may pass."""
        given = (
            request.headers.get("x-api-key")
            or request.headers.get("x-goog-api-key")
            or request.query_params.get("key")
            or request.headers.get("authorization", "").removeprefix("Bearer ")
        )
        if self.api_key is None or hmac.compare_digest(given.encode(), self.api_key.encode()):
            return None
        # OpenAI's own answer repeats the key in part; ours repeats all of it, so that tests see who shows it.
        error = Failure(
            status=401,
            code="invalid_api_key",
            type="invalid_request_error",
            message=f"Incorrect API key: {given}",
        )
        return JSONResponse(wire.failure(error), 401)

    async def _body_of(self, request: Request, wire: WireFormat) -> dict[str, Any] | Response:
        if (refused := self.unauthorized(request, wire)) is not None:
            return refused
        try:
            body = await request.json()
        except ValueError:
            return refusal(wire, 400, "the body is not JSON")
        return body if isinstance(body, dict) else refusal(wire, 400, "the body is not an object")

    async def answer(self, request: Request, wire: WireFormat, **more: Any) -> Response:
        """Return the scripted answer. `more` are fields that the body lacks, because the path has them."""
        body = await self._body_of(request, wire)
        return body if isinstance(body, Response) else await self.play.answer(wire, {**body, **more})

    async def count(self, request: Request, wire: WireFormat, key: str, **more: Any) -> Response:
        """Return the number of the request's tokens under a key. `more` are fields that only the path has."""
        body = await self._body_of(request, wire)
        return body if isinstance(body, Response) else self.play.count(wire, {**body, **more}, key)


def create_app(scripts: Sequence[Script], *, api_key: str | None = None) -> FastAPI:
    """Return the application.

    Args:
        scripts: the first script whose `match` is in the request answers it.
        api_key: the key that requests must have, in any vendor's header; `None` lets everyone in.
    """
    app = FastAPI(title="Scripted model", docs_url=None, redoc_url=None, openapi_url=None)
    play = Play(scripts)
    app.state.play = play
    requests = _Requests(play, api_key)

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        return await requests.answer(request, _CHAT)

    @app.post("/v1/responses")
    async def responses(request: Request) -> Response:
        return await requests.answer(request, _RESPONSES)

    @app.post("/v1/responses/input_tokens")
    async def responses_count(request: Request) -> Response:
        return await requests.count(request, _RESPONSES, "input_tokens")

    @app.post("/v1/messages")
    async def messages(request: Request) -> Response:
        return await requests.answer(request, _MESSAGES)

    @app.post("/v1/messages/count_tokens")
    async def messages_count(request: Request) -> Response:
        return await requests.count(request, _MESSAGES, "input_tokens")

    @app.post("/v1beta/models/{call:path}")
    async def gemini(request: Request, call: str) -> Response:
        model, _, method = call.rpartition(":")
        if method == "countTokens":
            return await requests.count(request, _GEMINI, "totalTokens", model=model)
        if method not in ("generateContent", "streamGenerateContent"):
            return refusal(_GEMINI, 404, f"no method {method!r}")
        stream = method.startswith("stream")
        if stream and request.query_params.get("alt") != "sse":
            return refusal(_GEMINI, 400, "only server-sent events are streamed here: ask with ?alt=sse")
        return await requests.answer(request, _GEMINI, model=model, stream=stream)

    @app.head("/")
    async def alive() -> Response:
        return Response()

    @app.get("/v1/models")
    async def models(request: Request) -> Response:
        listed = {"object": "list", "data": [_MODEL], "has_more": False}
        return requests.unauthorized(request, _CHAT) or JSONResponse(listed)

    @app.get("/v1beta/models")
    async def gemini_models(request: Request) -> Response:
        listed = {"models": [{"name": "models/scripted", "displayName": "Scripted"}]}
        return requests.unauthorized(request, _GEMINI) or JSONResponse(listed)

    app.include_router(_sandbox(play))
    return app


def _sandbox(play: Play) -> APIRouter:
    """Return the routes for questions to the server itself, and not to the model."""
    router = APIRouter(prefix="/_sandbox")

    @router.get("/requests")
    async def requests() -> list[dict[str, Any]]:
        """Every request for an answer, as it came, with its wire format, the Unix time at which it was
        `received`, and the script, position and status that it was answered with.
        """
        return list(play.log)

    @router.get("/usage")
    async def usage() -> dict[str, dict[str, int]]:
        """Return the number of answers by model, and the tokens that the answers reported."""
        return play.totals()

    @router.post("/faults", status_code=201)
    async def plant(fault: Fault) -> dict[str, Any]:
        """Add a fault with the fields of `Fault`."""
        play.faults.append(fault)
        return fault.model_dump()

    @router.delete("/faults", status_code=204)
    async def clear() -> None:
        """End all faults."""
        for fault in play.faults:
            fault.end()

    return router


class ModelServer:
    """The server in a thread, for a `with` block: on a free port, and on loopback by default."""

    def __init__(
        self, scripts: Sequence[Script], *, api_key: str | None = None, host: str = "127.0.0.1"
    ) -> None:
        self.app = create_app(scripts, api_key=api_key)
        self._socket = socket.create_server((host, 0))
        # Connections inherit it; asyncio sets it only where the socket names its protocol.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        config = uvicorn.Config(
            self.app, log_level="critical", timeout_keep_alive=KEEP_ALIVE, timeout_graceful_shutdown=1
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), daemon=True)

    @property
    def url(self) -> str:
        """The base URL for the formats of Anthropic and Google."""
        host, port = self._socket.getsockname()
        return f"http://{host}:{port}"

    @property
    def base_url(self) -> str:
        """The base URL for OpenAI's formats, for `llm.openai.base_url`."""
        return f"{self.url}/v1"

    @property
    def requests(self) -> list[dict[str, Any]]:
        """Return the same as `/_sandbox/requests`."""
        return list(self.app.state.play.log)

    @property
    def usage(self) -> dict[str, dict[str, int]]:
        """Return the same as `/_sandbox/usage`."""
        totals: dict[str, dict[str, int]] = self.app.state.play.totals()
        return totals

    def fault(self, **fields: Any) -> Fault:
        """Add a fault with the fields of `Fault`, and return it: its `hits` grow, and `end` ends it."""
        fault = Fault(**fields)
        self.app.state.play.faults.append(fault)
        return fault

    def __enter__(self) -> ModelServer:
        # The socket listens already: connections wait until the thread serves them.
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.should_exit = True
        self._thread.join(_STOP_TIMEOUT)
        self._socket.close()

"""The server: which answer is due, and sending it, or a failure, as a real one would."""

from __future__ import annotations

import asyncio
import hmac
import json
import re
import socket
import threading
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from coding_agent_model.answer import completion, events, failure
from coding_agent_model.script import (
    Failure,
    Script,
    Turn,
    choose,
    first_user_message,
    position,
    text_of,
)

_STOP_TIMEOUT = 10.0
"""Seconds in which the server must end."""
_LOG_LENGTH = 2000
"""Requests that the log keeps."""


class _CutResponse(Response):
    """Sends part of its body and closes the connection."""

    def __init__(self, part: bytes, media_type: str) -> None:
        super().__init__(media_type=media_type)
        self._part = part

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", (self.media_type or "").encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": self._part, "more_body": True})
        # Returning here leaves the body unfinished, at which uvicorn closes the connection.


@dataclass
class _Play:
    scripts: Sequence[Script]
    api_key: str | None
    served: Counter[tuple[str, str, int]] = field(default_factory=Counter)
    log: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=_LOG_LENGTH))

    async def answer(self, body: dict[str, Any]) -> Response:
        messages = body.get("messages") or []
        script = choose(self.scripts, messages)
        at = position(messages)
        entry = {"script": script.name if script else None, "position": at, "status": 200, **body}
        self.log.append(entry)
        response = await self._play(script, at, body, messages)
        entry["status"] = response.status_code
        return response

    async def _play(
        self, script: Script | None, at: int, body: dict[str, Any], messages: list[dict[str, Any]]
    ) -> Response:
        if script is None:
            return _refusal(404, f"no script matches: {first_user_message(messages)[:200]!r}")
        failures, due = script.upcoming(at)
        conversation = first_user_message(messages)
        for index, error in failures:
            key = (script.name, conversation, index)
            if error.times == 0 or self.served[key] < error.times:
                self.served[key] += 1
                headers = {} if error.retry_after is None else {"Retry-After": f"{error.retry_after:g}"}
                return JSONResponse(failure(error), error.status, headers)
        if due is None:
            return _refusal(409, f"script {script.name} is over: it has no turn {at + 1}")
        index, turn = due
        last = text_of(messages[-1]) if messages else ""
        if turn.expect is not None and not re.search(turn.expect, last):
            return _refusal(
                409,
                f"script {script.name}, turn {index + 1}: expected /{turn.expect}/ in the last message,"
                f" got: {last[:500]!r}",
            )
        await asyncio.sleep(turn.delay_ms / 1000)
        return self._send(turn.filled(script.read(messages)), body, at, (script.name, conversation, index))

    def _send(self, turn: Turn, body: dict[str, Any], at: int, key: tuple[str, str, int]) -> Response:
        model = str(body.get("model", "scripted"))
        estimate = len(json.dumps(body.get("messages", []))) // 4
        tokens = estimate if turn.prompt_tokens is None else turn.prompt_tokens
        if body.get("stream"):
            usage = bool((body.get("stream_options") or {}).get("include_usage"))
            parts = list(events(turn, position=at, model=model, prompt_tokens=tokens, include_usage=usage))
            media = "text/event-stream"
        else:
            parts = [json.dumps(completion(turn, position=at, model=model, prompt_tokens=tokens)).encode()]
            media = "application/json"
        if turn.cut < 0 or self.served[key] < turn.cut:
            self.served[key] += 1
            whole = b"".join(parts)
            return _CutResponse(whole[: len(whole) // 2], media)
        if body.get("stream"):
            return StreamingResponse(_each(parts), media_type=media)
        return Response(parts[0], media_type=media)


async def _each(parts: Iterable[bytes]) -> Any:
    for part in parts:
        yield part


def _refusal(status: int, message: str) -> Response:
    return JSONResponse(failure(Failure(status=status, type="script_error", message=message)), status)


def create_app(scripts: Sequence[Script], *, api_key: str | None = None) -> FastAPI:
    """The application.

    Args:
        scripts: the first whose `match` is found plays.
        api_key: demanded as bearer token; `None` lets everyone in.
    """
    app = FastAPI(title="Scripted model", docs_url=None, redoc_url=None, openapi_url=None)
    play = _Play(scripts, api_key)
    app.state.play = play

    def stranger(request: Request) -> Response | None:
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if play.api_key is None or hmac.compare_digest(given.encode(), play.api_key.encode()):
            return None
        # OpenAI's own answer repeats the key in part; ours repeats all of it, so that tests see who shows it.
        error = Failure(
            code="invalid_api_key", type="invalid_request_error", message=f"Incorrect API key: {given}"
        )
        return JSONResponse(failure(error), 401)

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        if (refused := stranger(request)) is not None:
            return refused
        try:
            body = await request.json()
        except ValueError:
            return _refusal(400, "the body is not JSON")
        if not isinstance(body, dict) or not isinstance(body.get("messages"), list):
            return _refusal(400, "`messages` is missing")
        return await play.answer(body)

    @app.get("/v1/models")
    async def models(request: Request) -> Response:
        if (refused := stranger(request)) is not None:
            return refused
        return JSONResponse({"object": "list", "data": [{"id": "scripted", "object": "model"}]})

    @app.get("/_sandbox/requests")
    async def requests() -> list[dict[str, Any]]:
        """Every chat request, as it came, with the script, position and status that it was answered with."""
        return list(play.log)

    return app


class ModelServer:
    """The server on a free port, on loopback unless told otherwise, in a thread, for a `with` block."""

    def __init__(
        self, scripts: Sequence[Script], *, api_key: str | None = None, host: str = "127.0.0.1"
    ) -> None:
        self.app = create_app(scripts, api_key=api_key)
        self._socket = socket.create_server((host, 0))
        config = uvicorn.Config(self.app, log_level="critical", timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), daemon=True)

    @property
    def base_url(self) -> str:
        """What goes into `llm.openai.base_url`."""
        host, port = self._socket.getsockname()
        return f"http://{host}:{port}/v1"

    @property
    def requests(self) -> list[dict[str, Any]]:
        """As `/_sandbox/requests`."""
        return list(self.app.state.play.log)

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

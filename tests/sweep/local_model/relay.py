"""Passes requests on to the real model, keeps what was asked and answered, and cuts answers."""

import json
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import httpx2
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from starlette.background import BackgroundTask

_SECONDS = 300.0


class Used(NamedTuple):
    """Tokens of an answer."""

    input: int
    output: int


@dataclass
class Exchange:
    """A request, and what the model answered so far."""

    path: str
    asked: dict[str, Any]
    status: int = 0
    answer: bytes = b""

    @property
    def used(self) -> Used:
        """What the answer itself says; nothing if it was refused or cut off."""
        sent = written = 0
        for event in self._events():
            for part in (event, event.get("message"), event.get("response")):
                said = part.get("usage") if isinstance(part, dict) else None
                if isinstance(said, dict):
                    # Anthropic's format tells cached tokens apart from the others.
                    new = said.get("prompt_tokens") or said.get("input_tokens") or 0
                    sent = max(sent, new + (said.get("cache_read_input_tokens") or 0))
                    written = max(written, said.get("completion_tokens") or said.get("output_tokens") or 0)
        return Used(sent, written)

    @property
    def streamed(self) -> int:
        """In how many events it came."""
        return self.answer.count(b"\ndata:") + self.answer.startswith(b"data:")

    def _events(self) -> Iterator[dict[str, Any]]:
        lines = self.answer.splitlines() if self.asked.get("stream") else [self.answer]
        for line in lines:
            text = line.removeprefix(b"data:").strip()
            if text.startswith(b"{"):
                yield json.loads(text)


@dataclass
class Relay:
    """A server in a thread; use it in a `with` block.

    Attributes:
        cut_after: how many bytes of the next answers pass before its connection breaks; one number for each.
    """

    upstream: str
    exchanges: list[Exchange] = field(default_factory=list)
    cut_after: list[int] = field(default_factory=list)
    url: str = ""

    def __enter__(self) -> "Relay":
        app = FastAPI()
        app.add_api_route("/{path:path}", self._pass_on, methods=["GET", "HEAD", "POST"])
        config = uvicorn.Config(app, port=0, log_level="critical", timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        while not self._server.started:
            assert self._thread.is_alive(), "the relay did not start"
            self._thread.join(0.01)
        port = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(30)

    @property
    def answered(self) -> list[Exchange]:
        """Requests for an answer that were not refused."""
        return [one for one in self.exchanges if one.status == 200]

    async def _pass_on(self, request: Request) -> StreamingResponse:
        body = await request.body()
        kept = Exchange(request.url.path, json.loads(body or b"{}"))
        if request.method == "POST":
            self.exchanges.append(kept)
        headers = {name: request.headers[name] for name in ("content-type", "authorization", "x-api-key")
                   if name in request.headers}  # fmt: skip
        client = httpx2.AsyncClient(timeout=_SECONDS)
        asked = client.build_request(
            request.method, f"{self.upstream}{request.url.path}", content=body, headers=headers
        )
        response = await client.send(asked, stream=True)
        kept.status = response.status_code
        cut = self.cut_after.pop(0) if self.cut_after and request.method == "POST" else None

        async def parts() -> AsyncIterator[bytes]:
            async for part in response.aiter_bytes():
                kept.answer += part
                yield part
                if cut is not None and len(kept.answer) >= cut:
                    raise ConnectionResetError  # the server closes the connection without the answer's end

        return StreamingResponse(
            parts(),
            status_code=response.status_code,
            media_type=response.headers.get("content-type"),
            background=BackgroundTask(client.aclose),
        )

"""Answers requests from scripts: finds the answer that is due, sends it or a failure, and counts."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from coding_agent_testbed.model.answer import Answer, CallMade, Usage, WireFormat
from coding_agent_testbed.model.conversation import Conversation, instance
from coding_agent_testbed.model.faults import Fault
from coding_agent_testbed.model.script import Failure, Script, Turn, choose

_LOG_LENGTH = 10_000
"""The number of requests that the log keeps."""
_ASIDE = "Scripted aside."


class _PartResponse(Response):
    """Sends a part of its body; then closes the connection, or leaves it open for the client to close."""

    def __init__(self, part: bytes, media_type: str, *, stall: bool) -> None:
        super().__init__(media_type=media_type)
        self._part = part
        self._stall = stall

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", (self.media_type or "").encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": self._part, "more_body": True})
        while self._stall and (await receive())["type"] != "http.disconnect":
            pass
        # Returning here leaves the body unfinished, at which uvicorn closes the connection.


@dataclass
class Play:
    """All conversations with one server.

    Attributes:
        log: every request for an answer.
        served: how often each failure, cut or stall of a conversation was met.
        faults: planted ones; the first that has not ended hits each request for an answer.
    """

    scripts: Sequence[Script]
    served: Counter[tuple[str, str, int, str]] = field(default_factory=Counter)
    log: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=_LOG_LENGTH))
    faults: list[Fault] = field(default_factory=list)
    _usage: dict[str, Counter[str]] = field(default_factory=dict)

    async def answer(self, wire: WireFormat, body: dict[str, Any]) -> Response:
        """Return the answer to a request; log and count it."""
        entry = {
            "format": wire.name,
            "script": None,
            "position": 0,
            "status": 200,
            **body,
            "received": time.time(),
        }
        self.log.append(entry)
        try:
            conversation = wire.read(body)
        except (ValueError, AttributeError, TypeError, LookupError) as error:
            response = refusal(wire, 400, f"the request is malformed: {error}")
        else:
            script = choose(self.scripts, conversation)
            entry["script"] = script.name if script else None
            entry["position"] = conversation.position
            response = await self._answer(wire, script, conversation, body)
        entry["status"] = response.status_code
        return response

    def count(self, wire: WireFormat, body: dict[str, Any], key: str) -> Response:
        """Return the answer to a request that only counts its tokens."""
        try:
            return JSONResponse({key: wire.read(body).length // 4})
        except (ValueError, AttributeError, TypeError, LookupError) as error:
            return refusal(wire, 400, f"the request is malformed: {error}")

    def totals(self) -> dict[str, dict[str, int]]:
        """Return the served answers and tokens by model. An answer that was cut or stalled counts in full."""
        return {model: dict(counts) for model, counts in self._usage.items()}

    async def _answer(
        self, wire: WireFormat, script: Script | None, conversation: Conversation, body: dict[str, Any]
    ) -> Response:
        """Return the answer as a fault changes it, if there is a fault."""
        fault = next((one for one in self.faults if not one.ended), None)
        if fault is None:
            return await self._play(wire, script, conversation, body)
        fault.hit()
        await asyncio.sleep(fault.delay_ms / 1000)
        if fault.status is not None:
            error = Failure(status=fault.status, message="The server fails: a fault was planted.")
            headers = {} if fault.retry_after is None else {"Retry-After": f"{fault.retry_after:g}"}
            return JSONResponse(wire.failure(error), error.status, headers)
        return await self._play(wire, script, conversation, body, cut=fault.cut)

    async def _play(
        self,
        wire: WireFormat,
        script: Script | None,
        conversation: Conversation,
        body: dict[str, Any],
        *,
        cut: bool = False,
    ) -> Response:
        asides = any(entry.runs_commands for entry in self.scripts)
        if asides and not conversation.tools:
            # Agents ask for titles and checks between the turns of the work: those are not turns of a script.
            schema = conversation.schema
            text = _ASIDE if schema is None else json.dumps(instance(schema))
            return self._send(wire, Turn(text=text), conversation, body, ("", "", 0))
        if script is None:
            return refusal(wire, 404, f"no script matches: {conversation.opening[:200]!r}")
        at = conversation.position
        failures, due = script.upcoming(at)
        opening = conversation.opening
        for index, error in failures:
            key = (script.name, opening, index, "error")
            if error.times == 0 or self.served[key] < error.times:
                self.served[key] += 1
                headers = {} if error.retry_after is None else {"Retry-After": f"{error.retry_after:g}"}
                return JSONResponse(wire.failure(error), error.status, headers)
        if due is None:
            return refusal(wire, 409, f"script {script.name} is over: it has no turn {at + 1}")
        index, turn = due
        place = f"script {script.name}, turn {index + 1}"
        latest = conversation.latest
        if turn.expect is not None and not re.search(turn.expect, latest):
            said = f"expected /{turn.expect}/ in what was said last, got: {latest[:500]!r}"
            return refusal(wire, 409, f"{place}: {said}")
        await asyncio.sleep(turn.delay_ms / 1000)
        try:
            filled = turn.filled(script.read(conversation))
            if cut:
                filled = filled.model_copy(update={"cut": -1})
            return self._send(wire, filled, conversation, body, (script.name, opening, index))
        except LookupError as error:
            return refusal(wire, 409, f"{place}: {error.args[0]}")

    def _send(
        self,
        wire: WireFormat,
        turn: Turn,
        conversation: Conversation,
        body: dict[str, Any],
        key: tuple[str, str, int],
    ) -> Response:
        answer = _answer(turn, conversation)
        self._count(answer)
        if conversation.stream:
            parts, media = list(wire.events(answer, body)), "text/event-stream"
        else:
            parts, media = [json.dumps(wire.whole(answer)).encode()], "application/json"
        for kind, times in (("cut", turn.cut), ("stall", turn.stall)):
            if times < 0 or self.served[(*key, kind)] < times:
                self.served[(*key, kind)] += 1
                whole = b"".join(parts)
                return _PartResponse(whole[: len(whole) // 2], media, stall=kind == "stall")
        if conversation.stream:
            return StreamingResponse(_each(parts), media_type=media)
        return Response(parts[0], media_type=media)

    def _count(self, answer: Answer) -> None:
        usage = answer.usage
        self._usage.setdefault(answer.model, Counter()).update(
            answers=1,
            input_tokens=usage.input,
            output_tokens=usage.output,
            cache_read_tokens=usage.cache_read,
            cache_write_tokens=usage.cache_write,
        )


def refusal(wire: WireFormat, status: int, message: str) -> Response:
    """The script does not fit the request."""
    error = Failure(status=status, type="script_error", message=message)
    return JSONResponse(wire.failure(error), status)


def _answer(turn: Turn, conversation: Conversation) -> Answer:
    calls = tuple(_calls(turn, conversation))
    cached = turn.cache_read_tokens + turn.cache_write_tokens
    estimate = max(conversation.length // 4, cached)
    words = len(turn.text) + sum(len(call.arguments) for call in calls)
    return Answer(
        position=conversation.position,
        model=conversation.model,
        text=turn.text,
        calls=calls,
        finish=turn.finish_reason or ("tool_calls" if calls else "stop"),
        usage=Usage(
            input=estimate if turn.prompt_tokens is None else turn.prompt_tokens,
            output=max(1, words // 4) if turn.output_tokens is None else turn.output_tokens,
            cache_read=turn.cache_read_tokens,
            cache_write=turn.cache_write_tokens,
        ),
    )


def _calls(turn: Turn, conversation: Conversation) -> Iterable[CallMade]:
    for call in turn.calls:
        if call.run is None:
            arguments = json.dumps(call.arguments) if call.raw_arguments is None else call.raw_arguments
            yield CallMade(call.tool, arguments)
            continue
        found = conversation.shell_call(call.run)
        if found is None:
            offered = ", ".join(tool.name for tool in conversation.tools)
            raise LookupError(f"the request offers no shell that is known here, but: {offered}")
        yield CallMade(found[0], json.dumps(found[1]))


async def _each(parts: Iterable[bytes]) -> AsyncIterator[bytes]:
    for part in parts:
        yield part

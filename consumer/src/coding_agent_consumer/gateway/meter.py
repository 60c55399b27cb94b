"""Reads the usage from an answer's bytes as they are passed on, without I/O.

`docs/gateway.md` has a table of all fields that the vendors document, and how each is counted.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any, NamedTuple

from coding_agent_consumer.gateway.ledger import Tokens
from coding_agent_consumer.gateway.wire_formats import Operation, positive

_ANSWER_LIMIT = 16 * 1024 * 1024
"""The most bytes of one event, or of an answer that is not streamed, that are read for its usage."""
_PIECE = 1024 * 1024
"""The most bytes that are decompressed at a time."""
_DECOMPRESSED_LIMIT = 256 * 1024 * 1024
"""The most decompressed bytes of an answer that are read."""
_WRITTEN_BYTES = 3
"""Bytes that count as one token if an answer breaks off before it says what it used: fewer than usual, so
that we count enough."""
_HELD_LIMIT = 1024 * 1024
"""The most bytes of events without usage that are held before they are parsed."""
_USAGE = re.compile(rb'"usage(?!": ?null)')
"""Matches every event that says what was used; OpenAI's streams have `"usage": null` in all others."""
_TEXTS = frozenset(
    {"text", "thinking", "partial_json", "content", "arguments", "refusal", "reasoning_content", "reasoning"}
)
"""Keys of events that hold what the model wrote."""
_ORDINARY = frozenset({"", "default", "standard", "auto", "on_demand", "not_available"})
"""Modes that have the list price."""
_GZIP = 31
"""`wbits` of zlib: only gzip, so that each member has its own header."""
_ZLIB = 47
"""`wbits` of zlib: zlib or gzip."""


class Ending(StrEnum):
    """The way in which an answer ended."""

    WHOLE = "whole"
    """It was complete."""
    BROKEN = "broken"
    """The provider's connection broke."""
    SILENT = "silent"
    """The provider sent nothing for too long."""
    CLOSED = "closed"
    """The gateway closed."""


class Counted(NamedTuple):
    """The usage of an answer, and whether it is known; if not, the ledger charges the reservation.

    The usage is known if the provider reported it in a whole answer. It also counts as known if a stream
    broke off, or the gateway closed, because the provider stopped there, too: then it is what was sent and
    what arrived. If the provider was silent, or the answer cannot be read, `tokens` is only an estimate of
    the least.
    """

    tokens: Tokens
    known: bool


class Meter:
    """Reads the usage of one answer.

    Events without usage are parsed only if the answer ends before it said what it used.

    example:
        meter = Meter(Operation.MESSAGES, "text/event-stream", "gzip")
        meter.feed(data)  # each part of the answer
        used, known = meter.end(Ending.WHOLE, estimated_input=1200)
    """

    def __init__(self, operation: Operation, content_type: str, encoding: str) -> None:
        """
        Args:
            content_type: the answer's `Content-Type`.
            encoding: the answer's `Content-Encoding`; only gzip, deflate or none can be read.
        """
        self._operation = operation
        self._streams = content_type.lower().startswith("text/event-stream")
        self._decoder = _Decoder(encoding.strip().lower())
        self._readable = self._decoder.known
        self._pieces: list[bytes] = []
        self._held = 0
        self._unread: list[bytes] = []
        self._unread_bytes = 0
        self._reported = Tokens()
        self._written = 0
        self._complete = False
        self._failed = False

    def feed(self, data: bytes) -> None:
        """Read the next bytes of the answer."""
        if not self._readable:
            return
        try:
            for piece in self._decoder.pieces(data):
                self._feed(piece)
        except (zlib.error, _TooLongError):
            # The client still gets the answer; only its usage is unknown now.
            self._readable, self._pieces = False, []

    def end(self, ending: Ending, estimated_input: int) -> Counted:
        """Return the answer's usage.

        Args:
            estimated_input: tokens of the request, which count if the answer does not report them.
        """
        rest, self._pieces = b"".join(self._pieces), []
        self._read(rest.removeprefix(b"data:") if self._streams else rest)
        if self._complete and self._readable:
            return Counted(self._reported, known=True)
        self._catch_up()
        seen = self._reported.largest(
            Tokens(
                # A stream that breaks off has been paid for up to there.
                input=0 if self._reported.input else estimated_input,
                output=-(-self._written // _WRITTEN_BYTES),
            )
        )
        # Before its first text too: without a limit the reservation is the whole allowance, so one broken
        # connection would end the task.
        stopped = self._streams and self._readable and (self._failed or ending is Ending.BROKEN)
        return Counted(seen, known=ending is Ending.CLOSED or stopped)

    def _feed(self, data: bytes) -> None:
        if self._streams and b"\n" in data:
            head, _, rest = data.rpartition(b"\n")
            lines = b"".join([*self._pieces, head]).split(b"\n")
            self._pieces, self._held = [rest], len(rest)
            for line in lines:
                if line.startswith(b"data:"):
                    self._event(line[5:])
            return
        self._pieces.append(data)
        self._held += len(data)
        if self._held > _ANSWER_LIMIT:
            raise _TooLongError

    def _event(self, text: bytes) -> None:
        # Parsing each event would cost more CPU time than passing it on.
        if _USAGE.search(text):
            self._read(text)
        elif not self._complete:
            self._unread.append(text)
            self._unread_bytes += len(text)
            if self._unread_bytes > _HELD_LIMIT:
                self._catch_up()

    def _catch_up(self) -> None:
        unread, self._unread, self._unread_bytes = self._unread, [], 0
        for text in unread:
            self._read(text)

    def _read(self, text: bytes) -> None:
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return  # the end of a stream, `[DONE]`, or an answer that was cut off
        # Google streams an array if the client does not ask for events.
        for event in value if isinstance(value, list) else [value]:
            if isinstance(event, dict):
                # Events repeat the usage so far, and some report only a part of it, so the largest numbers
                # count.
                self._reported = self._reported.largest(usage_in(self._operation, event))
                self._failed = self._failed or event.get("type") in ("error", "response.failed")
                self._failed = self._failed or ("error" in event and event["error"] is not None)
                self._complete = self._complete or (
                    _is_last(self._operation, event) and self._reported.input > 0
                )
                if self._complete:
                    self._unread = []
                else:
                    self._written += _written(self._operation, event)


class _TooLongError(Exception):
    """The answer exceeds the number of bytes that the meter reads."""


class _Decoder:
    """Decodes an answer in pieces of bounded length."""

    def __init__(self, encoding: str) -> None:
        self._bits = {"gzip": _GZIP, "x-gzip": _GZIP, "deflate": _ZLIB}.get(encoding)
        self.known = self._bits is not None or encoding in ("", "identity")
        self._member = None if self._bits is None else zlib.decompressobj(self._bits)
        self._length = 0

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """Decode the next bytes, and yield the result in pieces.

        Raises:
            zlib.error: the bytes do not have the encoding.
            _TooLongError: the answer is longer than we read.
        """
        if self._bits is None:
            yield data
            return
        while data:
            if self._member is None or self._member.eof:
                self._member = zlib.decompressobj(self._bits)  # gzip can have several members
            piece = self._member.decompress(data, _PIECE)
            self._length += len(piece)
            # A few bytes of gzip can stand for gigabytes.
            if self._length > _DECOMPRESSED_LIMIT:
                raise _TooLongError
            data = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
            yield piece


def usage_in(operation: Operation, event: Mapping[str, Any]) -> Tokens:
    """Return the usage that an event or a whole answer reports so far. Counts that it lacks are 0."""
    match operation:
        case Operation.GENERATE_CONTENT:
            return _of_google(_dict(event.get("usageMetadata")))
        case Operation.MESSAGES:
            return _of_anthropic(_usage(event, "message"))
    inner = _dict(event.get("response"))
    return _of_openai(_usage(event, "response"), event.get("service_tier") or inner.get("service_tier"))


def _usage(event: Mapping[str, Any], inner: str) -> dict[str, Any]:
    return _dict(event.get("usage")) or _dict(_dict(event.get(inner)).get("usage"))


def _of_anthropic(used: Mapping[str, Any]) -> Tokens:
    """Return Anthropic's tokens; those of a compaction and of other models are only in `iterations`."""
    total = Tokens()
    for one in used.get("iterations") or () if isinstance(used.get("iterations"), list) else ():
        total = total.plus(_of_iteration(_dict(one)))
    mode = _mode(used.get("speed")) or _mode(used.get("service_tier"))
    return _of_iteration(used).largest(total).largest(Tokens(mode=mode))


def _of_iteration(used: Mapping[str, Any]) -> Tokens:
    read = positive(used.get("cache_read_input_tokens"))
    kept = _dict(used.get("cache_creation"))
    lasting = positive(kept.get("ephemeral_1h_input_tokens"))
    write = max(
        positive(used.get("cache_creation_input_tokens")),
        lasting + positive(kept.get("ephemeral_5m_input_tokens")),
    )
    new = positive(used.get("input_tokens"))
    return Tokens(new + read + write, positive(used.get("output_tokens")), read, write, lasting)


def _of_openai(used: Mapping[str, Any], tier: Any) -> Tokens:
    sent = _dict(used.get("input_tokens_details")) or _dict(used.get("prompt_tokens_details"))
    written = _dict(used.get("output_tokens_details")) or _dict(used.get("completion_tokens_details"))
    input = positive(used.get("input_tokens")) or positive(used.get("prompt_tokens"))
    output = positive(used.get("output_tokens")) or positive(used.get("completion_tokens"))
    return Tokens(
        input=input,
        # Some compatible services count thoughts only in the total.
        output=max(output, positive(used.get("total_tokens")) - input),
        cache_read=positive(sent.get("cached_tokens")),
        cache_write=positive(sent.get("cache_write_tokens")),
        input_audio=positive(sent.get("audio_tokens")),
        output_audio=positive(written.get("audio_tokens")),
        mode=_mode(tier),
    )


def _of_google(used: Mapping[str, Any]) -> Tokens:
    input = positive(used.get("promptTokenCount")) + positive(used.get("toolUsePromptTokenCount"))
    output = positive(used.get("candidatesTokenCount")) + positive(used.get("thoughtsTokenCount"))
    sound = _sound(used.get("promptTokensDetails")) + _sound(used.get("toolUsePromptTokensDetails"))
    return Tokens(
        input=input,
        output=max(output, positive(used.get("totalTokenCount")) - input),
        cache_read=positive(used.get("cachedContentTokenCount")),
        input_audio=sound,
        cache_audio=_sound(used.get("cacheTokensDetails")),
        output_audio=_sound(used.get("candidatesTokensDetails")),
        mode=_mode(used.get("serviceTier")) or _mode(used.get("trafficType")),
    )


def _sound(details: Any) -> int:
    """Return the tokens of sound in Google's list of tokens by modality."""
    listed = [_dict(one) for one in details] if isinstance(details, list) else []
    return sum(positive(one.get("tokenCount")) for one in listed if one.get("modality") == "AUDIO")


def _mode(value: Any) -> str:
    name = value.lower() if isinstance(value, str) else ""
    name = name.removeprefix("service_tier_").removeprefix("on_demand_")
    return "" if name in _ORDINARY else name


def _is_last(operation: Operation, event: Mapping[str, Any]) -> bool:
    """Whether the usage in this event is final."""
    match operation:
        case Operation.MESSAGES:
            return event.get("type") in ("message_delta", "message") and _counts(event.get("usage"))
        case Operation.GENERATE_CONTENT:
            candidates = event.get("candidates")
            listed = candidates if isinstance(candidates, list) else []
            ended = any("finishReason" in _dict(one) for one in listed)
            return bool(event.get("usageMetadata")) and (ended or not candidates)
        case _:
            return _counts(event.get("usage")) or _counts(_dict(event.get("response")).get("usage"))


def _counts(used: Any) -> bool:
    """Whether a usage has the number of output tokens."""
    names = ("output_tokens", "completion_tokens", "total_tokens")
    return any(isinstance(_dict(used).get(name), int) for name in names)


def _written(operation: Operation, event: Mapping[str, Any]) -> int:
    """Return how many bytes the model wrote in this event."""
    kind = event.get("type")
    if operation is Operation.RESPONSES and isinstance(kind, str):
        # Later events repeat the text of the deltas.
        delta = event.get("delta")
        return _length(delta) if kind.endswith(".delta") and isinstance(delta, str) else 0
    return sum(_lengths(event))


def _lengths(value: Any) -> Iterator[int]:
    if isinstance(value, dict):
        for key, entry in value.items():
            if key in _TEXTS and isinstance(entry, str):
                yield _length(entry)
            elif key == "args":
                yield len(json.dumps(entry))
            else:
                yield from _lengths(entry)
    elif isinstance(value, list):
        for entry in value:
            yield from _lengths(entry)


def _length(text: str) -> int:
    return len(text.encode("utf-8", "replace"))


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}

"""Wall: the protocol between agent and workspace. A frame without a meaning is refused, and does nothing."""

from __future__ import annotations

import asyncio
import json

import pytest
from coding_agent_consumer.workspace import wire
from coding_agent_consumer.workspace.client import _receive as receive_answer
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b"\xff",
        b'{"op":"run"}',
        b'{"op":"run","body":-1}',
        b'{"op":"run","body":true}',
        b'{"op":"run","body":1e3}',
        b'{"op":"run","body":99999999999}',
        b'{"op":"rm","body":0}',
        b'{"op":null,"body":0}',
        b'{"op":["run"],"body":0}',
        b"[" * 60_000,
    ],
)
def test_what_is_no_request_is_refused(text: bytes) -> None:
    with pytest.raises(wire.WireError):
        wire.decode_header(text)


@pytest.mark.parametrize("length", [0, wire.MAX_HEADER + 1, 2**32 - 1])
def test_a_header_must_have_a_sensible_length(length: int) -> None:
    with pytest.raises(wire.WireError):
        wire.header_length(wire.PREFIX.pack(length))


def test_a_header_comes_back_as_it_went() -> None:
    frame = wire.encode_header({"op": "run", "timeout": 1.5, "path": "日本"}, 7)
    length = wire.header_length(frame[:4])
    assert wire.decode_header(frame[4:]) == ({"op": "run", "timeout": 1.5, "path": "日本"}, 7)
    assert length == len(frame) - 4
    with pytest.raises(wire.WireError):
        wire.encode_header({"path": "x" * wire.MAX_HEADER}, 0)


@given(
    st.one_of(st.binary(max_size=200), st.dictionaries(st.text(), st.integers() | st.text()).map(json.dumps))
)
async def test_no_answer_at_all_does_more_than_be_refused(data: bytes | str) -> None:
    raw = data.encode() if isinstance(data, str) else data
    reader = asyncio.StreamReader()
    reader.feed_data(wire.PREFIX.pack(len(raw)) + raw + b"rest")
    reader.feed_eof()
    try:
        fields, body = await receive_answer(reader, 10)
    except (wire.WireError, asyncio.IncompleteReadError):
        return
    assert isinstance(fields, dict)
    assert len(body) <= 10

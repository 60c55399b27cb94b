"""Wall: the protocol between agent and workspace. A frame without a meaning is refused, and does nothing."""

import asyncio
import json
from pathlib import Path

import pytest
from coding_agent_consumer.workspace import framing
from coding_agent_consumer.workspace.launch import launch_workspace
from coding_agent_consumer.workspace.protocol import WorkspaceRequestError
from coding_agent_consumer.workspace.workspace_client import WorkspaceClient
from coding_agent_consumer.workspace.workspace_client import _receive as receive_answer
from coding_agent_core.settings.attempt_settings import WorkspaceSettings
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
    with pytest.raises(framing.WireError):
        framing.decode_header(text)


@pytest.mark.parametrize("length", [0, framing.MAX_HEADER + 1, 2**32 - 1])
def test_a_header_must_have_a_sensible_length(length: int) -> None:
    with pytest.raises(framing.WireError):
        framing.header_length(framing.PREFIX.pack(length))


def test_a_header_comes_back_as_it_went() -> None:
    frame = framing.encode_header({"op": "run", "timeout": 7.5, "path": "日本"}, 7)
    length = framing.header_length(frame[:4])
    assert framing.decode_header(frame[4:]) == ({"op": "run", "timeout": 7.5, "path": "日本"}, 7)
    assert length == len(frame) - 4
    with pytest.raises(framing.WireError):
        framing.encode_header({"path": "x" * framing.MAX_HEADER}, 0)


@given(
    st.one_of(st.binary(max_size=200), st.dictionaries(st.text(), st.integers() | st.text()).map(json.dumps))
)
async def test_no_answer_at_all_does_more_than_be_refused(data: bytes | str) -> None:
    raw = data.encode() if isinstance(data, str) else data
    reader = asyncio.StreamReader()
    reader.feed_data(framing.PREFIX.pack(len(raw)) + raw + b"rest")
    reader.feed_eof()
    try:
        fields, body = await receive_answer(reader, 10)
    except (framing.WireError, asyncio.IncompleteReadError):
        return
    assert isinstance(fields, dict)
    assert len(body) <= 10


@pytest.mark.parametrize(
    ("fields", "patch"),
    [
        ({}, framing.Patch(b"x")),
        ({"left_out": 3, "source": []}, framing.Patch(b"x")),
        ({"left_out": ["a\n# b", 4, {}], "source": "s\r\nt"}, framing.Patch(b"x", ("a # b",), "s t")),
        (
            {"left_out": ["n" * 9999] * 9999},
            framing.Patch(b"x", ("n" * framing.MAX_NAME,) * framing.MAX_NAMES),
        ),
    ],
)
def test_what_a_workspace_says_about_its_patch_is_short_and_plain(
    fields: dict[str, object], patch: framing.Patch
) -> None:
    assert framing.Patch.of(fields, b"x") == patch


NO_NUMBERS = [10**400, -1, -0.1, float("nan"), float("inf"), True, "1", None, [], 1e6 + 1]


@pytest.mark.parametrize("value", NO_NUMBERS)
def test_a_number_is_within_its_bounds(value: object) -> None:
    """Compared as it is: no float holds 10**400, and `float` of it raises OverflowError."""
    assert framing.number(value, most=1e6) is None
    assert framing.number(10, most=1e6) == 10.0


@pytest.mark.parametrize("value", NO_NUMBERS)
async def test_a_request_with_such_a_number_does_not_end_the_workspace(base_dir: Path, value: object) -> None:
    async with launch_workspace(WorkspaceSettings(), base_dir=base_dir) as workspace:
        header = {"op": "run", "timeout": value, "output_limit": value}
        assert isinstance(workspace, WorkspaceClient)
        _, body = await workspace._ask(header, b"echo ran", timeout=60, limit=1000)
        assert body == b"ran\n"
        for name in ("start_line", "line_count"):
            with pytest.raises(WorkspaceRequestError):
                await workspace._ask({"op": "read_file", "path": "x", "start_line": 1, name: value})
        assert (await workspace.run("echo still there")).exit_code == 0

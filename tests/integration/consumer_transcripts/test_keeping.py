"""Transcripts outlive their attempt: killed, on another machine, or with a store that is down."""

import asyncio
import logging
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from coding_agent_consumer.agent.messages import fields_of
from coding_agent_consumer.transcripts import store
from coding_agent_consumer.transcripts.store import Transcripts
from coding_agent_consumer.transcripts.transcript import Scrub, Transcript, read
from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.settings.connections import ContextStorage
from coding_agent_core.task.attempts import MAX_TAIL, Outcome
from coding_agent_core.task.model import Item
from coding_agent_core.task.reasons import Reason
from coding_agent_testbed.until import until_async
from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
)

from tests.fixtures.s3 import BUCKET, S3Server

ITEM = Item(
    platform=Platform.GITHUB, host="github.com", repository="octo/demo", kind=ItemKind.ISSUE, number=7
)
FAILED = Outcome(reason=Reason.MODEL_UNAVAILABLE, message="The model is down.")
STEPS: list[ModelMessage] = [
    ModelResponse(parts=[TextPart("I look."), ToolCallPart("run_command", {"command": "make"}, "1")]),
    ModelRequest(parts=[ToolReturnPart("run_command", "2 passed", "1")]),
]


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Transcripts are uploaded every moment."""
    monkeypatch.setattr(store, "UPLOAD_S", 0.05)


def storage(s3: S3Server | None = None, **changes: Any) -> ContextStorage:
    section = {"s3": s3.settings()} if s3 else {}
    return ContextStorage.model_validate({**section, **changes})


def opened(kept: ContextStorage, base: Path, attempt: int = 1, *, uuid: str = "uuid-1") -> Transcripts:
    return Transcripts(kept, base, ITEM, run=1, uuid=uuid, attempt=attempt)


def write(transcripts: Transcripts, *messages: ModelMessage) -> None:
    writer = Transcript(transcripts.path, Scrub([]), transcripts.lines)
    for message in messages or STEPS:
        writer.append(fields_of(message))


async def test_the_end_tells_the_place_the_link_and_the_last_steps(s3: S3Server, tmp_path: Path) -> None:
    kept = opened(storage(s3, link="https://logs.example/{key}"), tmp_path)
    assert await kept.begin() == ""
    write(kept)
    outcome = await kept.end(FAILED)
    key = "github/github.com/octo/demo/issue-7/run-1-uuid-1/attempt-1.jsonl"
    assert outcome.transcript == f"s3://{BUCKET}/{s3.prefix}/{key}"
    assert outcome.transcript_url == f"https://logs.example/{key}"
    assert outcome.tail == '- said: I look.\n- called run_command {"command":"make"}\n  gave: 2 passed'
    assert (outcome.reason, outcome.message) == (FAILED.reason, FAILED.message)
    assert s3.read(key) == (tmp_path / key).read_bytes(), "the whole of it"


async def test_nothing_is_kept_where_that_is_wanted_but_the_last_steps_are_told(
    s3: S3Server, tmp_path: Path
) -> None:
    kept = opened(storage(s3, enabled=False), tmp_path)
    assert await kept.begin() == ""
    assert kept.path is None
    assert await kept.end(FAILED) == FAILED
    write(kept, *STEPS * 40)
    outcome = await kept.end(FAILED)
    assert outcome.tail.endswith('- called run_command {"command":"make"}\n  gave: 2 passed')
    assert outcome.tail.startswith("…"), "the oldest went"
    assert 1000 < len(outcome.tail) <= MAX_TAIL
    assert (outcome.transcript, outcome.transcript_url) == (None, None)
    assert list(tmp_path.iterdir()) == []
    assert s3.read(kept.key) is None


async def test_another_task_of_the_same_item_and_run_is_told_nothing_of_it(
    s3: S3Server, tmp_path: Path
) -> None:
    """An AgentTask that was removed after its time: the next one is run 1, attempt 1 again."""
    first = opened(storage(s3), tmp_path)
    await first.begin()
    write(first)
    await first.end(FAILED)
    for base in (tmp_path, tmp_path / "another-node"):
        assert await opened(storage(s3), base, uuid="uuid-2").begin() == ""
    assert "gave: 2 passed" in await opened(storage(s3), tmp_path, 2).begin(), "the same task"


async def test_a_killed_agent_leaves_what_it_had_and_the_next_one_reads_it(
    s3: S3Server, tmp_path: Path
) -> None:
    killed = opened(storage(s3), tmp_path / "first")
    await killed.begin()
    write(killed, ModelResponse(parts=[TextPart("I am attempt 1.")]))
    await until_async(
        "it is uploaded while it runs", lambda: b"I am attempt 1." in (s3.read(killed.key) or b"")
    )
    assert killed._keeping is not None
    killed._keeping.cancel()  # nothing more comes of it
    on_another_node = opened(storage(s3), tmp_path / "second", 2)
    assert await on_another_node.begin() == "- said: I am attempt 1."
    await on_another_node.end(FAILED)


async def test_another_pod_of_the_same_attempt_goes_on_with_its_transcript(
    s3: S3Server, tmp_path: Path
) -> None:
    first = opened(storage(s3), tmp_path / "first")
    await first.begin()
    write(first, ModelResponse(parts=[TextPart("Before the node was lost.")]))
    with (first.path or tmp_path).open("ab") as file:
        file.write(b'{"kind": "response", "par')  # cut in mid-line
    await first.end(FAILED)
    second = opened(storage(s3), tmp_path / "second")
    assert "Before the node was lost." in await second.begin()
    write(second, ModelResponse(parts=[TextPart("And after it.")]))
    await second.end(FAILED)
    said = [
        part["content"]
        for message in read(second.path or tmp_path)
        for part in message["parts"]
        if part["part_kind"] == "text"
    ]
    assert said == ["Before the node was lost.", "And after it."]
    assert s3.read(second.key) == (second.path or tmp_path).read_bytes()


async def test_a_store_that_is_down_costs_nothing_but_the_record(
    s3: S3Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    s3.kill()
    kept = opened(storage(s3), tmp_path)
    with caplog.at_level(logging.WARNING):
        assert await kept.begin() == ""
        write(kept)
        await until_async(
            "the first upload failed", lambda: "Cannot upload the transcript for now" in caplog.text
        )
        outcome = await kept.end(FAILED, within=2)
    assert (outcome.reason, outcome.message, outcome.transcript) == (FAILED.reason, FAILED.message, None)
    assert "gave: 2 passed" in outcome.tail
    incomplete = "(The transcript is incomplete: the bucket agent-logs cannot be reached (GenericError).)"
    assert outcome.tail.endswith(incomplete)
    assert caplog.text.count("Cannot upload the transcript for now") == 1, "said once, not at every try"


async def test_a_store_that_comes_back_has_the_whole_of_it(s3: S3Server, tmp_path: Path) -> None:
    s3.kill()
    kept = opened(storage(s3), tmp_path)
    await kept.begin()
    write(kept)
    s3.start()
    write(kept, ModelResponse(parts=[TextPart("More.")]))
    outcome = await kept.end(FAILED)
    assert outcome.transcript is not None
    assert "incomplete" not in outcome.tail
    assert b"More." in (s3.read(kept.key) or b"")


async def test_a_store_that_hangs_delays_the_end_no_longer_than_allowed(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_REQUEST_S", 600.0)  # an upload that hangs does not end by itself
    kept = opened(storage(s3), tmp_path)
    await kept.begin()
    write(kept)
    await until_async("the first upload", lambda: kept._uploaded > 0)
    s3.freeze()
    write(kept, ModelResponse(parts=[TextPart("More.")]))
    await until_async("an upload hangs", lambda: kept._putting is not None and not kept._putting.done())
    hanging = kept._putting
    try:
        async with asyncio.timeout(120):
            outcome = await kept.end(FAILED, within=1)
        assert hanging is not None
        assert not hanging.done(), "the end does not wait for it"
        assert kept._putting is hanging, "no other upload begins"
    finally:
        s3.thaw()  # or the event loop waits at its end for the upload's thread
    assert outcome.reason is FAILED.reason
    assert outcome.transcript is not None, "what was uploaded before is there"


async def test_old_transcripts_go_from_folder_and_bucket(s3: S3Server, tmp_path: Path) -> None:
    old = tmp_path / "github/github.com/octo/demo/issue-1/run-1/attempt-1.jsonl"
    old.parent.mkdir(parents=True)
    old.write_text("{}\n")
    long_ago = datetime(2020, 1, 1, tzinfo=UTC).timestamp()
    os.utime(old, (long_ago, long_ago))
    kept = opened(storage(s3, cleanup_days=30), tmp_path)
    await kept.begin()
    write(kept)
    await until_async("the old one is removed", lambda: not old.exists())
    await kept.end(FAILED)
    assert kept.path is not None
    assert kept.path.exists()
    assert s3.read(kept.key) is not None, "what is young stays"

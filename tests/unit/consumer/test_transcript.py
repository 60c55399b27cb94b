"""Transcripts: private, without secrets, readable after a crash, removed when old."""

import base64
import io
import json
import logging
import os
import re
import shlex
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from coding_agent_consumer.agent.messages import fields_of
from coding_agent_consumer.transcripts.store import cleanup
from coding_agent_consumer.transcripts.transcript import (
    Scrub,
    Transcript,
    answer_message,
    digest,
    prompt_message,
    read,
    recap,
    result_message,
    scrub_for,
    scrub_logs,
    text_part,
    tool_call,
)
from coding_agent_core.settings.model import Settings
from coding_agent_forges.rest.client import remember_token
from hypothesis import given
from hypothesis import strategies as st
from pydantic_ai.messages import (
    BinaryContent,
    ModelMessage,
    ModelMessagesTypeAdapter,
    ModelRequest,
    ModelResponse,
    NativeToolCallPart,
    RetryFeedbackPart,
    RetryInfo,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.usage import RequestUsage

MESSAGES: list[ModelMessage] = [
    ModelRequest(parts=[UserPromptPart("The task.")]),
    ModelResponse(parts=[TextPart("I read it."), ToolCallPart("read_file", {"path": "a.py"}, "1")]),
    ModelRequest(parts=[ToolReturnPart("read_file", "1\tprint()", "1")]),
]
NOW = datetime(2026, 6, 1, tzinfo=UTC)


def written(path: Path, scrub: Scrub | None = None) -> Path:
    transcript = Transcript(path, scrub or Scrub([]))
    for message in MESSAGES:
        transcript.append(fields_of(message))
    return path


def test_a_line_has_the_fields_of_the_library() -> None:
    answer = ModelResponse(
        parts=[ThinkingPart("So.", signature="s"), NativeToolCallPart("search", {"a": float("inf")}, "2")],
        usage=RequestUsage(input_tokens=3, details={"cached": 1}),
        model_name="m",
        finish_reason="stop",
    )
    asked_again = ModelRequest(
        parts=[RetryFeedbackPart("Again.", retry=RetryInfo(cause="model_retry")), UserPromptPart(["a", "b"])]
    )
    for message in (*MESSAGES, answer, asked_again):
        assert [fields_of(message)] == json.loads(ModelMessagesTypeAdapter.dump_json([message]))


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    path = written(tmp_path / "folder/attempt-1.jsonl")
    assert ModelMessagesTypeAdapter.validate_python(read(path)) == MESSAGES
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_a_last_line_cut_by_a_crash_is_left_out(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl")
    path.write_bytes(path.read_bytes()[:-40])
    assert read(path) == [fields_of(message) for message in MESSAGES[:2]]


@pytest.mark.parametrize("content", [None, b"\xff\xfe", b"[]\n{}\n"])
def test_junk_reads_as_nothing(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "a").write_bytes(content)
    assert (read(tmp_path / "a"), recap(tmp_path / "a")) == ([], "")


def test_the_messages_of_other_agents_are_read_like_our_own() -> None:
    call = tool_call("1", "read_file", {"path": "a.py"})
    theirs = [
        prompt_message("The task."),
        answer_message(text_part("I read it.")),
        answer_message(call),
        result_message(call, "1\tprint()", failed=True),
    ]
    read_again = [fields_of(message) for message in ModelMessagesTypeAdapter.validate_python(theirs)]
    assert [digest(message) for message in read_again] == [digest(message) for message in theirs]
    assert [[part["part_kind"] for part in message["parts"]] for message in read_again] == [
        *(["user-prompt"], ["text"], ["tool-call"], ["tool-return"])
    ]
    assert digest(theirs[3]) == ["  failed: 1 print()"]


_IMAGE = BinaryContent(b"x", media_type="image/png")


@pytest.mark.parametrize(
    "content",
    ["", "text", None, 7, [], ["one"], [1, {"a": "ü"}], {"b": [True]}, _IMAGE, [_IMAGE], ["one", _IMAGE]],
)
@pytest.mark.parametrize("args", [None, "", {}, {"a": 1}, '{"a": "ü"}', "[1]", "{"])
def test_calls_and_results_read_as_the_model_sees_them(content: Any, args: Any) -> None:
    result, call = ToolReturnPart("t", content, "1"), ToolCallPart("t", args, "1")
    text = " ".join(result.model_response_str(wrap_if_error=False).split())
    assert digest(fields_of(ModelRequest(parts=[result]))) == [f"  gave: {text}"]
    assert digest(fields_of(ModelResponse(parts=[call]))) == [f"- called t {call.args_as_json_str()}"]


def test_secrets_are_never_written(tmp_path: Path) -> None:
    secret = 'tok"en-0123456789'
    said = ModelRequest(parts=[UserPromptPart(f"It is {secret}!")])
    Transcript(tmp_path / "a", Scrub([secret])).append(fields_of(said))
    assert "0123456789" not in (tmp_path / "a").read_text()
    assert "It is ***!" in str(read(tmp_path / "a"))


def test_the_settings_secrets_are_known() -> None:
    env, headers = {"TOKEN": "env-1-secret", "MODE": "readonly"}, {"A": "Bearer header-1-secret"}
    shop = {"mcp_server_name": "b", "url": "http://b/mcp?id=query-1-secret", "headers": headers}
    known = {
        "llm": {"openai": {"api_key": "model-1-secret"}},
        "github": {"personal_access_token": "github-1-secret"},
        "webhook": {"github": {"secret": "webhook-1-secret"}, "gitlab": {"token": "webhook-2-secret"}},
        "mcp_servers": [{"mcp_server_name": "a", "command": ["a"], "env": env}, shop],
    }
    scrub = scrub_for(Settings.model_validate(known), {})
    secrets = re.findall(r"\w+-\d-secret", str(known))
    assert len(secrets) == 7
    for secret in (*secrets, "readonly", "http://b/mcp?id=query-1-secret"):
        assert scrub(f"<{secret}>") == "<***>"
    assert "model-1-secret" not in repr(scrub)


@pytest.mark.parametrize(
    "arguments",
    [
        *(["--api-key", "S3cret-0123"], ["--api-key=S3cret-0123"], ["-e", "GITLAB_TOKEN=S3cret-0123"]),
        *(["--header", "Authorization: Bearer S3cret-0123"], ["https://mcp:S3cret-0123@server.test/x"]),
        *(["https://server.test/x?id=S3cret-0123"], ["--password", "S3cret-0123", "stdio"]),
    ],
)
def test_secrets_on_a_servers_command_line_are_known(arguments: list[str]) -> None:
    server = {"mcp_server_name": "a", "command": ["github-mcp-server", *arguments]}
    scrub = scrub_for(Settings.model_validate({"mcp_servers": [server]}), {})
    assert "S3cret" not in scrub(f"cannot start {' '.join(server['command'])}")
    assert scrub("github-mcp-server stdio --header") == "github-mcp-server stdio --header"


@given(st.text(min_size=8, max_size=40), st.binary(max_size=5), st.binary(max_size=5))
def test_no_form_of_a_secret_is_left(secret: str, before: bytes, after: bytes) -> None:
    secret = secret.encode("utf-8", "replace").decode()
    scrub = Scrub([secret])
    whole = before + secret.encode() + after
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        left = scrub(encode(whole).decode())
        assert "***" in left
        assert len(left) <= 3 + 4 * (len(before) + len(after) + 4)
    for quoted in (secret, json.dumps(secret), json.dumps(json.dumps(secret)), shlex.quote(secret)):
        assert "***" in scrub(quoted)
    for quoted in (quote(secret, safe=""), quote(secret), quote_plus(secret)):
        assert "***" in scrub(f"https://forge.example/?token={quoted}")


@pytest.mark.usefixtures("own_logging")
def test_a_persons_own_key_is_taken_out_of_the_logs_too() -> None:
    stream = io.StringIO()
    logging.getLogger().addHandler(logging.StreamHandler(stream))
    for key in ("our-model-key", "her-own-key-1"):
        scrub_logs(scrub_for(Settings.model_validate({"llm": {"openai": {"api_key": key}}}), {}))
    logging.getLogger("coding_agent.test").warning("her-own-key-1 and our-model-key")
    assert stream.getvalue() == "*** and ***\n"


def test_a_token_that_was_issued_to_this_process_is_taken_out_of_what_was_made_before() -> None:
    scrub = Scrub(())
    remember_token("ghs_issued-to-this-process")
    assert scrub("Authorization: ghs_issued-to-this-process") == "Authorization: ***"


def test_a_disk_that_refuses_does_not_end_the_work(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    written(tmp_path / "file/a.jsonl")
    assert caplog.text.count("Cannot write the transcript") == 1


def test_a_recap_tells_the_newest_steps_within_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    for _ in range(50):
        written(path)
    text = recap(path, limit=300)
    assert text.startswith("(earlier steps left out)\n")
    assert len(text) < 330
    assert text.endswith('- said: I read it.\n- called read_file {"path":"a.py"}\n  gave: 1 print()')


@pytest.mark.parametrize(
    ("days", "left"), [(30, ["new.jsonl"]), (0, ["new.jsonl", "old.jsonl"]), (90, ["new.jsonl", "old.jsonl"])]
)
def test_old_transcripts_are_removed(tmp_path: Path, days: int, left: list[str]) -> None:
    for name, age in (("old", 40), ("new", 1)):
        path = written(tmp_path / name / f"{name}.jsonl")
        stamp = (NOW - timedelta(days=age)).timestamp()
        os.utime(path, (stamp, stamp))
    removed = cleanup(tmp_path, days, now=NOW)
    assert sorted(path.name for path in tmp_path.rglob("*.jsonl")) == left
    assert removed == 2 - len(left)
    assert (tmp_path / "old").exists() == ("old.jsonl" in left), "its empty folder goes too"

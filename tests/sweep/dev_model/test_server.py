"""The scripted server, spoken to by OpenAI's own client."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from coding_agent_cluster.network import free_ports
from openai import OpenAI
from openai.types.chat import ChatCompletion

from tests.fixtures.model import API_KEY, call, model_server, script

HELLO: Any = [{"role": "user", "content": "hello"}]


def client(base_url: str, key: str = API_KEY) -> OpenAI:
    return OpenAI(base_url=base_url, api_key=key, max_retries=0, timeout=60)


def ask(base_url: str, messages: Any = HELLO) -> ChatCompletion:
    with client(base_url) as api:
        answer = api.chat.completions.create(model="m", messages=messages)
    assert isinstance(answer, ChatCompletion)
    return answer


def test_a_whole_answer() -> None:
    with model_server(script({"text": "Hi.", "calls": [{"tool": "f", "arguments": {"x": 1}}]})) as server:
        answer = ask(server.base_url)
    message = answer.choices[0].message
    assert message.content == "Hi."
    assert message.tool_calls is not None
    assert message.tool_calls[0].function.arguments == '{"x": 1}'  # type: ignore[union-attr]
    assert answer.choices[0].finish_reason == "tool_calls"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens > 0


def test_a_streamed_answer_is_the_same_in_pieces() -> None:
    turn = {"text": "Hi there.", "calls": [{"tool": "f", "arguments": {"x": 1}}, {"tool": "g"}]}
    with model_server(script(turn)) as server, client(server.base_url) as api:
        stream = api.chat.completions.create(
            model="m", messages=HELLO, stream=True, stream_options={"include_usage": True}
        )
        chunks = list(stream)
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    assert "".join(delta.content or "" for delta in deltas) == "Hi there."
    arguments: dict[int, str] = {}
    for delta in deltas:
        for entry in delta.tool_calls or ():
            assert entry.function is not None
            arguments[entry.index] = arguments.get(entry.index, "") + (entry.function.arguments or "")
    assert arguments == {0: '{"x": 1}', 1: "{}"}
    assert sum(1 for delta in deltas if delta.tool_calls) > 2, "arguments come in pieces"
    assert chunks[-1].usage is not None


@pytest.mark.parametrize("stream", [False, True], ids=["body", "stream"])
def test_a_cut_answer_breaks_the_connection_in_its_middle(stream: bool) -> None:
    with model_server(script({"text": "Hi there.", "cut": 1})) as server:
        body = {"model": "m", "messages": HELLO, "stream": stream}
        headers = {"Authorization": f"Bearer {API_KEY}"}
        with pytest.raises(httpx.RemoteProtocolError):
            httpx.post(f"{server.base_url}/chat/completions", json=body, headers=headers, timeout=60)
        assert (
            httpx.post(
                f"{server.base_url}/chat/completions", json=body, headers=headers, timeout=60
            ).status_code
            == 200
        )


def test_a_failure_comes_as_often_as_told_and_with_its_header() -> None:
    with model_server(
        script({"error": {"status": 429, "retry_after": 4, "times": 2}}, {"text": "Hi."})
    ) as server:
        for _ in range(2):
            with pytest.raises(openai.RateLimitError) as caught:
                ask(server.base_url)
            assert caught.value.response.headers["retry-after"] == "4"
        assert ask(server.base_url).choices[0].message.content == "Hi."
        other = [{"role": "user", "content": "another conversation"}]
        with pytest.raises(openai.RateLimitError):
            ask(server.base_url, other)


def test_an_unexpected_message_names_the_turn() -> None:
    with (
        model_server(script({"text": "Hi.", "expect": "good morning"})) as server,
        pytest.raises(openai.ConflictError, match=r"script test, turn 1: expected /good morning/.*hello"),
    ):
        ask(server.base_url)


def test_a_script_that_is_over_says_so() -> None:
    with (
        model_server(script({"text": "Hi."})) as server,
        pytest.raises(openai.ConflictError, match="is over"),
    ):
        ask(server.base_url, [*HELLO, {"role": "assistant", "content": "Hi."}])


def test_the_key_is_demanded() -> None:
    with model_server(script({"text": "Hi."})) as server, client(server.base_url, "wrong") as api:
        with pytest.raises(openai.AuthenticationError):
            api.models.list()
        with client(server.base_url) as right:
            assert [model.id for model in right.models.list()] == ["scripted"]


def test_requests_are_logged_without_the_key() -> None:
    with model_server(script(call("f"))) as server:
        ask(server.base_url)
        log = httpx.get(server.base_url.removesuffix("/v1") + "/_sandbox/requests", timeout=60).json()
    assert [(entry["script"], entry["position"], entry["status"]) for entry in log] == [("test", 0, 200)]
    assert API_KEY not in str(log)


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"messages": 1}'])
def test_a_bad_request_is_refused(body: bytes) -> None:
    with model_server(script({"text": "Hi."}), api_key=None) as server:
        answer = httpx.post(f"{server.base_url}/chat/completions", content=body, timeout=60)
    assert answer.status_code == 400
    assert "message" in answer.json()["error"]


def test_it_runs_as_a_program() -> None:
    [port] = free_ports(1)
    scripts = Path(__file__).parents[3] / "dev/model/scripts"
    command = [sys.executable, "-m", "coding_agent_model", "--port", str(port), "--scripts", str(scripts)]
    environment = {**os.environ, "MODEL_API_KEY": "k-from-environment"}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as program:
        try:
            transport = httpx.HTTPTransport(retries=8)
            with httpx.Client(transport=transport, timeout=60) as http:
                answer = http.get(f"http://127.0.0.1:{port}/v1/models")
                assert answer.status_code == 401
                assert re.search("Incorrect API key", answer.text)
        finally:
            program.terminate()

"""Wall: the model gateway. Commands reach it with the dummy credential, and get answers of the model only.

The decoy: the dummy itself. It lies in the environment of the command that hunts, and the hunt finds it.
"""

import json
import os
from pathlib import Path

import pytest

from tests.integration.consumer_gateway.provider import Play, answer, provider
from tests.security.test_workspace import (
    ASK_FILES,
    ASK_PROCESSES,
    CANARY,
    EACH_USER_AND_ISOLATION,
    agent_folder,
    outputs_of,
    wish_of,
)

__all__ = ["agent_folder"]

_ASK = r"""
import json, sys, urllib.error, urllib.request
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
def ask(path, credential, body=None, kind="application/json"):
    request = urllib.request.Request("@GATEWAY@" + path)
    request.add_header("Authorization", "Bearer " + credential)
    request.add_header("Content-Type", kind)
    data = None if body is None else json.dumps(body).encode()
    try:
        with opener.open(request, data, timeout=60) as answer:
            print(answer.status, path, answer.headers, answer.read().decode())
    except urllib.error.HTTPError as error:
        print(error.code, path, error.headers, error.read().decode())
chat = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
ask("/v1/chat/completions", "@DUMMY@", chat)
ask("/v1/chat/completions", "@OTHER@", chat)
ask("/v1/files", "@DUMMY@", chat)
ask("/v1/models/../files", "@DUMMY@")
address = {"type": "image_url", "image_url": {"url": "https://evil.example.com/?secret"}}
ask("/v1/chat/completions", "@DUMMY@", {"model": "m", "messages": [{"role": "user", "content": [address]}]})
ask("/v1/responses", "@DUMMY@", {"model": "m", "input": "", "tools": [{"type": "mcp", "server_url": "x"}]})
ask("/v1/chat/completions", "@DUMMY@", {**chat, "extra": {"Unheard": ["https://evil.example.com/?secret"]}})
ask("/v1/chat/completions", "@DUMMY@", {**chat, "extra": {"Tools": [{"type": "web_search"}]}})
ask("/v1/chat/completions", "@DUMMY@", chat, "application/x-protobuf")
"""
ASK_GATEWAY = f"cat > $TMPDIR/ask.py <<'END'\n{_ASK}\nEND\npython3 $TMPDIR/ask.py"
HUNT = [
    "export ANTHROPIC_AUTH_TOKEN=@DUMMY@; " + ASK_PROCESSES[0],
    *ASK_PROCESSES[1:],
    "cat /proc/net/tcp /proc/net/unix /proc/@AGENT@/net/tcp; (ss -xtlnp || netstat -xtlnp) 2>/dev/null",
]


def _talkative() -> Play:
    """A provider that repeats the key in its errors, as real ones do."""
    return answer(400, json.dumps({"error": f"sk-{CANARY} may not do this"}).encode())


@pytest.mark.parametrize(("uid", "isolation"), EACH_USER_AND_ISOLATION)
async def test_the_workspace_finds_the_dummy_and_nothing_more(
    agent_folder: Path, base_dir: Path, isolation: str, uid: int | None
) -> None:
    commands = [*HUNT, *(ASK_FILES if isolation == "namespaces" else []), ASK_GATEWAY]
    wish = wish_of(agent_folder, base_dir, isolation, uid, commands)
    async with provider(_talkative()) as upstream:
        outputs, _ = await outputs_of({**wish, "upstream": f"{upstream.base_url}/v1"}, agent_folder)
        [sent] = upstream.requests
    for command, output in zip(commands, outputs, strict=True):
        assert CANARY not in output, command
        assert "PTRACE ATTACHED" not in output
    assert "ANTHROPIC_AUTH_TOKEN=gateway-" in outputs[0].replace('"', ""), "the hunt finds what is there"
    assert sent.headers["authorization"] == f"Bearer sk-{CANARY}", "the dummy opens the gateway"
    statuses = [line.split()[0] for line in outputs[-1].splitlines() if line[:3].isdigit()]
    assert statuses == ["400", "401", "404", "404", "403", "403", "403", "400", "415"], outputs[-1]
    assert "[key] may not do this" in outputs[-1]
    assert os.environ.get("ANTHROPIC_AUTH_TOKEN") is None

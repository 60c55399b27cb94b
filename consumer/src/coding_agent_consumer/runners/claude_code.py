"""Claude Code: `claude -p --output-format stream-json`, tried with 2.1.332.

Source: its documentation, *Headless mode*, *Environment variables*, and what it wrote when it was tried. It
reports a refused request as `subtype: success` with `is_error: true`, and invents prices for models that it
does not know: neither is read here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from coding_agent_consumer.gateway import WireFormat
from coding_agent_consumer.runners import (
    Called,
    Event,
    Failed,
    Launch,
    Order,
    Returned,
    Runner,
    Said,
    fields_of,
    list_of,
    text_of,
)
from coding_agent_consumer.workspace.protocol import ProcessSpec

_RETRIES = 5


def launch(order: Order) -> Launch:
    arguments = (
        *("claude", "-p", "--output-format", "stream-json", "--verbose"),
        *("--permission-mode", "bypassPermissions", "--strict-mcp-config"),
        *("--model", order.model),
        *("--append-system-prompt", order.instructions),
    )
    env = {
        "ANTHROPIC_BASE_URL": order.url,
        "ANTHROPIC_AUTH_TOKEN": order.credential,
        "ANTHROPIC_SMALL_FAST_MODEL": order.model,
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "CLAUDE_CODE_MAX_RETRIES": str(_RETRIES),
        "DISABLE_AUTOUPDATER": "1",
        "DISABLE_ERROR_REPORTING": "1",
        "DISABLE_TELEMETRY": "1",
        "IS_SANDBOX": "1",  # else it refuses to work as root, which it is in some images
    }
    return Launch(ProcessSpec(arguments, env), order.prompt)


def events(line: Mapping[str, Any]) -> Iterator[Event]:
    match line.get("type"):
        case "assistant" if not line.get("is_api_error_message"):
            for part in list_of(fields_of(line.get("message")).get("content")):
                if part.get("type") == "text":
                    yield Said(text_of(part.get("text")))
                elif part.get("type") == "tool_use":
                    yield Called(
                        text_of(part.get("id")), text_of(part.get("name")), fields_of(part.get("input"))
                    )
        case "user":
            for part in list_of(fields_of(line.get("message")).get("content")):
                if part.get("type") == "tool_result":
                    failed = part.get("is_error") is True
                    yield Returned(text_of(part.get("tool_use_id")), "", _result(part), failed)
        case "result" if line.get("is_error") is True:
            status = line.get("api_error_status")
            message = text_of(line.get("result")) or text_of(line.get("subtype"))
            yield Failed(message, status if isinstance(status, int) else None)


def _result(part: Mapping[str, Any]) -> str:
    content = part.get("content")
    if isinstance(content, str):
        return content
    texts = [text_of(one.get("text")) for one in list_of(content) if one.get("type") == "text"]
    return "\n".join(texts) if texts else json.dumps(content)[:1000]


RUNNER = Runner("claude-code", WireFormat.ANTHROPIC, launch, events)

"""Gemini CLI: `gemini -o stream-json`, tried with 0.61.0.

Source: its documentation, *Configuration* and *Headless mode*, and what it wrote when it was tried. It
retries a provider that answers 429 or 5xx for more than 45 s.
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
    text_of,
)
from coding_agent_consumer.workspace.protocol import ProcessSpec


def launch(order: Order) -> Launch:
    settings = {
        "security": {"auth": {"selectedType": "gemini-api-key"}},
        "privacy": {"usageStatisticsEnabled": False},
        "telemetry": {"enabled": False},
        "general": {"enableAutoUpdate": False, "enableAutoUpdateNotification": False},
    }
    env = {
        "GOOGLE_GEMINI_BASE_URL": order.url,
        "GEMINI_API_KEY": order.credential,
        "GEMINI_CLI_TRUST_WORKSPACE": "true",
    }
    arguments = ("gemini", "-m", order.model, "--yolo", "-o", "stream-json")
    process = ProcessSpec(arguments, env, {".gemini/settings.json": json.dumps(settings)})
    # It has no option for further instructions; a file would replace its own system prompt.
    return Launch(process, f"{order.instructions}\n\n{order.prompt}")


def events(line: Mapping[str, Any]) -> Iterator[Event]:
    match line.get("type"):
        case "message" if line.get("role") == "assistant":
            yield Said(text_of(line.get("content")), continues=line.get("delta") is True)
        case "tool_use":
            yield Called(
                text_of(line.get("tool_id")),
                text_of(line.get("tool_name")),
                fields_of(line.get("parameters")),
            )
        case "tool_result":
            failed = line.get("status") != "success"
            text = text_of(fields_of(line.get("error")).get("message")) if failed else ""
            yield Returned(text_of(line.get("tool_id")), "", text or text_of(line.get("output")), failed)
        case "result" if line.get("status") == "error":
            yield Failed(text_of(fields_of(line.get("error")).get("message")))


def http_status_of(exit_code: int) -> int | None:
    """It ends with the HTTP status, of which the system keeps the lower eight bits: 402 becomes 146."""
    return exit_code + 256 if 400 - 256 <= exit_code <= 255 else None


RUNNER = Runner("gemini", WireFormat.GOOGLE, launch, events, http_status_of)

"""OpenCode: `opencode run --format json`, tried with 1.18.33.

Source: its documentation, *CLI* and *Config*, and what it wrote when it was tried. It retries a provider that
answers 429 or 5xx for more than 45 s, and has no limit of its own for requests.
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

_INSTRUCTIONS = ".config/opencode/coding-agent.md"


def launch(order: Order) -> Launch:
    model = f"gateway/{order.model}"
    config = {
        "share": "disabled",
        "autoupdate": False,
        "permission": "allow",
        "instructions": [f"~/{_INSTRUCTIONS}"],
        "model": model,
        "small_model": model,
        "provider": {
            "gateway": {
                "npm": "@ai-sdk/openai-compatible",
                "name": "gateway",
                "options": {"baseURL": f"{order.url}/v1", "apiKey": order.credential},
                "models": {order.model: {"name": order.model}},
            }
        },
    }
    env = {
        "OPENCODE_CONFIG_CONTENT": json.dumps(config),
        "OPENCODE_DISABLE_AUTOUPDATE": "1",
        "OPENCODE_DISABLE_MODELS_FETCH": "1",
    }
    arguments = ("opencode", "run", "--format", "json")
    return Launch(ProcessSpec(arguments, env, {_INSTRUCTIONS: order.instructions}), order.prompt)


def events(line: Mapping[str, Any]) -> Iterator[Event]:
    part = fields_of(line.get("part"))
    match line.get("type"):
        case "text":
            yield Said(text_of(part.get("text")))
        case "tool_use":
            # Written when the tool has ended.
            state, name, tool = fields_of(part.get("state")), text_of(part.get("callID")), part.get("tool")
            failed = state.get("status") == "error"
            yield Called(name, text_of(tool), fields_of(state.get("input")))
            text = text_of(state.get("error")) if failed else text_of(state.get("output"))
            yield Returned(name, text_of(tool), text, failed)
        case "error":
            error = fields_of(line.get("error"))
            data = fields_of(error.get("data"))
            status = data.get("statusCode")
            message = text_of(data.get("message")) or text_of(error.get("name"))
            yield Failed(message, status if isinstance(status, int) else None)


RUNNER = Runner("opencode", WireFormat.OPENAI, launch, events)

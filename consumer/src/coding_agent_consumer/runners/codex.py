"""Codex: `codex exec --json`, tried with 0.171.0.

Source: its documentation, *Non-interactive mode* and *config.toml*, and what it wrote when it was tried. One
stream left out a command that had run, so nothing is counted here.
"""

from __future__ import annotations

import json
import re
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

_RETRIES = 4
_KEY = "CODING_AGENT_GATEWAY"
_STATUS = re.compile(r"status:? (\d{3})\b")


def launch(order: Order) -> Launch:
    settings = {
        "model": order.model,
        "model_provider": "gateway",
        "model_providers.gateway": {
            "name": "gateway",
            "base_url": f"{order.url}/v1",
            "env_key": _KEY,
            "wire_api": "responses",
            "request_max_retries": _RETRIES,
            "stream_max_retries": _RETRIES,
        },
        "developer_instructions": order.instructions,
        "shell_environment_policy.exclude": [_KEY],
        "check_for_update_on_startup": False,
        "web_search": "disabled",
        "analytics.enabled": False,
        "otel.metrics_exporter": "none",
        "features.plugins": False,
        "features.apps": False,
    }
    arguments = ["codex", "exec", "--json", "--ephemeral", "--skip-git-repo-check"]
    arguments.append("--dangerously-bypass-approvals-and-sandbox")  # the workspace is the sandbox
    for name, value in settings.items():
        arguments += ["-c", f"{name}={_toml(value)}"]
    return Launch(ProcessSpec((*arguments, "-"), {_KEY: order.credential}), order.prompt)


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} = {_toml(entry)}" for name, entry in value.items()) + "}"
    return json.dumps(value)  # strings, numbers, booleans and lists of strings are written alike


def events(line: Mapping[str, Any]) -> Iterator[Event]:
    if line.get("type") == "turn.failed":
        message = text_of(fields_of(line.get("error")).get("message"))
        found = _STATUS.search(message)
        # Without a status it could not reach the model, or the stream broke.
        yield Failed(message, int(found[1]) if found else 503)
        return
    item = fields_of(line.get("item"))
    name, ended = text_of(item.get("id")), line.get("type") == "item.completed"
    match item.get("type"):
        case "agent_message" if ended:
            yield Said(text_of(item.get("text")))
        case "command_execution":
            if not ended:
                yield Called(name, "command", {"command": text_of(item.get("command"))})
            else:
                failed = item.get("exit_code") != 0
                yield Returned(name, "command", text_of(item.get("aggregated_output")), failed)
        case "file_change" if ended:
            paths = [text_of(change.get("path")) for change in list_of(item.get("changes"))]
            yield Called(name, "edit", {"path": ", ".join(paths)})
        case "mcp_tool_call" if not ended:
            yield Called(name, text_of(item.get("tool")), fields_of(item.get("arguments")))


RUNNER = Runner("codex", WireFormat.OPENAI, launch, events)

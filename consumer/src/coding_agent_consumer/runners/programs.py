"""The CLI coding agents: the start of each program, and the meaning of its output.

The facts come from each program's own documentation, and from its output when it was tried in the version
named here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from coding_agent_core.task.runners import RunnerName

from coding_agent_consumer.runners import (
    FOLDER,
    AgentMessage,
    Event,
    Failed,
    Launch,
    Runner,
    RunnerInput,
    ToolCall,
    ToolResult,
    Warned,
)
from coding_agent_consumer.workspace.protocol import HOME_FROM_TREE, ProcessSpec

_INSTRUCTIONS = f"{FOLDER}/instructions.md"
"""The instructions are in a file, as Linux limits an argument or variable to 128 KiB: execve(2)."""

_CLAUDE_SIZES = ("HAIKU", "SONNET", "OPUS", "FABLE")
_CLAUDE_SMALLEST_WINDOW = 100_000
"""Tokens. Claude Code raises a smaller window to this, and warns."""


def _start_claude_code(order: RunnerInput) -> Launch:
    """Start Claude Code 2.1.332; documented in *Headless mode*, *Settings* and *Environment variables*.

    It reports a refused request as `subtype: success` with `is_error: true`, and invents prices for models
    that it does not know. We read neither. The model service, hooks and permissions of the repository's
    `.claude` override its environment, unless only the user's settings are its source. The same option leaves
    out the instructions, skills and helpers of the branch.

    It compacts before its window is full. `CLAUDE_CODE_MAX_CONTEXT_TOKENS` is the window of a model whose
    name it does not know. `CLAUDE_CODE_AUTO_COMPACT_WINDOW` sets that of any model, up to the model's own.
    """
    arguments = (
        *("claude", "-p", "--output-format", "stream-json", "--verbose"),
        *("--permission-mode", "bypassPermissions", "--strict-mcp-config", "--setting-sources", "user"),
        *("--model", order.model),
        *("--append-system-prompt-file", f"{HOME_FROM_TREE}/{_INSTRUCTIONS}"),
        *(("--resume", order.conversation) if order.conversation else ()),
    )
    env = {
        "ANTHROPIC_BASE_URL": order.url,
        "ANTHROPIC_AUTH_TOKEN": order.credential,
        # Without these, it uses other models than the given one for small work and for its helpers.
        **{f"ANTHROPIC_DEFAULT_{size}_MODEL": order.model for size in _CLAUDE_SIZES},
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "CLAUDE_CODE_MAX_CONTEXT_TOKENS": str(order.context_length),
        "CLAUDE_CODE_MAX_OUTPUT_TOKENS": str(order.max_output),
        "CLAUDE_CODE_MAX_RETRIES": "5",
        "DISABLE_AUTOUPDATER": "1",
        "DISABLE_ERROR_REPORTING": "1",
        "DISABLE_TELEMETRY": "1",
        "IS_SANDBOX": "1",  # without this it refuses to work as root, which some images use
    }
    if order.context_length >= _CLAUDE_SMALLEST_WINDOW:
        env["CLAUDE_CODE_AUTO_COMPACT_WINDOW"] = str(order.context_length)
    return Launch(ProcessSpec(arguments, env, {_INSTRUCTIONS: order.instructions}), order.prompt)


def _claude_code_events(line: Mapping[str, Any]) -> Iterator[Event]:
    match line.get("type"):
        case "assistant" if not line.get("is_api_error_message"):
            for part in _list(_fields(line.get("message")).get("content")):
                if part.get("type") == "text":
                    yield AgentMessage(_text(part.get("text")))
                elif part.get("type") == "tool_use":
                    yield ToolCall(_text(part.get("id")), _text(part.get("name")), _fields(part.get("input")))
        case "user":
            for part in _list(_fields(line.get("message")).get("content")):
                if part.get("type") == "tool_result":
                    failed = part.get("is_error") is True
                    yield ToolResult(_text(part.get("tool_use_id")), "", _claude_code_result(part), failed)
        case "result" if line.get("is_error") is True:
            status = line.get("api_error_status")
            message = _text(line.get("result")) or _text(line.get("subtype"))
            yield Failed(message, status if isinstance(status, int) else None)


def _claude_code_result(part: Mapping[str, Any]) -> str:
    content = part.get("content")
    if isinstance(content, str):
        return content
    texts = [_text(one.get("text")) for one in _list(content) if one.get("type") == "text"]
    return "\n".join(texts) if texts else json.dumps(content)[:1000]


_CODEX_KEY = "CODING_AGENT_GATEWAY"
_CODEX_STATUS = re.compile(r"status:? (\d{3})\b")
# Codex finds skills in a prompt in this way: `$name`, and `[$name](path)`, also with `skill://path`.
_CODEX_SKILL = re.compile(r"\$([A-Za-z0-9_:-]+)")
_CODEX_SKILL_FILE = re.compile(r"\[\$[^\]]{0,1000}\]\s{0,9}\(\s{0,9}(?:skill://)?([^)]{1,4000})\)")


def _start_codex(order: RunnerInput) -> Launch:
    """Start Codex 0.171.0; documented in *Non-interactive mode* and *config.toml*.

    One stream left out a command that had run, so nothing is counted by its output. It ignores the `.codex`
    of a repository that it was not told to trust. It retries requests and streams, and the two numbers
    multiply. A stream is retried after a 429 only if the answer says how long to wait; the gateway adds that.

    It adds instructions and skills of the branch to the prompt. Two settings leave them out, except for a
    skill that the prompt names as `$name` or by its path: each of these is disabled separately.
    """
    settings = {
        "model": order.model,
        "model_context_window": order.context_length,
        "model_provider": "gateway",
        "model_providers.gateway": {
            "name": "gateway",
            "base_url": f"{order.url}/v1",
            "env_key": _CODEX_KEY,
            "wire_api": "responses",
            "request_max_retries": 0,
            "stream_max_retries": 4,
        },
        "shell_environment_policy.exclude": [_CODEX_KEY],
        "check_for_update_on_startup": False,
        "web_search": "disabled",
        "analytics.enabled": False,
        "otel.metrics_exporter": "none",
        "features.plugins": False,
        "features.apps": False,
        "project_doc_max_bytes": 0,
        "skills.include_instructions": False,
    }
    resumed = ["resume"] if order.conversation else []
    arguments = ["codex", "exec", *resumed, "--json", "--skip-git-repo-check"]
    arguments.append("--dangerously-bypass-approvals-and-sandbox")  # the workspace is the sandbox
    for name, value in settings.items():
        arguments += ["-c", f"{name}={_toml(value)}"]
    arguments += [f"--image={path}" for path in order.images_from_tree]
    env = {_CODEX_KEY: order.credential, "CODEX_HOME": f"{HOME_FROM_TREE}/.codex"}
    config = f"developer_instructions = {_toml(order.instructions)}\n" + _disabled_skills(order.prompt)
    last = [order.conversation, "-"] if order.conversation else ["-"]
    return Launch(ProcessSpec((*arguments, *last), env, {".codex/config.toml": config}), order.prompt)


def _disabled_skills(prompt: str) -> str:
    """Return TOML that disables each skill that a prompt could name: no setting of Codex disables all."""
    names = sorted({found[1] for found in _CODEX_SKILL.finditer(prompt)})
    paths = sorted({found[1].strip() for found in _CODEX_SKILL_FILE.finditer(prompt)})
    selectors = [f"name = {_toml(name)}" for name in names] + [f"path = {_toml(path)}" for path in paths]
    return "".join(f"[[skills.config]]\n{selector}\nenabled = false\n" for selector in selectors)


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} = {_toml(entry)}" for name, entry in value.items()) + "}"
    # JSON and TOML write strings, numbers, booleans and lists of strings alike, except that TOML has no
    # surrogates and escapes DEL.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _codex_events(line: Mapping[str, Any]) -> Iterator[Event]:
    if line.get("type") == "turn.failed":
        message = _text(_fields(line.get("error")).get("message"))
        yield Failed(message, _codex_status(message))
        return
    item = _fields(line.get("item"))
    name, ended = _text(item.get("id")), line.get("type") == "item.completed"
    match item.get("type"):
        case "agent_message" if ended:
            yield AgentMessage(_text(item.get("text")))
        case "error":
            yield Warned(_text(item.get("message")))
        case "command_execution":
            if not ended:
                yield ToolCall(name, "command", {"command": _text(item.get("command"))})
            else:
                failed = item.get("exit_code") != 0
                yield ToolResult(name, "command", _text(item.get("aggregated_output")), failed)
        case "file_change" if ended:
            paths = [_text(change.get("path")) for change in _list(item.get("changes"))]
            yield ToolCall(name, "edit", {"path": ", ".join(paths)})
        case "mcp_tool_call" if not ended:
            yield ToolCall(name, _text(item.get("tool")), _fields(item.get("arguments")))


def _codex_status(message: str) -> int:
    """Return the HTTP status that a failure stands for. Codex shows an answer with 400 as its body alone."""
    if message.lstrip().startswith("{"):
        return 400
    found = _CODEX_STATUS.search(message)
    # Without a status, Codex could not reach the model, or the stream broke.
    return int(found[1]) if found else 503


_GEMINI_PRELOAD_FILE = ".gemini/preload.cjs"
_GEMINI_PRELOAD = """\
// Gemini CLI works without a person only in a folder that it trusts. There it takes tools, hooks, the way
// to its model and variables from these files, and instructions from GEMINI.md in any folder. It has no
// setting that leaves them out.
const fs = require("node:fs");
const path = require("node:path");
const hidden = new Set([".gemini/settings.json", ".gemini/.env", ".env"].map((name) => path.resolve(name)));
const inside = path.resolve() + path.sep;
const hides = (name) => {
  const full = path.resolve(String(name));
  return hidden.has(full) || (path.basename(full) === "GEMINI.md" && full.startsWith(inside));
};
const existsSync = fs.existsSync;
fs.existsSync = (name) => !hides(name) && existsSync(name);
const access = fs.promises.access;
fs.promises.access = async (name, mode) => {
  if (hides(name)) throw Object.assign(new Error(`ENOENT: ${name}`), { code: "ENOENT" });
  return access(name, mode);
};
require("node:module").syncBuiltinESMExports();
delete process.env.NODE_OPTIONS; // its commands are not concerned
"""


def _start_gemini(order: RunnerInput) -> Launch:
    """Start Gemini CLI 0.61.0; documented in *Configuration*, *Trusted folders* and *Headless mode*.

    It retries for more than 45 s when a provider answers 429 or 5xx. It assumes a context of 1M tokens for
    every model. Its `model.compressionThreshold` shortens only what came before the last prompt, and an
    attempt has one prompt. It sends an image that the prompt names after an `@`, if the image's folder is one
    of its workspace.
    """
    settings = {
        "security": {"auth": {"selectedType": "gemini-api-key"}},
        "privacy": {"usageStatisticsEnabled": False},
        "telemetry": {"enabled": False},
        "general": {"enableAutoUpdate": False, "enableAutoUpdateNotification": False},
        "skills": {"enabled": False},
    }
    env = {
        "GOOGLE_GEMINI_BASE_URL": order.url,
        "GEMINI_API_KEY": order.credential,
        "GEMINI_CLI_TRUST_WORKSPACE": "true",
        "GEMINI_CLI_NO_RELAUNCH": "true",  # the second process would lack NODE_OPTIONS
        "NODE_OPTIONS": f"--require={HOME_FROM_TREE}/{_GEMINI_PRELOAD_FILE}",
    }
    arguments = ["gemini", "-m", order.model, "--yolo", "-o", "stream-json"]
    arguments += ["--resume", order.conversation] if order.conversation else []
    if order.images:
        arguments += ["--include-directories", f"{HOME_FROM_TREE}/{FOLDER}"]
    files = {".gemini/settings.json": json.dumps(settings), _GEMINI_PRELOAD_FILE: _GEMINI_PRELOAD}
    shown = " ".join(f"@{path}" for path in order.images_from_tree)
    # Gemini CLI has no option for further instructions; a file would replace its own system prompt.
    text = "\n\n".join(filter(None, (order.instructions, order.prompt, shown)))
    return Launch(ProcessSpec(tuple(arguments), env, files), text)


def _gemini_events(line: Mapping[str, Any]) -> Iterator[Event]:
    match line.get("type"):
        case "message" if line.get("role") == "assistant":
            yield AgentMessage(_text(line.get("content")), continues=line.get("delta") is True)
        case "tool_use":
            yield ToolCall(
                _text(line.get("tool_id")),
                _text(line.get("tool_name")),
                _fields(line.get("parameters")),
            )
        case "tool_result":
            failed = line.get("status") != "success"
            text = _text(_fields(line.get("error")).get("message")) if failed else ""
            yield ToolResult(_text(line.get("tool_id")), "", text or _text(line.get("output")), failed)
        case "result" if line.get("status") == "error":
            yield Failed(_text(_fields(line.get("error")).get("message")))


def _gemini_status(exit_code: int) -> int | None:
    """Return the HTTP status of an exit status, which is its lower eight bits: 402 becomes 146."""
    return exit_code + 256 if 400 - 256 <= exit_code <= 255 else None


_OPENCODE_PLUGIN = """\
// With a file that it reads, OpenCode gives the model the AGENTS.md of the folders above it. It has no
// setting for that.
export const WithoutInstructions = async () => ({
  "tool.execute.after": async (call, result) => {
    const [first] = result.metadata?.loaded ?? []
    if (call.tool !== "read" || !first) return
    const at = result.output.indexOf(`<system-reminder>\\nInstructions from: ${first}\\n`)
    if (at >= 0) result.output = result.output.slice(0, at).trimEnd()
  },
})
"""
_OPENCODE_FILES = {
    ".config/opencode/plugin/instructions.js": _OPENCODE_PLUGIN,
    # Without these files OpenCode installs a library for plugins from the npm registry, and waits for that.
    ".config/opencode/node_modules/.keep": "",
    ".config/opencode/package-lock.json": json.dumps(
        {"packages": {"": {"dependencies": {"@opencode-ai/plugin": "*"}}}}
    ),
}


def _start_opencode(order: RunnerInput) -> Launch:
    """Start OpenCode 1.18.33; documented in *CLI* and *Config*.

    It retries for more than 45 s when a provider answers 429 or 5xx. It does not limit its requests. Without
    `limit` it asks for 32,000 tokens of output, and never compacts. Unless the repository's configuration is
    left out, its agents and plugins can choose a model other than that of the environment.
    """
    model = f"gateway/{order.model}"
    facts: dict[str, Any] = {
        "name": order.model,
        "limit": {"context": order.context_length, "output": order.max_output},
    }
    if order.images:
        facts |= {"attachment": True, "modalities": {"input": ["text", "image"], "output": ["text"]}}
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
                "models": {order.model: facts},
            }
        },
    }
    env = {
        "OPENCODE_CONFIG_CONTENT": json.dumps(config),
        "OPENCODE_DISABLE_AUTOUPDATE": "1",
        "OPENCODE_DISABLE_MODELS_FETCH": "1",
        "OPENCODE_DISABLE_EXTERNAL_SKILLS": "1",
        "OPENCODE_DISABLE_PROJECT_CONFIG": "1",
    }
    images = (f"--file={path}" for path in order.images_from_tree)
    resumed = ("--session", order.conversation) if order.conversation else ()
    arguments = ("opencode", "run", "--format", "json", *resumed, *images)
    files = {_INSTRUCTIONS: order.instructions, **_OPENCODE_FILES}
    return Launch(ProcessSpec(arguments, env, files), order.prompt)


def _opencode_events(line: Mapping[str, Any]) -> Iterator[Event]:
    part = _fields(line.get("part"))
    match line.get("type"):
        case "text":
            yield AgentMessage(_text(part.get("text")))
        case "tool_use":
            # OpenCode writes this when the tool has ended.
            state, name, tool = _fields(part.get("state")), _text(part.get("callID")), part.get("tool")
            failed = state.get("status") == "error"
            yield ToolCall(name, _text(tool), _fields(state.get("input")))
            text = _text(state.get("error")) if failed else _text(state.get("output"))
            yield ToolResult(name, _text(tool), text, failed)
        case "error":
            error = _fields(line.get("error"))
            data = _fields(error.get("data"))
            status = data.get("statusCode")
            message = _text(data.get("message")) or _text(error.get("name"))
            yield Failed(message, status if isinstance(status, int) else None)


_CONVERSATIONS = ("session_id", "thread_id", "sessionID")
"""The fields in which Claude Code and Gemini, Codex, and OpenCode name their conversation."""


def conversation_of(line: Mapping[str, Any]) -> str:
    """Return the id of the conversation that a line names, by which it is continued; empty if it names none.

    Commands can write into the output too, so an id is never taken for an option.
    """
    named = next((line[field] for field in _CONVERSATIONS if line.get(field)), "")
    return named if isinstance(named, str) and re.fullmatch(r"[A-Za-z0-9][\w-]{7,99}", named) else ""


RUNNERS: Mapping[RunnerName, Runner] = {
    runner.name: runner
    for runner in (
        Runner(RunnerName.CLAUDE_CODE, _start_claude_code, _claude_code_events),
        Runner(RunnerName.CODEX, _start_codex, _codex_events),
        Runner(RunnerName.GEMINI, _start_gemini, _gemini_events, _gemini_status),
        Runner(RunnerName.OPENCODE, _start_opencode, _opencode_events),
    )
}


def command_runner(command: Sequence[str]) -> Runner:
    """Return a runner for any other program, by the command line of `consumer.command`.

    The program gets the prompt on its standard input, the gateway in the environment variables that most
    clients read, and the instructions and images in files. Its output is the log of its work, and the end of
    the output is the summary.
    """

    def launch(order: RunnerInput) -> Launch:
        openai = f"{order.url}/v1"
        env = {
            "ANTHROPIC_BASE_URL": order.url,
            "ANTHROPIC_AUTH_TOKEN": order.credential,
            "ANTHROPIC_API_KEY": order.credential,
            "OPENAI_BASE_URL": openai,
            "OPENAI_API_BASE": openai,
            "OPENAI_API_KEY": order.credential,
            "GOOGLE_GEMINI_BASE_URL": order.url,
            "GEMINI_API_KEY": order.credential,
            "CODING_AGENT_MODEL": order.model,
            "CODING_AGENT_INSTRUCTIONS_FILE": f"{HOME_FROM_TREE}/{_INSTRUCTIONS}",
        }
        return Launch(ProcessSpec(tuple(command), env, {_INSTRUCTIONS: order.instructions}), order.prompt)

    return Runner(RunnerName.COMMAND, launch, None)


def _text(value: Any) -> str:
    """Return a field that should be text; empty if it is not."""
    return value if isinstance(value, str) else ""


def _fields(value: Any) -> Mapping[str, Any]:
    """Return a field that should be an object; empty if it is not."""
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Mapping[str, Any]]:
    """Return the objects in a field that should be a list of objects."""
    return [entry for entry in value if isinstance(entry, Mapping)] if isinstance(value, list) else []

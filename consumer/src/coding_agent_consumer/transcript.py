"""The agent's messages as they leave this process: JSON lines and short lines for people, without secrets."""

from __future__ import annotations

import json
import logging
import os
import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from coding_agent_core.forge.issued_tokens import issued_tokens
from coding_agent_core.registry import Platform
from coding_agent_core.settings.model import Settings
from coding_agent_core.settings.section import Secrets, SecretSettings, written_forms
from coding_agent_core.text import one_line
from pydantic import TypeAdapter, ValidationError
from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
)

_logger = logging.getLogger("coding_agent.transcript")
_MESSAGE: TypeAdapter[ModelMessage] = TypeAdapter(ModelMessage)
_SAID_LENGTH = 300
_CALL_LENGTH = 160
_TITLE_LENGTH = 120
_MAIN_ARGUMENTS = ("command", "path", "pattern")
"""The arguments that describe a tool call best."""
_SECRET_NAME = re.compile(r"key|token|secret|passw|credential|auth(?!ors?\b)|bearer", re.IGNORECASE)
"""Names of options, variables and headers whose values are secrets."""
_URL = re.compile(r"[a-z][a-z0-9+.-]*://[^\s\"']+", re.IGNORECASE)
_SHORTEST = 8
"""The shortest secret that is replaced, in characters: a shorter one would be found in ordinary words."""


class Scrub:
    """Replaces secrets with `***`, and shows none of them in its repr.

    If a secret comes from a file, its current value and all earlier ones are replaced: a token may change
    while an attempt works, and texts of the attempt may still contain the old one. The same holds for tokens
    that were issued to this process.
    """

    def __init__(self, secrets: Iterable[str], files: Iterable[Secrets] = ()) -> None:
        self._files = tuple(files)
        self._seen: set[str] = set()
        self._forms: list[str] = []
        self._reading = False
        self._learn(secrets)
        self._read_files()

    def __call__(self, text: str) -> str:
        self._read_files()
        for form in self._forms:
            text = text.replace(form, "***")
        return text

    def also(self, other: Scrub) -> None:
        """Also replace the secrets of another `Scrub`."""
        known = [file.settings for file in self._files]
        self._files += tuple(file for file in other._files if file.settings not in known)
        self._learn(other._seen)

    def _read_files(self) -> None:
        if self._reading:
            return  # if a file cannot be read, this is logged, and the log line is scrubbed too
        self._reading = True
        try:
            for file in self._files:
                self._learn(file.current())
            self._learn(issued_tokens())
        finally:
            self._reading = False

    def _learn(self, values: Iterable[str]) -> None:
        new = {value for value in values if len(value) >= _SHORTEST} - self._seen
        if not new:
            return
        self._seen |= new
        forms = {form for value in new for form in written_forms(value) if len(form) >= _SHORTEST}
        self._forms = sorted({*self._forms, *forms}, key=len, reverse=True)

    def __repr__(self) -> str:
        return f"Scrub({len(self._forms)} forms)"


def scrub_for(settings: Settings) -> Scrub:
    """Return a `Scrub` for all secrets that this process could show: keys, tokens, MCP servers' values."""
    fields: tuple[SecretSettings, ...] = (
        settings.llm.openai.api_key,
        settings.llm.anthropic.api_key,
        settings.llm.google.api_key,
        *(fallback.api_key for fallback in settings.gateway.fallbacks),
        *(field for platform in Platform for field in settings.forge(platform).credentials),
        settings.rabbitmq.password,
        settings.user_config_api.api_key,
        *(settings.webhook.secret(platform) for platform in Platform),
    )
    if (s3 := settings.context_storage.s3) is not None:
        fields += (s3.access_key_id, s3.secret_access_key)
    values: list[str] = []
    for server in settings.mcp_servers:
        # A header may name a scheme first: `Bearer ...`.
        headers = [part for value in server.headers.values() for part in (value, value.partition(" ")[2])]
        url = server.url or ""
        values += [
            *server.env.values(),
            *_secrets_of(server.command),
            *headers,
            url,
            *(value for _, value in parse_qsl(urlsplit(url).query)),
        ]
    # The files are optional because all programs share the settings: a pod has only the files it needs.
    return Scrub(values, [Secrets(field, optional=True) for field in fields])


def _secrets_of(command: Sequence[str]) -> Iterator[str]:
    """Yield the secrets on a command line: values of options and variables whose names say that.

    Examples are `--api-key K`, `--api-key=K`, `-e API_TOKEN=K`, `--header "Authorization: Bearer K"`, and
    passwords in URLs. Other arguments, such as the program's name, stay readable in logs.
    """
    for before, argument in zip(("", *command), command, strict=False):
        name, equals, value = argument.partition("=")
        if equals and _SECRET_NAME.search(name):
            yield value
        elif _SECRET_NAME.search(before) and before.startswith("-") and "=" not in before:
            yield argument
        header, colon, content = argument.partition(":")
        if colon and _SECRET_NAME.search(header):
            yield from (content.strip(), content.strip().partition(" ")[2])
        for url in _URL.findall(argument):
            try:
                parts = urlsplit(url)
            except ValueError:
                continue
            yield from filter(None, (parts.password, *(value for _, value in parse_qsl(parts.query))))


class _Scrubbed(logging.Formatter):
    """Formats lines as another formatter does, but removes secrets, also from tracebacks."""

    def __init__(self, inner: logging.Formatter, scrub: Scrub) -> None:
        super().__init__()
        self._inner, self.scrub = inner, scrub

    def format(self, record: logging.LogRecord) -> str:
        return self.scrub(self._inner.format(record))


def scrub_logs(scrub: Scrub) -> None:
    """Remove secrets from every line that the root logger's handlers write from now on.

    If the agent is killed in its pod, the log's last lines go into the task's status, which many can read.
    The function may be called again for the secrets of further settings.
    """
    for handler in logging.getLogger().handlers:
        if isinstance(handler.formatter, _Scrubbed):
            handler.formatter.scrub.also(scrub)
        else:
            handler.setFormatter(_Scrubbed(handler.formatter or logging.Formatter(), scrub))


class LastLines:
    """Keeps the newest lines of a growing text, at most `limit` characters with their line ends."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lines: deque[str] = deque()
        self._length = 0
        self._left_out = False

    def add(self, lines: Iterable[str]) -> None:
        for line in lines:
            self._lines.append(line)
            self._length += len(line) + 1
            while self._length > self._limit:
                self._length -= len(self._lines.popleft()) + 1
                self._left_out = True

    def text(self) -> str:
        return "\n".join(["(earlier steps left out)"] * self._left_out + [*self._lines])


class Transcript:
    """Appends messages to a file that only its owner can read, each with one write.

    If the file cannot be written, this is logged once and nothing more is written: the work matters more than
    its record.
    """

    def __init__(self, path: Path | None, scrub: Scrub, last_lines: LastLines | None = None) -> None:
        self._path = path
        self._scrub = scrub
        self._last_lines = last_lines

    def append(self, message: ModelMessage) -> None:
        line = self._scrub(_MESSAGE.dump_json(message).decode()) + "\n"
        if self._last_lines is not None:
            # The scrubbed line is parsed again: if lines were cut first, half a secret would not be found.
            self._last_lines.add(digest(_MESSAGE.validate_json(line)))
        if self._path is None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.write(file, line.encode())
            finally:
                os.close(file)
        except OSError as error:
            _logger.warning("Cannot write the transcript %s: %s", self._path, error.strerror)
            self._path = None


def read(path: Path) -> list[ModelMessage]:
    """Return the messages of a transcript that can be read, e.g. without a last line that a crash cut off.

    The list is empty if the file is missing or unreadable.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return []
    messages = []
    for number, line in enumerate(lines, 1):
        try:
            messages.append(_MESSAGE.validate_json(line))
        except ValidationError:
            _logger.info("Transcript %s: line %d of %d cannot be read", path, number, len(lines))
    return messages


def recap(path: Path, limit: int = 4000) -> str:
    """Return in short lines what an earlier attempt said and did: the newest `limit` characters."""
    lines = LastLines(limit)
    for message in read(path):
        lines.add(digest(message))
    return lines.text()


def digest(message: ModelMessage) -> list[str]:
    """Return a message as short lines: what the model said, its calls, and their results."""
    lines = []
    for part in message.parts:
        if isinstance(part, TextPart) and part.content.strip():
            lines.append(f"- said: {one_line(part.content, _SAID_LENGTH)}")
        elif isinstance(part, ToolCallPart):
            lines.append(f"- called {part.tool_name} {one_line(part.args_as_json_str(), _CALL_LENGTH)}")
        elif isinstance(part, ToolReturnPart) and not isinstance(message, ModelResponse):
            text = " ".join(part.model_response_str(wrap_if_error=False).split())
            if len(text) > _CALL_LENGTH:  # keep both ends: the end of a command's output says how it went
                text = f"{text[: _CALL_LENGTH // 2]} … {text[-_CALL_LENGTH // 2 :]}"
            lines.append(f"  {'gave' if part.outcome == 'success' else 'failed'}: {text}")
    return lines


def step_of_answer(response: ModelResponse, scrub: Scrub) -> str:
    """Return the step's title: what the model said, otherwise what it calls."""
    said = " ".join(part.content for part in response.parts if isinstance(part, TextPart)).strip()
    calls = [_call_title(part) for part in response.parts if isinstance(part, ToolCallPart)]
    return one_line(scrub(said or ", ".join(calls) or "an empty answer"), _TITLE_LENGTH)


def steps_of_results(
    response: ModelResponse, request: ModelRequest, scrub: Scrub, *, without: str
) -> Iterator[str]:
    """Yield a title for each result of an answer's calls, except for calls of the tool `without`."""
    calls = {part.tool_call_id: part for part in response.parts if isinstance(part, ToolCallPart)}
    for part in request.parts:
        if isinstance(part, ToolReturnPart) and part.tool_name != without:
            call = calls.get(part.tool_call_id)
            title = _call_title(call) if call else part.tool_name
            if part.outcome != "success":
                title += " (failed)"
            yield one_line(scrub(title), _TITLE_LENGTH)


def _call_title(call: ToolCallPart) -> str:
    """Return a call's title, for example `run_command: python3 -m unittest`."""
    try:
        arguments = json.loads(call.args_as_json_str())
    except ValueError:
        arguments = None
    if isinstance(arguments, dict):
        for name in _MAIN_ARGUMENTS:
            if isinstance(arguments.get(name), str):
                return f"{call.tool_name}: {arguments[name]}"
    return call.tool_name

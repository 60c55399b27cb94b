"""The agent's messages as they leave this process: JSON lines and short lines for people, without secrets.

A line has the fields of Pydantic AI's `ModelMessage`. This module does without that library: its import takes
a third of an attempt's CPU time, and agents that are programs of their own do not need it.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import shlex
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

from coding_agent_core.platforms.text import one_line
from coding_agent_core.settings.model import Settings
from coding_agent_core.settings.section import Secrets, secrets_in, secrets_in_variables
from coding_agent_forges.rest.client import issued_tokens

_logger = logging.getLogger("coding_agent.transcript")
_URL_SAFE = str.maketrans("+/", "-_")
_SAID_LENGTH = 300
_CALL_LENGTH = 160
_TITLE_LENGTH = 120
_MAIN_ARGUMENTS = ("command", "path", "pattern")
"""The arguments that describe a tool call best."""
_FILES = frozenset({"audio-url", "binary", "document-url", "image-url", "uploaded-file", "video-url"})
"""The kinds of a tool's results that are files and not text."""
_SHORTEST = 8
"""The shortest secret that is replaced, in characters: a shorter one would be found in ordinary words."""

Fields = Mapping[str, Any]
"""A message or a part of it, as in the transcript's JSON."""


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
        """Add the secrets of another `Scrub` to those that are replaced."""
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


def scrub_for(settings: Settings, environment: Mapping[str, str]) -> Scrub:
    """Return a `Scrub` for all secrets that this process could show: those of the settings, whatever section
    they are in, and those of its environment.

    Args:
        environment: the variables of this process, and those that only the workspace's commands have.
    """
    # The files are optional because all programs share the settings: a pod has only the files it needs.
    known = [Secrets(secret, optional=True) for secret in secrets_in(settings) if secret.configured]
    return Scrub(secrets_in_variables(environment), known)


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

    def append(self, message: Fields) -> None:
        line = self._scrub(_compact(message)) + "\n"
        if self._last_lines is not None:
            # The scrubbed line is parsed again: if lines were cut first, half a secret would not be found.
            self._last_lines.add(digest(json.loads(line)))
        if self._path is None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.write(file, line.encode("utf-8", "replace"))
            finally:
                os.close(file)
        except OSError as error:
            _logger.warning("Cannot write the transcript %s: %s", self._path, error.strerror)
            self._path = None


def prompt_message(text: str) -> Fields:
    return _request({"part_kind": "user-prompt", "content": text, "timestamp": _now()})


def answer_message(part: Fields) -> Fields:
    return {"kind": "response", "parts": [part], "timestamp": _now()}


def result_message(call: Fields, text: str, *, failed: bool) -> Fields:
    """Return the message with the result of a `tool_call`."""
    names = {name: call[name] for name in ("tool_name", "tool_call_id")}
    outcome = "failed" if failed else "success"
    return _request(
        {"part_kind": "tool-return", **names, "content": text, "timestamp": _now(), "outcome": outcome}
    )


def text_part(text: str) -> Fields:
    return {"part_kind": "text", "content": text}


def tool_call(id: str, tool: str, arguments: Fields) -> Fields:
    return {"part_kind": "tool-call", "tool_name": tool, "args": dict(arguments), "tool_call_id": id}


def _request(part: Fields) -> Fields:
    return {"kind": "request", "parts": [part]}


def _now() -> str:
    return datetime.now(UTC).isoformat()


def read(path: Path) -> list[Fields]:
    """Return the messages of a transcript that can be read, e.g. without a last line that a crash cut off.

    The list is empty if the file is missing or unreadable.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return []
    messages = []
    for number, line in enumerate(lines, 1):
        message = _message_of(line)
        if message is None:
            _logger.info("Transcript %s: line %d of %d cannot be read", path, number, len(lines))
        else:
            messages.append(message)
    return messages


def _message_of(line: bytes) -> Fields | None:
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(message, dict) or message.get("kind") not in ("request", "response"):
        return None
    parts = message.get("parts")
    return message if isinstance(parts, list) and all(isinstance(part, dict) for part in parts) else None


def recap(path: Path, limit: int = 4000) -> str:
    """Return in short lines what an earlier attempt said and did: the newest `limit` characters."""
    lines = LastLines(limit)
    for message in read(path):
        lines.add(digest(message))
    return lines.text()


def digest(message: Fields) -> list[str]:
    """Return a message as short lines: what the model said, its calls, and their results."""
    lines = []
    for part in message["parts"]:
        kind = part.get("part_kind")
        if kind == "text" and (said := str(part.get("content", ""))).strip():
            lines.append(f"- said: {one_line(said, _SAID_LENGTH)}")
        elif kind == "tool-call":
            arguments = one_line(_compact(_arguments(part)), _CALL_LENGTH)
            lines.append(f"- called {part.get('tool_name')} {arguments}")
        elif kind == "tool-return" and message["kind"] == "request":
            text = " ".join(_result(part.get("content")).split())
            if len(text) > _CALL_LENGTH:  # keep both ends: the end of a command's output says how it went
                text = f"{text[: _CALL_LENGTH // 2]} … {text[-_CALL_LENGTH // 2 :]}"
            lines.append(f"  {'gave' if _succeeded(part) else 'failed'}: {text}")
    return lines


def step_of_answer(response: Fields, scrub: Scrub) -> str:
    """Return the step's title: the model's text, or without one the names of its calls."""
    said = " ".join(part["content"] for part in _parts(response, "text")).strip()
    calls = [_call_title(part) for part in _parts(response, "tool-call")]
    return one_line(scrub(said or ", ".join(calls) or "an empty answer"), _TITLE_LENGTH)


def steps_of_results(response: Fields, request: Fields, scrub: Scrub, *, without: str) -> Iterator[str]:
    """Yield one line for each result of a tool; the line of a failed one ends with `(failed)`.

    Args:
        response: the model's message with the calls.
        request: our message with their results.
        scrub: removes secrets from a text.
        without: the tool whose results are left out; empty for none.
    """
    calls = {part["tool_call_id"]: part for part in _parts(response, "tool-call")}
    for part in _parts(request, "tool-return"):
        if part["tool_name"] != without:
            call = calls.get(part["tool_call_id"])
            title = _call_title(call) if call else part["tool_name"]
            if not _succeeded(part):
                title += " (failed)"
            yield one_line(scrub(title), _TITLE_LENGTH)


def _parts(message: Fields, kind: str) -> list[Fields]:
    return [part for part in message["parts"] if part["part_kind"] == kind]


def _succeeded(result: Fields) -> bool:
    return bool(result.get("outcome", "success") == "success")


def _call_title(call: Fields) -> str:
    """Return a call's title, for example `run_command: python3 -m unittest`."""
    arguments = _arguments(call)
    for name in _MAIN_ARGUMENTS:
        if isinstance(arguments.get(name), str):
            return f"{call['tool_name']}: {arguments[name]}"
    return str(call["tool_name"])


def _arguments(call: Fields) -> Fields:
    """Return a call's arguments, which a model may also give as text, and as text that is not an object."""
    given = call.get("args") or {}
    if isinstance(given, str):
        try:
            parsed = json.loads(given)
        except (ValueError, RecursionError):
            parsed = None
        given = parsed if isinstance(parsed, dict) else {"INVALID_JSON": given}
    return given if isinstance(given, dict) else {}


def _result(content: object) -> str:
    """Return the text of a tool's result, without the files in it."""
    items = content if isinstance(content, list) else [content]
    texts = [item for item in items if not (isinstance(item, dict) and item.get("kind") in _FILES)]
    if len(texts) > 1 or (isinstance(content, list) and len(texts) == len(items) == 1):
        return _compact(texts)
    text = texts[0] if texts else None
    return text if isinstance(text, str) else "" if text is None else _compact(text)


def _compact(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def written_forms(value: str) -> set[str]:
    """Return the forms that a secret may have in a text: plain, quoted for JSON, a shell or a URL, or base64.

    In base64, the characters of a secret depend on the text around it, e.g. in `user:secret`. So there is one
    form for each of the three positions, without the characters at both ends that also depend on that text.
    """
    in_json = json.dumps(value)[1:-1]
    forms = {value, in_json, json.dumps(value, ensure_ascii=False)[1:-1], json.dumps(in_json)[1:-1]}
    forms |= {shlex.quote(value)[1:-1] if shlex.quote(value) != value else value}
    forms |= {quote(value, safe=""), quote(value), quote_plus(value)}
    for before in range(3):
        encoded = base64.b64encode(b"\0" * before + value.encode()).decode()
        first, end = (before * 8 + 5) // 6, (before + len(value.encode())) * 8 // 6
        forms |= {encoded[first:end], encoded[first:end].translate(_URL_SAFE)}
    return forms

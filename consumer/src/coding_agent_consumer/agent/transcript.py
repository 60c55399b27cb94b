"""What an attempt said and did as JSON lines, and what the next attempt is told of it."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart, ToolReturnPart

from coding_agent_consumer.agent.last_lines import LastLines
from coding_agent_consumer.agent.scrub import Scrub

_logger = logging.getLogger("coding_agent.transcript")
_MESSAGE: TypeAdapter[ModelMessage] = TypeAdapter(ModelMessage)
_SAID_LENGTH = 300
_CALL_LENGTH = 160


class Transcript:
    """Appends messages to a file that its owner alone can read, each with one write.

    A file that cannot be written is logged once and given up: the work matters more than its record.
    """

    def __init__(self, path: Path | None, scrub: Scrub, last_lines: LastLines | None = None) -> None:
        self._path = path
        self._scrub = scrub
        self._last_lines = last_lines

    def append(self, message: ModelMessage) -> None:
        """Write one message, without the secrets that we know."""
        line = self._scrub(_MESSAGE.dump_json(message).decode()) + "\n"
        if self._last_lines is not None:
            # Read back: in lines that were shortened first, a secret's beginning would not be known.
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
    """All messages of a transcript that can be read; a last line that was cut off by a crash is left out.

    Empty where the file is missing or unreadable.
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
    """What an earlier attempt said and did, a line each, the newest `limit` characters of it."""
    lines = LastLines(limit)
    for message in read(path):
        lines.add(digest(message))
    return lines.text()


def digest(message: ModelMessage) -> list[str]:
    """A message in short lines: the model's words, its calls, and calls that failed."""
    lines = []
    for part in message.parts:
        if isinstance(part, TextPart) and part.content.strip():
            lines.append(f"- said: {_short(part.content, _SAID_LENGTH)}")
        elif isinstance(part, ToolCallPart):
            lines.append(f"- called {part.tool_name} {_short(part.args_as_json_str(), _CALL_LENGTH)}")
        elif isinstance(part, ToolReturnPart) and not isinstance(message, ModelResponse):
            text = part.model_response_str(wrap_if_error=False)
            word = "gave" if part.outcome == "success" else "failed"
            lines.append(f"  {word}: {_ends(text, _CALL_LENGTH)}")
    return lines


def _short(text: str, length: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= length else f"{line[:length]}…"


def _ends(text: str, length: int) -> str:
    """Both ends of a text: the end of a command's output says how it went."""
    line = " ".join(text.split())
    return line if len(line) <= length else f"{line[: length // 2]} … {line[-length // 2 :]}"

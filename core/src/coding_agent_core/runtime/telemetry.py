"""The logs of all programs.

Logs are text lines, or JSON lines for clusters. `bound` adds fields of a request or a task to all lines that
are logged in its block. Control characters in messages are escaped so that foreign data cannot start a new
line.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TextIO

from coding_agent_core.errors import SettingsError
from coding_agent_core.platforms.text import escaped, safe
from coding_agent_core.settings.reading import Logging

_CONTEXT: ContextVar[tuple[tuple[str, str], ...]] = ContextVar("coding_agent_log_context", default=())
_CHATTY = (
    "httpx",
    "httpx2",
    "httpcore",
    "httpcore2",
    "mcp",
    "openai",
    "asyncio",
)
"""Libraries that log, at INFO, every request or reconnection, or events that we log ourselves."""
_SILENT = ("pika",)
"""Libraries that log each failure several times, with tracebacks, and raise it. We log it as one line."""


@contextmanager
def bound(**fields: str | None) -> Iterator[None]:
    """Add fields, e.g. `delivery` or `task`, to every line logged in the block; `None` adds nothing.

    Values are cut to 200 characters and escaped.
    """
    added = tuple((name, safe(value)) for name, value in fields.items() if value is not None)
    known = tuple(pair for pair in _CONTEXT.get() if pair[0] not in fields)
    token = _CONTEXT.set(known + added)
    try:
        yield
    finally:
        _CONTEXT.reset(token)


class TextFormatter(logging.Formatter):
    """The text format: `2024-01-15 10:30:45 INFO [webhook.server] message delivery=…`, in local time."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s [%(name)s] %(message)s", datefmt="%Y-%m-%d %H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the standard library's name
        record.message = escaped(record.message)
        context = "".join(f" {name}={value}" for name, value in _CONTEXT.get())
        return super().formatMessage(record) + context


class JsonFormatter(logging.Formatter):
    """The JSON format: `time` (UTC), `level`, `logger`, `message`, the context, `exception`."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, str] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": escaped(record.getMessage()),
            **dict(_CONTEXT.get()),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry)


_handlers: list[logging.Handler] = []
"""The handlers that `configure` created. Its next call replaces only these."""


def configure(settings: Logging, *, stream: TextIO | None = None) -> None:
    """Set up the root logger. A second call replaces the handlers of the first.

    Args:
        stream: receives the lines in addition to `logging.file`; standard error by default.

    Raises:
        SettingsError: `logging.file` cannot be opened.
    """
    # No line contains these facts, and finding them takes a third of the time for a line
    # (https://docs.python.org/3/howto/logging.html#optimization).
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handlers: list[logging.Handler] = [logging.StreamHandler(stream or sys.stderr)]
    if settings.file is not None:
        try:
            settings.file.parent.mkdir(parents=True, exist_ok=True)
            handlers.append(logging.FileHandler(settings.file, encoding="utf-8"))
        except OSError as error:
            raise SettingsError(
                f"logging.file: cannot write to {settings.file}: {error.strerror or error}"
            ) from error
    root = logging.getLogger()
    for old in _handlers:
        root.removeHandler(old)
        old.close()
    _handlers[:] = handlers
    for handler in handlers:
        handler.setFormatter(JsonFormatter() if settings.format == "json" else TextFormatter())
        root.addHandler(handler)
    root.setLevel(settings.level)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in _SILENT:
        logging.getLogger(name).setLevel(logging.CRITICAL)

"""Logs and metrics of all programs.

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

from prometheus_client import (
    CollectorRegistry,
    Counter,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    start_http_server,
)

from coding_agent_core.errors import SettingsError
from coding_agent_core.settings.model import Logging
from coding_agent_core.usage import OTHER_MODELS, Usage

# The `_created` metrics double the number of series, and no query uses them.
disable_created_metrics()  # type: ignore[no-untyped-call]

_logger = logging.getLogger("coding_agent.metrics")
_CONTEXT: ContextVar[tuple[tuple[str, str], ...]] = ContextVar("coding_agent_log_context", default=())
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), *range(0x7F, 0xA0))} | {
    ord("\n"): "\\n",
    ord("\r"): "\\r",
    ord("\t"): "\\t",
    0x2028: "\\u2028",
    0x2029: "\\u2029",
}
_VALUE_LENGTH = 200
_CHATTY = (
    "httpx",
    "httpx2",
    "httpcore",
    "httpcore2",
    "pika",
    "mcp",
    "openai",
    "asyncio",
)
"""Libraries that log, at INFO, every request or reconnection, or events that we log ourselves."""
_MAX_MODELS = 50
"""Maximum number of models that have their own series."""


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


def safe(value: str, limit: int = _VALUE_LENGTH) -> str:
    """Make foreign text safe for logs and answers: escape control characters and surrogates, and cut it.

    Returns:
        at most `limit` characters; an escape has several.
    """
    escaped = _one_line(value[: limit + 1])
    return escaped if len(escaped) <= limit else escaped[: limit - 1] + "…"


class TextFormatter(logging.Formatter):
    """Formats lines like `2024-01-15 10:30:45 INFO [webhook.server] message delivery=…`, in local time."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s [%(name)s] %(message)s", datefmt="%Y-%m-%d %H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the standard library's name
        record.message = _one_line(record.message)
        context = "".join(f" {name}={value}" for name, value in _CONTEXT.get())
        return super().formatMessage(record) + context


class JsonFormatter(logging.Formatter):
    """Formats each line as JSON: `time` (UTC), `level`, `logger`, `message`, the context, `exception`."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, str] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": _one_line(record.getMessage()),
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


def _one_line(message: str) -> str:
    if message.isprintable():  # true for nearly all messages, and then there is nothing to escape
        return message
    return message.encode("utf-8", "backslashreplace").decode("utf-8").translate(_CONTROL)


class UsageMetrics:
    """Counts the usage of attempts by repository and model."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "coding_agent_model_requests",
            "Requests to the model by attempts that ended",
            ["repository", "model"],
            registry=registry,
        )
        self._tokens = Counter(
            "coding_agent_model_tokens",
            "Tokens of attempts that ended, by direction (input, output)",
            ["repository", "model", "direction"],
            registry=registry,
        )
        self._cost = Counter(
            "coding_agent_model_cost",
            "Cost of attempts that ended, by currency, if the price of the model is known",
            ["repository", "model", "currency"],
            registry=registry,
        )
        self._models: set[str] = set()

    def count(self, repository: str, usage: Usage | None) -> None:
        """Count the usage of one attempt. Call this once for each attempt."""
        for used in usage.by_model if usage is not None else ():
            labels = (repository.lower(), self._label(used.model))
            self._requests.labels(*labels).inc(used.requests)
            self._tokens.labels(*labels, "input").inc(used.input_tokens)
            self._tokens.labels(*labels, "output").inc(used.output_tokens)
            if used.cost is not None:
                self._cost.labels(*labels, used.cost.currency).inc(float(used.cost.amount))

    def _label(self, model: str) -> str:
        """Limit the number of series: an agent chooses the names, as far as its provider answers."""
        if model not in self._models and len(self._models) >= _MAX_MODELS:
            return OTHER_MODELS
        self._models.add(model)
        return model


def process_registry() -> CollectorRegistry:
    """Return a registry with the metrics of Python and of the process."""
    registry = CollectorRegistry()
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    return registry


@contextmanager
def served(host: str, port: int, registry: CollectorRegistry) -> Iterator[None]:
    """Serve the metrics during the `with` block; if the address is not available, only log this."""
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        _logger.warning("Metrics are not served at %s, port %d: %s", host, port, error.strerror or error)
        yield
        return
    _logger.info("Metrics are at %s, port %d", host, server.server_port)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

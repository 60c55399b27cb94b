"""S12: the form of log lines."""

import importlib
import io
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from coding_agent_core.errors import SettingsError
from coding_agent_core.platforms.text import safe
from coding_agent_core.runtime.telemetry import JsonFormatter, TextFormatter, bound, configure
from coding_agent_core.settings.reading import Logging


@pytest.fixture
def logged(own_logging: Any) -> Any:
    """Configures the root logger for one test; gives what was written."""
    stream = io.StringIO()

    def start(**settings: Any) -> Any:
        configure(Logging.model_validate(settings), stream=stream)
        return stream

    return start


def test_pikas_own_lines_are_not_logged_whenever_it_is_imported(logged: Any) -> None:
    """It logs each failure several times and raises it; what we log of it is one line."""
    logging.getLogger("pika").setLevel(logging.NOTSET)
    stream = logged(level="DEBUG")
    logging.getLogger("pika.adapters.utils.io_services_utils").error("Socket failed to connect")
    importlib.import_module("coding_agent_core.queues.rabbitmq.connection")
    logging.getLogger("pika.channel").warning("Received remote Channel.Close (404)")
    assert stream.getvalue() == ""


def test_the_delivery_stands_on_every_line_of_its_request_only(logged: Any) -> None:
    stream = logged()
    logger = logging.getLogger("webhook.server")
    with bound(delivery="72d3162e", task=None):
        logger.info("first")
        with bound(task="octo-repo-issue-7"):
            logger.info("second")
    logger.info("third")
    first, second, third = stream.getvalue().splitlines()
    assert first.endswith("first delivery=72d3162e")
    assert second.endswith("second delivery=72d3162e task=octo-repo-issue-7")
    assert third.endswith("third")


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize("end", ["\r\n", "\x85", "\u2028", "\x1b[2J"])
def test_foreign_text_cannot_begin_a_line_of_its_own(logged: Any, form: str, end: str) -> None:
    stream = logged(format=form)
    forged = f"x{end}2024-01-15 10:30:45 INFO [webhook.server] forged"
    with bound(delivery=forged):
        logging.getLogger("webhook.server").info("event=%s", forged)
    written = stream.getvalue()
    assert len(written.splitlines()) == 1
    assert "\x1b" not in written


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_what_is_not_unicode_text_is_escaped(formatter: Any) -> None:
    record = logging.LogRecord("x", logging.INFO, "x.py", 1, "event=%s", ("\ud800",), None)
    assert "ud800" in formatter.format(record).encode("utf-8").decode("ascii")


def test_escapes_count_for_the_length_of_foreign_text() -> None:
    """The id of a delivery must fit its field, or the delivery would be answered 503 for good."""
    assert safe("a\x00" * 100, 20) == "a\\x00a\\x00a\\x00a\\x0…"
    assert safe("a\n", 5) == "a\\n"


def test_json_lines_for_clusters(logged: Any) -> None:
    stream = logged(format="json")
    with bound(delivery="72d3162e"):
        try:
            raise ValueError("why")
        except ValueError:
            logging.getLogger("webhook.server").exception("What\nhappened")
    (line,) = stream.getvalue().splitlines()
    entry = json.loads(line)
    assert entry["level"] == "ERROR"
    assert entry["logger"] == "webhook.server"
    assert entry["message"] == "What\\nhappened"
    assert entry["delivery"] == "72d3162e"
    assert "ValueError: why" in entry["exception"]
    assert entry["time"].endswith("+00:00")


def test_a_file_that_cannot_be_written_is_a_settings_error(logged: Any, tmp_path: Path) -> None:
    (tmp_path / "occupied").write_text("")
    with pytest.raises(SettingsError, match=r"logging\.file"):
        logged(file=str(tmp_path / "occupied" / "agent.log"))

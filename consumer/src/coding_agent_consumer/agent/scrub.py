"""Removes the secrets that this process knows from texts that leave it."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable

from coding_agent_core.secrets import Secrets, SecretSettings
from coding_agent_core.settings import Settings

_SHORTEST = 8
"""Characters; a shorter value would be found in ordinary words."""
_SECRET_NAME = re.compile(r"token|key|secret|passw|auth|credential|cookie", re.IGNORECASE)


class Scrub:
    """Replaces secrets by `***`; shows none of them in its repr.

    For secrets in files: the present value and all earlier ones. A token may be replaced while an attempt
    works, and the old one is still in what the attempt wrote.
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

    def _read_files(self) -> None:
        if self._reading:
            return  # a file that cannot be read is logged, and that line is scrubbed too
        self._reading = True
        try:
            for each in self._files:
                self._learn(each.current())
        finally:
            self._reading = False

    def _learn(self, values: Iterable[str]) -> None:
        new = {value for value in values if len(value) >= _SHORTEST} - self._seen
        if not new:
            return
        self._seen |= new
        forms = {form for value in self._seen for form in (value, json.dumps(value)[1:-1])}
        self._forms = sorted(forms, key=len, reverse=True)

    def __repr__(self) -> str:
        return f"Scrub({len(self._forms)} forms)"


def scrub_for(settings: Settings) -> Scrub:
    """All secrets that this process could show: keys, tokens, and what MCP servers get under such names."""
    fields: tuple[SecretSettings, ...] = (
        settings.llm.openai.api_key,
        settings.github.personal_access_token,
        settings.gitlab.personal_access_token,
        settings.rabbitmq.password,
        settings.user_config_api.api_key,
        settings.webhook.github.secret,
        settings.webhook.gitlab.token,
    )
    if (s3 := settings.context_storage.s3) is not None:
        fields += (s3.access_key_id, s3.secret_access_key)
    values: list[str] = []
    for server in settings.mcp_servers:
        for name, value in (*server.env.items(), *server.headers.items()):
            if _SECRET_NAME.search(name):
                values += [value, value.removeprefix("Bearer ")]
    return Scrub(values, [Secrets(each) for each in fields])


class _Scrubbed(logging.Formatter):
    """Another formatter's lines without secrets, including tracebacks."""

    def __init__(self, inner: logging.Formatter, scrub: Scrub) -> None:
        super().__init__()
        self._inner, self._scrub = inner, scrub

    def format(self, record: logging.LogRecord) -> str:
        return self._scrub(self._inner.format(record))


def scrub_logs(scrub: Scrub) -> None:
    """Remove secrets from every line that the root logger's handlers write from now on.

    If the agent is killed in its pod, the log's last lines go into the task's status, which many can read.
    """
    for handler in logging.getLogger().handlers:
        handler.setFormatter(_Scrubbed(handler.formatter or logging.Formatter(), scrub))

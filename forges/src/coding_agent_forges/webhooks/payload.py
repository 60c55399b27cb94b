"""The fields of a webhook's payload. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from coding_agent_core.errors import CodingAgentError

_LARGEST = 2**53
"""Larger integers are not item or project numbers, and lose digits in other JSON readers."""
_URL = re.compile(r"https?://\S+")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


class FieldError(CodingAgentError):
    """A field of a relevant event is missing or has the wrong type. The receiver answers 422.

    Attributes:
        field: the path of the field, e.g. `issue.number`.
    """

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field


class Fields:
    """A JSON object of the payload that knows its own path."""

    def __init__(self, data: Mapping[str, Any], path: str = "") -> None:
        self._data = data
        self._path = path

    def has(self, name: str) -> bool:
        """Whether the field is present and not null."""
        return self._data.get(name) is not None

    def object(self, name: str) -> Fields:
        value = self._present(name)
        if not isinstance(value, Mapping):
            raise FieldError(self._at(name), "must be an object")
        return Fields(value, self._at(name))

    def objects(self, name: str) -> list[Fields]:
        """Return the objects of a list; none if it is missing or null."""
        value = self._data.get(name)
        if value is None:
            return []
        if not isinstance(value, list):
            raise FieldError(self._at(name), "must be a list")
        found = []
        for index, entry in enumerate(value):
            path = f"{self._at(name)}[{index}]"
            if not isinstance(entry, Mapping):
                raise FieldError(path, "must be an object")
            found.append(Fields(entry, path))
        return found

    def text(self, name: str) -> str:
        value = self._present(name)
        if not isinstance(value, str):
            raise FieldError(self._at(name), "must be a string")
        return value

    def matching(self, name: str, pattern: re.Pattern[str], what: str) -> str:
        value = self.text(name)
        if not pattern.fullmatch(value):
            raise FieldError(self._at(name), f"is not a {what}")
        return value

    def url(self, name: str) -> str:
        """Return an http(s) URL of at most 2,048 characters, without white space as AgentTasks require it."""
        value = self.text(name)
        if not _URL.fullmatch(value) or len(value) > 2048 or value != display_text(value):
            raise FieldError(self._at(name), "is not an http(s) URL")
        return value

    def optional_text(self, name: str) -> str:
        """Return a string; empty if it is missing or null."""
        return self.text(name) if self.has(name) else ""

    def flag(self, name: str) -> bool:
        """Return a boolean; false if it is missing or null."""
        value = self._data.get(name)
        if value is None:
            return False
        if not isinstance(value, bool):
            raise FieldError(self._at(name), "must be true or false")
        return value

    def number(self, name: str) -> int:
        value = self._present(name)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < _LARGEST:
            raise FieldError(self._at(name), "must be a positive integer")
        return value

    def integer(self, name: str) -> int | None:
        """Return an integer of any sign; `None` if it is missing or null."""
        value = self._data.get(name)
        if isinstance(value, bool) or not isinstance(value, int | None):
            raise FieldError(self._at(name), "must be an integer")
        return value

    def _present(self, name: str) -> Any:
        if name not in self._data:
            raise FieldError(self._at(name), "is missing")
        value = self._data[name]
        if value is None:
            raise FieldError(self._at(name), "must not be null")
        return value

    def _at(self, name: str) -> str:
        return f"{self._path}.{name}" if self._path else name


def display_text(text: str) -> str:
    """Return text to show to people, without control characters and lone surrogates."""
    return _UNPRINTABLE.sub(" ", text.encode("utf-8", "replace").decode("utf-8"))

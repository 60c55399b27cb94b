"""Makes foreign text safe to show: short, and without control characters. Pure.

`markdown` also makes it inert in comments, titles and commit messages.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

_OTHER_SPACES = re.compile(r"[\t\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), *range(0x7F, 0xA0))} | {
    ord("\n"): "\\n",
    ord("\r"): "\\r",
    ord("\t"): "\\t",
    0x2028: "\\u2028",
    0x2029: "\\u2029",
}
_SAFE_LENGTH = 200

_TEXT, _NUMBER, _WHOLE = "must be text", "must be a number", "must be a whole number"
_LIST, _MAPPING, _BOOLEAN = "must be a list", "must be a mapping", "must be true or false"
_PROBLEMS = {
    "missing": "is missing",
    "extra_forbidden": "is not a known key",
    "string_type": _TEXT,
    "string_sub_type": _TEXT,
    "string_too_long": "has more than {max_length} characters",
    "string_too_short": "needs at least {min_length} characters",
    "string_pattern_mismatch": "does not match {pattern}",
    "too_long": "has more than {max_length} entries",
    "too_short": "needs at least {min_length} entries",
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float", "int_parsing_size"), _WHOLE),
    **dict.fromkeys(("float_type", "float_parsing", "decimal_type", "decimal_parsing"), _NUMBER),
    "finite_number": "must be a finite number",
    "decimal_max_places": "has more than {decimal_places} decimal places",
    "decimal_max_digits": "has more than {max_digits} digits",
    "decimal_whole_digits": "has more than {whole_digits} digits before the decimal point",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be one of {expected}",
    "enum": "must be one of {expected}",
    **dict.fromkeys(("bool_type", "bool_parsing"), _BOOLEAN),
    **dict.fromkeys(("list_type", "tuple_type", "set_type", "frozen_set_type"), _LIST),
    **dict.fromkeys(("dict_type", "mapping_type", "model_type", "model_attributes_type"), _MAPPING),
    **dict.fromkeys(("path_type", "path_parsing"), "must be a path"),
    **dict.fromkeys(
        ("datetime_type", "datetime_parsing", "datetime_from_date_parsing", "timezone_aware"),
        "must be a time such as 2026-01-31T12:00:00Z",
    ),
    **dict.fromkeys(("date_type", "date_parsing", "date_from_datetime_parsing"), "must be a date"),
    "json_invalid": "is not valid JSON",
    "json_type": "is not JSON",
}
"""Our words for pydantic's types of errors (https://docs.pydantic.dev/latest/errors/validation_errors/)."""


def problem_of(detail: Mapping[str, Any]) -> str:
    """Return the problem of a field, one of `ValidationError.errors`, as a sentence without a subject."""
    ours = _PROBLEMS.get(detail["type"])
    if ours is None:
        return str(detail["msg"]).removeprefix("Value error, ")
    return ours.format_map(detail.get("ctx") or {})


def first_problem(error: ValidationError) -> str:
    """Return the first wrong field and its problem, without the value: `run: is missing`."""
    first = error.errors(include_input=False, include_url=False)[0]
    # A value that is wrong as a whole has no field; its type says which one is meant.
    whole = first.get("ctx", {}).get("class_name", "")
    where = ".".join(str(part) for part in first["loc"]) or whole
    return f"{where}: {problem_of(first)}" if where else problem_of(first)


def printable(text: str) -> str:
    """Remove control characters except line ends, because they could control a terminal."""
    spaced = _OTHER_SPACES.sub(" ", text)
    return "".join(char for char in spaced if char == "\n" or char.isprintable()).strip()


def last_lines(text: str, length: int) -> str:
    """Return the printable end of a text, at most `length` characters, from a line's start if one is near."""
    plain = printable(text)
    if len(plain) <= length:
        return plain
    end = plain[len(plain) - length + 1 :]
    first, found, rest = end.partition("\n")
    return f"…{rest if found and len(first) < length // 2 else end}"


def beginning(text: str, length: int) -> str:
    """Return at most `length` characters of the text, and `…` if there were more."""
    return text if len(text) <= length else text[:length] + ("…" if length else "")


def one_line(text: str, length: int) -> str:
    """Return the text on one line: at most `length` characters, and `…` if there were more."""
    return beginning(" ".join(text.split()), length)


def fenced(mark: str, title: str, text: str) -> str:
    """Return a text as data for a model, between marks that the text's author cannot know."""
    return f"<<<{mark} {title}\n{text}\n{mark}>>>"


def safe(value: str, limit: int = _SAFE_LENGTH) -> str:
    """Make foreign text safe for logs and answers: escape control characters and surrogates, and cut it.

    Returns:
        at most `limit` characters. An escaped character counts as several.
    """
    shown = escaped(value[: limit + 1])
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def escaped(text: str) -> str:
    """Return the text on one line: control characters and surrogates are escaped."""
    if text.isprintable():  # true for nearly all texts, and then there is nothing to escape
        return text
    return text.encode("utf-8", "backslashreplace").decode("utf-8").translate(_CONTROL)

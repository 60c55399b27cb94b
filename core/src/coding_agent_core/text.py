"""Makes foreign text fit to show: without control characters, short, and inert. Pure.

Forges execute text with the rights of the account that wrote it, which is ours. So all text that can reach a
comment, the title or description of a change, or a commit's message goes through `inline`, `quotation` or
`quoted_code`. If text would have an effect, a zero width space after its first characters breaks it but
leaves it readable. Several lines become a quotation, in which no line is a command. The rules of all forges
apply everywhere. The vendors document which text has an effect:

- On one forge: `active_text` and `active_blocks` of its `PlatformFacts`.
- Azure Pipelines: *Skipping CI for individual pushes*. Jira: *Process work items with smart commits*.
- All forges render Markdown first: character references and HTML become text with an effect, or hide it.
  Images are fetched when they are shown, and could send what the model has read to the image's server.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from coding_agent_core.registry import FACTS

_OTHER_SPACES = re.compile(r"[\t\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")
BREAK = "\u200b"
"""ZERO WIDTH SPACE: it has no width, and belongs to no name, number, keyword or address."""
_ACTIVE = re.compile(
    "|".join(
        (
            r"@(?=\S)",  # mentions, also owner@commit
            r"\#(?=[^\s#])",  # references to items; smart commits: PROJ-1 #close
            r"\[(?=[^\]\n]{0,80}(?:skip|no[ _-]?ci))",  # [skip ci], [ci skip], [no ci], [skip azurepipelines]
            r"\bno_(?=ci\b)",  # ***NO_CI***
            r"&(?=\#?\w{1,40};)",  # character references: &#64; is an @
            r"<(?=[a-z/!?])",  # HTML, its comments, <https://...>
            r"!(?=\[)",  # images
            *(pattern for facts in FACTS.values() for pattern in facts.active_text),
        )
    ),
    re.IGNORECASE,
)
_BLOCK = re.compile(
    "|".join((r"``(?=`)", r"~~(?=~)", *(block for facts in FACTS.values() for block in facts.active_blocks)))
)
"""The beginnings of fences, and of similar blocks of the forges."""


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
    """Return what is wrong with a field: one of `ValidationError.errors` as a sentence without subject."""
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


def inline(text: str) -> str:
    """Return the text on one line, for places without quotation: a title, our own sentence, a subject."""
    return _BLOCK.sub(_broken, _plain(" ".join(text.split())))


def quotation(text: str) -> str:
    """Return the text as a Markdown quotation that renders its own Markdown; empty if the text is empty."""
    plain = _plain(text)
    return _quoted(plain.split("\n")) if plain else ""


def quoted_code(text: str) -> str:
    """Return the text as a code block in a quotation; its Markdown is not rendered or able to end it."""
    lines = [_BLOCK.sub(_broken, line) for line in _plain(text).split("\n")]
    return _quoted(["```", *lines, "```"])


def fenced(mark: str, title: str, text: str) -> str:
    """Return a text as data for a model, between marks that the text cannot know."""
    return f"<<<{mark} {title}\n{text}\n{mark}>>>"


def _plain(text: str) -> str:
    # Invisible characters are removed first, because the text that they separate could then have an effect.
    visible = printable("\n".join(text.expandtabs(4).splitlines()))
    return _ACTIVE.sub(_broken, visible)


def _broken(found: re.Match[str]) -> str:
    return found[0] + BREAK


def _quoted(lines: list[str]) -> str:
    return "\n".join(f"> {line}".rstrip() for line in lines)

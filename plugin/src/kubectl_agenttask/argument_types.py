"""Reads the values of the command line; each function fits `type=` of argparse. Pure.

The shell's completion imports this module at each TAB, so it imports little.
"""

from __future__ import annotations

import re
from argparse import ArgumentTypeError
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from difflib import get_close_matches
from enum import StrEnum
from typing import TYPE_CHECKING

from coding_agent_core.task.reasons import REASONS

if TYPE_CHECKING:
    from coding_agent_core.task.usage import Allowance

FORMS = "the name of a task, owner/repo#12, group/project!3, or the address of the item"
_UNITS = {
    "d": timedelta(days=1),
    "h": timedelta(hours=1),
    "m": timedelta(minutes=1),
    "s": timedelta(seconds=1),
}
_DURATION = re.compile(r"(?:\d{1,5}[dhms]){1,4}")
_LONGEST = timedelta(days=3650)


class Format(StrEnum):
    """A format for `-o`. Without it, a command prints a table or a sentence."""

    JSON = "json"
    YAML = "yaml"
    NAME = "name"
    WIDE = "wide"
    """A table with more columns."""


OBJECTS = (Format.JSON, Format.YAML, Format.NAME)
"""The formats that print stored objects. All commands that show tasks have them."""


def similar(name: str, names: Iterable[str]) -> list[str]:
    """Return at most three of the names that a person may have meant: a part of the name is a good hint."""
    known = list(names)
    close = [*(one for one in known if name in one), *get_close_matches(name, known)]
    return list(dict.fromkeys(close))[:3]


def day(text: str) -> datetime:
    """Return the beginning of a day (UTC)."""
    try:
        return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError as error:
        raise ArgumentTypeError(f"{text!r} is not a day; write for example 2026-11-01") from error


def duration(text: str) -> timedelta:
    """Return a length of time such as `90s`, `30m`, `6h`, `1h30m` or `7d`, of at most ten years."""
    parts = re.findall(r"(\d+)([dhms])", text) if _DURATION.fullmatch(text) else []
    if not parts:
        raise ArgumentTypeError(f"{text!r} is not a length of time; write for example 30m, 6h, 1h30m or 7d")
    total = sum((int(number) * _UNITS[unit] for number, unit in parts), timedelta())
    if total > _LONGEST:
        raise ArgumentTypeError(f"{text} is longer than {_LONGEST.days}d")
    return total


def reason(text: str) -> str:
    """Return the reason of a failed task as it is spelled in statuses; letter case is ignored."""
    known = {one.lower(): str(one) for one in REASONS}
    if text.lower() in known:
        return known[text.lower()]
    close = [known[one] for one in similar(text.lower(), known)]
    hint = f": did you mean {' or '.join(close)}?" if close else "; docs/troubleshooting.md lists the reasons"
    raise ArgumentTypeError(f"{text!r} is not a reason{hint}")


def budget(text: str) -> Allowance:
    """Return an allowance such as `2.50 USD` or `200000 tokens`."""
    from coding_agent_core.task.usage import Allowance  # noqa: PLC0415  # imports Pydantic

    number, unit = re.fullmatch(r"\s*([0-9.]*)\s*(.*?)\s*", text, re.DOTALL).groups()  # type: ignore[union-attr]
    try:
        if unit.lower() in ("token", "tokens"):
            return Allowance(tokens=int(number))
        return Allowance(amount=Decimal(number), currency=unit)
    except (ValueError, InvalidOperation):
        raise ArgumentTypeError(
            f"{text!r} is not a budget: write for example '2.50 USD' or '200000 tokens'"
        ) from None


def between(least: int, most: int) -> Callable[[str], int]:
    """Return a reader of whole numbers within bounds, which are those of crds/agenttask.yaml."""

    def number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise ArgumentTypeError(f"{text!r} is not a whole number") from None
        if not least <= value <= most:
            raise ArgumentTypeError(f"{value} is not between {least} and {most}")
        return value

    return number


def repository(text: str) -> str:
    """Return the path of a repository, which has an owner or a group."""
    if "/" not in text.strip("/"):
        raise ArgumentTypeError(f"{text!r} is not a repository: give OWNER/REPO, as `list` shows it")
    return text


positive = between(1, 2**53)
priority = between(-1000, 1000)

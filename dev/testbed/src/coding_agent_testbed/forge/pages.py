"""Pages of a list: both forges number them from 1 and link to the next one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

T = TypeVar("T")


@dataclass(frozen=True)
class Page(Generic[T]):
    """One page of a list, and where in the list it is."""

    items: Sequence[T]
    number: int
    size: int
    total: int

    @property
    def last(self) -> int:
        """Number of the last page, at least 1."""
        return max(1, -(-self.total // self.size))

    def links(self, url: str) -> str:
        """The `Link` header for a request's own URL (RFC 8288), empty on an only page."""
        numbers = {
            "prev": self.number - 1 if self.number > 1 else None,
            "next": self.number + 1 if self.number < self.last else None,
            "first": 1 if self.number > 1 else None,
            "last": self.last if self.number < self.last else None,
        }
        return ", ".join(
            f'<{_with_page(url, number)}>; rel="{rel}"' for rel, number in numbers.items() if number
        )


def paginate(everything: Sequence[T], query: dict[str, str], *, size: int) -> Page[T]:
    """The page that a query asks for: `page`, and `per_page` up to 100; `size` unless told."""
    per_page = min(100, max(1, _number(query.get("per_page"), size)))
    page = max(1, _number(query.get("page"), 1))
    start = (page - 1) * per_page
    return Page(everything[start : start + per_page], page, per_page, len(everything))


def _number(text: str | None, default: int) -> int:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 10 else default


def _with_page(url: str, number: int) -> str:
    parts = urlsplit(url)
    query = [pair for pair in parse_qsl(parts.query, keep_blank_values=True) if pair[0] != "page"]
    return urlunsplit(parts._replace(query=urlencode([*query, ("page", str(number))])))
